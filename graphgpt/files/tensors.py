"""Tensors in files of any of the usual forms, read by name and only as many at a time as are asked for."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graphgpt.errors import CheckpointError, DataError, GraphGPTError, first_line, nearest, with_article
from graphgpt.files.records import read_record
from graphgpt.files.untrusted import load_untrusted

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LONE = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pkl", ".pt", ".pth", ".ckpt")
#: What trainers leave beside the weights and is none.
NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")


class Spec(NamedTuple):
    """Shape and dtype of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Tensors(Protocol):
    """Named tensors, wherever they lie."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """All of them, in the order in which reading them is cheapest."""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some of them, on the CPU."""


class TensorFiles:
    """Tensors of one file, of a sharded model's index, or of a folder that holds either.

    Files are memory-mapped for the length of one :meth:`read`, so that memory grows with what is asked for at a time and
    not with the files. (What torch wrote before version 1.6 cannot be mapped: there it is one file at a time.)

    Args:
        path: A file of safetensors or of ``torch.save`` (told apart by content), an ``.index.json``, or a folder.

    Raises:
        DataError: there is no such file, it is damaged or incomplete, or reading it would run code.
    """

    def __init__(self, path: Path) -> None:
        self.path = tensor_file(path)
        self.files = _shards(self.path) if self.path.name.endswith(".index.json") else {self.path: None}
        self.specs: dict[str, Spec] = {}
        self._file_of: dict[str, Path] = {}
        for file, names in self.files.items():
            found = _open(file)
            for name in names if names is not None else found:
                if name not in found:
                    raise DataError(f"{file} has no '{name}', which {self.path.name} says is in it.")
                self.specs[name] = Spec(tuple(found[name].shape), found[name].dtype)
                self._file_of[name] = file

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.path.parent

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._file_of[name], []).append(name)
        return {name: tensor for file, wanted in by_file.items() for name, tensor in _pick(_open(file), wanted)}


def load_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file of ours, in memory.

    Raises:
        CheckpointError: it is missing or damaged, or is none.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing.")
    try:
        return {name: tensor.clone() for name, tensor in _open(file).items()}
    except DataError as error:
        raise CheckpointError(str(error)) from error


class TensorDict:
    """Tensors that are in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.specs = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        return dict(_pick(self.tensors, names))


def groups(specs: Mapping[str, Spec], limit: int) -> list[list[str]]:
    """Names in groups of at most ``limit`` bytes, in their order; a larger tensor makes a group of its own."""
    found: list[list[str]] = []
    size = limit
    for name, spec in specs.items():
        if size + spec.bytes > limit or not found:
            found.append([])
            size = 0
        found[-1].append(name)
        size += spec.bytes
    return found


def tensor_file(path: Path) -> Path:
    """The file of tensors, or the index of several, that ``path`` is or, for a folder, holds.

    Raises:
        DataError: there is none, or more than one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        near = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(f"{path} does not exist. {nearest(path.name, near)}".rstrip())
    for name in (*INDEXES, *LONE):
        if (path / name).is_file():
            return path / name
    files = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES and file.name not in NO_WEIGHTS)
    if len(files) == 1:
        return path / files[0]
    found = f"several files ({', '.join(files[:4])}{', ...' if len(files) > 4 else ''}): name one" if files else "no weights"
    raise DataError(f"{path} holds {found}; expected {', '.join((*INDEXES, *LONE))}, or one file ending in {', '.join(SUFFIXES)}.")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: the file is none.
    """
    return read_record(file, dict[str, Any], "JSON settings", DataError)


def _shards(index: Path) -> dict[Path, list[str] | None]:
    """Names of tensors by file, as an index says; files that are missing or elsewhere are refused."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise DataError(f"{index} is no index of a sharded model: it has no 'weight_map' of file names.")
    shards: dict[Path, list[str] | None] = {}
    for name in sorted(places, key=lambda name: places[name]):
        file = places[name]
        if Path(file).name != file:
            raise DataError(f"{index} is refused: it places '{name}' in '{file}', outside its folder.")
        if not (index.parent / file).is_file():
            raise DataError(f"{index.parent} is incomplete: {file} is missing, which {index.name} names.")
        names = shards.setdefault(index.parent / file, [])
        assert names is not None
        names.append(name)
    return shards


class _Settings(dict[str, Any]):
    """Stands in for the containers in which trainers keep settings: holds what is put in, and none of their code runs."""


_STAND_INS = dict.fromkeys(
    (
        "argparse.Namespace",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    ),
    _Settings,
)


def _open(file: Path) -> dict[str, Tensor]:
    """All tensors of one file, mapped."""
    with file.open("rb") as stream:
        head = stream.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
        try:
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file} is damaged ({first_line(error)}).") from error
    if file.suffix == ".safetensors":
        raise DataError(f"{file} is damaged, or not written by safetensors.")
    loaded = load_untrusted(file, "a file of weights", _STAND_INS)
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise DataError(f"{file}: expected a dictionary of tensors by name, found {with_article(type(loaded).__name__)}.")
    tensors = {name: value.detach() for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            kind = "quantised" if tensor.is_quantized else "without numbers" if tensor.is_meta else "sparse or nested"
            raise DataError(f"{file}: '{name}' is {kind}; expected plain tensors, with every number in its place.")
    return tensors


def _pick(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of these names, contiguous; of two that share memory the second is a copy, for safetensors stores no such pair."""
    seen: set[int] = set()
    for name in names:
        tensor = tensors[name].detach()
        place = tensor.data_ptr()
        yield name, tensor.clone() if tensor.numel() and place in seen else tensor.contiguous()
        seen.add(place)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``512MB`` or ``2GB`` (powers of 1000, as model hubs count).

    Raises:
        GraphGPTError: it is none.
    """
    number, unit = text[:-2], text[-2:].upper()
    scale = {"KB": 10**3, "MB": 10**6, "GB": 10**9}.get(unit)
    if scale is None or not number.strip().isdigit() or int(number) == 0:
        raise GraphGPTError(f"'{text}' is no size; expected such as 512MB or 2GB.")
    return int(number) * scale
