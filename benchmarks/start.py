"""Seconds until a program has answered: what there is, what was mistyped.

    python benchmarks/start.py

Whole processes, from the call to the exit, the files in the page cache; the median of three.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common import Row, run

ROOT = Path(__file__).parents[1]

#: What is called, exit code, what must be said, seconds to reach.
COMMANDS = [
    (["train.py", "--help"], 0, "gat, gcn,", 2.0),
    (["train.py", "model/tower=gtt"], 2, "1. model/tower: there is no 'gtt'.", 5.0),
    (["-m", "graphgpt", "ls"], 0, "graph_transformer", 1.0),
]


def seconds(command: list[str], code: int, said: str) -> float:
    """Of one process, which must leave with ``code`` and say ``said``."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode != code or said not in done.stdout + done.stderr:
        raise SystemExit(f"{' '.join(command)}: expected exit code {code} and '{said}', found {done.returncode} and:\n{done.stderr}")
    return taken


def measure(options: argparse.Namespace) -> Iterator[Row]:
    for command, code, said, target in COMMANDS:
        if not options.small:
            seconds(command, code, said)  # the files come into the page cache
        taken = statistics.median(seconds(command, code, said) for _ in range(1 if options.small else 3))
        name = " ".join(command).replace("-m graphgpt", "graphgpt")
        yield Row(
            benchmark=f"start: {name}",
            what="seconds",
            ours=taken,
            reference=None,
            measured=taken,
            target=target,
            at_most=True,
            same=f"exit code {code}, the answer",
        )


if __name__ == "__main__":
    run(measure, __doc__)
