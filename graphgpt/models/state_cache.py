"""States of inputs that a frozen tower has encoded already, by the inputs' keys: in memory, and by choice on disk."""

import contextlib
import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphgpt.files.atomic import cache_dir, fingerprint_of

log = logging.getLogger(__name__)

#: Where states are kept.
Where = Literal["none", "memory", "disk"]


class StateCache:
    """States by key, at most so many bytes of them in memory, the least recently asked for going first.

    A copy that goes to another process, with what prepares inputs, is empty.

    Args:
        where: ``none`` keeps nothing, ``disk`` keeps each in a file too.
        limit: Bytes in memory.
        tower: Identifies the tower, whose states these are; those of another are never found.
    """

    def __init__(self, where: Where, limit: int, tower: str) -> None:
        self.where = where
        self.limit = limit
        self.tower = tower
        self._states: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_states": OrderedDict(), "_bytes": 0}

    def __contains__(self, key: str) -> bool:
        return key in self._states or (self.where == "disk" and self._file(key).is_file())

    def get(self, key: str) -> Tensor | None:
        """The states of an input, shape ``[n, d]``, on the processor; None where they are not kept."""
        if key in self._states:
            self._states.move_to_end(key)
            return self._states[key]
        if self.where != "disk" or not (file := self._file(key)).is_file():
            return None
        try:
            states = load_file(file)["states"]
        except (SafetensorError, KeyError, OSError) as error:
            log.warning("%s is damaged (%s), and is made again.", file, type(error).__name__)
            file.unlink(missing_ok=True)
            return None
        self._remember(key, states)
        return states

    def put(self, keys: Sequence[str], states: Sequence[Tensor]) -> None:
        """Keep the states of inputs, each of shape ``[n, d]``."""
        if self.where == "none":
            return
        for key, own in zip(keys, states, strict=True):
            kept = own.detach().to("cpu", copy=True)
            self._remember(key, kept)
            if self.where == "disk":
                self._write(self._file(key), kept)

    def _remember(self, key: str, states: Tensor) -> None:
        if key in self._states:
            self._bytes -= self._states.pop(key).nbytes
        self._states[key] = states
        self._bytes += states.nbytes
        while self._bytes > self.limit and self._states:
            self._bytes -= self._states.popitem(last=False)[1].nbytes

    def _file(self, key: str) -> Path:
        # A folder per two digits: a folder of a million files is slow.
        return cache_dir() / "states" / self.tower / key[:2] / f"{key}.safetensors"

    @staticmethod
    def _write(file: Path, states: Tensor) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            save_file({"states": states.contiguous()}, partial)
            partial.replace(file)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def tower_fingerprint(tower: torch.nn.Module, *settings: object) -> str:
    """Identifies a tower's weights, all of their values, and what else its states depend on."""
    state = tower.state_dict()
    values = ((name, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()) for name, tensor in state.items())
    return fingerprint_of(itertools.chain(itertools.chain.from_iterable(values), map(str, settings)))
