"""The library of adapters and that of few bits, imported without what would come along."""

import contextlib
import logging
import sys
from typing import Any


def peft() -> Any:
    """The package ``peft``, imported when it is first needed."""
    import_bitsandbytes()  # or peft would
    import peft

    return peft


def import_bitsandbytes() -> None:
    """Import bitsandbytes, where it is installed, without a look at the network.

    On processors with AVX-512 it fetches a kernel for 4-bit weights from a model hub or, where the package ``kernels`` is missing for
    that, says so in the terminal. It does without, and most runs have no such weights.
    """
    if "bitsandbytes" in sys.modules:
        return
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    modules: dict[str, Any] = sys.modules
    hidden = {name: modules.pop(name) for name in [*modules] if name.partition(".")[0] == "kernels"}
    modules["kernels"] = None  # an import of it fails
    try:
        with contextlib.suppress(ImportError):
            import bitsandbytes  # noqa: F401
    finally:
        del modules["kernels"]
        modules.update(hidden)
