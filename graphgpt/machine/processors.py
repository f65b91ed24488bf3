"""How many processor threads a process may take."""

import os


def processors() -> int:
    """Of this machine, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(given: int | None = None, at_once: int = 1) -> int:
    """Threads for each of so many processes at once: as given, else an equal share, of which ``OMP_NUM_THREADS`` may leave less."""
    if given is not None:
        return given
    share = max(1, processors() // max(1, at_once))
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    # torchrun sets 1 by itself where nobody has said anything.
    if not limit.isdecimal() or int(limit) < 1 or (limit == "1" and "TORCHELASTIC_RUN_ID" in os.environ):
        return share
    return min(share, int(limit))
