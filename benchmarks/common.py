"""What the benchmarks of ``make bench`` share: how two ways are timed beside each other, what a row of the table is, the command line."""

import argparse
import dataclasses
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        benchmark: Name of the file, and which of its cases.
        what: What is compared, such as "samples/s" or "MiB at most".
        ours: The product's figure.
        reference: That of the plain way; None where there is none.
        measured: What the target is about: a ratio of the two, or ``ours``.
        target: To be reached by ``measured``.
        at_most: Whether the target is a limit, not a goal to exceed.
        same: How it was seen that both compute the same.
    """

    benchmark: str
    what: str
    ours: float
    reference: float | None
    measured: float
    target: float
    at_most: bool = False
    same: str = ""

    @property
    def reached(self) -> bool:
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    @property
    def line(self) -> str:
        """A row of the Markdown table under ``HEADER``."""
        times = "" if self.reference is None else "x"
        goal = f"{'at most' if self.at_most else 'at least'} {number(self.target)}{times}"
        plain = "" if self.reference is None else number(self.reference)
        figures = [number(self.ours), plain, f"{number(self.measured)}{times}", goal]
        return f"| {' | '.join([self.benchmark, self.what, *figures, 'yes' if self.reached else '**no**', self.same])} |"


HEADER = "| benchmark | what | GraphGPT | plain | measured | to reach | reached | the same, for |\n|---|---|---|---|---|---|---|---|"


def number(value: float) -> str:
    """Three digits that count, with separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def alternate(*ways: Callable[[], Any], rounds: int = 3) -> list[list[float]]:
    """Seconds of each way in each round, the ways taking turns, so that another process's noise falls on all of them.

    The first call of each, which pays for what is made once, is not among them.
    """
    for way in ways:
        way()
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for taken, way in zip(seconds, ways, strict=True):
            gc.collect()
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    return seconds


def step_by_step(
    ours: Callable[[Any], Any], plain: Callable[[Any], Any], steps: Sequence[Any]
) -> tuple[list[float], list[float], list[Any]]:
    """Seconds that each way takes for each step, the ways taking turns at every step.

    What is made once is paid for by a step of one sample before.

    Returns:
        Seconds of ours and of the plain way, and what both returned, in pairs.
    """
    for way in (ours, plain):
        way(steps[0][:1])
    seconds: tuple[list[float], list[float]] = [], []
    results = []
    for step in steps:
        pair = []
        for way, taken in zip((ours, plain), seconds, strict=True):
            start = time.perf_counter()
            pair.append(way(step))
            taken.append(time.perf_counter() - start)
        results.append(pair)
    return *seconds, results


def faster(ours: list[float], plain: list[float]) -> float:
    """How many times as fast ours is: the median over the rounds of :func:`alternate`."""
    return statistics.median(p / o for o, p in zip(ours, plain, strict=True))


class Alive(TorchDispatchMode):
    """Counts bytes of the tensors that operations made and that are still there; ``peak`` is the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[Any, int]] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        for tensor in tree_leaves(result):
            # A view of what was there before, such as a weight, is nothing new.
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in given:
                self._forget(storage._cdata)
                if storage._cdata not in self.made:
                    self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self.bytes += storage.nbytes()
        if self.bytes > self.peak:  # perhaps: some of them may be gone
            for key in [*self.made]:
                self._forget(key)
            self.peak = max(self.peak, self.bytes)
        return result

    def _forget(self, key: int) -> None:
        """Count no more what is gone; another may have its place."""
        if key in self.made and self.made[key][0].expired():
            self.bytes -= self.made.pop(key)[1]


def peak_bytes(way: Callable[[], Any]) -> int:
    """Most bytes of tensors alive at a time that ``way`` makes, on the processor."""
    with Alive() as alive:
        way()
    return alive.peak


def run(measure: Callable[[argparse.Namespace], Iterator[Row]], doc: str | None, **options: Any) -> None:
    """The command line of a benchmark: rows as they come; with ``--json FILE`` there too.

    Args:
        measure: Yields the rows.
        doc: The benchmark's docstring.
        options: Further options with their defaults.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="only see that it runs: a tiny model, few and short samples")
    parser.add_argument("--json", type=Path, help="write the rows there")
    for name, default in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help="default: %(default)s")
    chosen = parser.parse_args()
    torch.set_num_threads(1 if chosen.small else os.cpu_count() or 1)
    print(HEADER)
    rows = []
    for row in measure(chosen):
        rows.append(row)
        print(row.line, flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1), encoding="utf-8")
