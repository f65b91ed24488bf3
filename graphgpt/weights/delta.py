"""Differences between two models of one shape: what can be handed on where a base model itself may not be."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import TypedDict

from graphgpt.errors import CheckpointError, GraphGPTError, amount
from graphgpt.files.atomic import atomic_folder, write_json
from graphgpt.files.records import read_record
from graphgpt.files.tensors import TensorFiles, groups
from graphgpt.models.llm import fingerprint_of_samples, sample_tensor
from graphgpt.weights.base import Base, copy_all_companions
from graphgpt.weights.writer import SHARD, write_shards

CARD = "delta.json"

#: Of tensors with numbers.
Dtype = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


class Card(TypedDict):
    """``delta.json``."""

    base: str
    target: str
    dtypes: dict[str, Dtype]


def make_delta(base: Path, target: Path, out: Path, *, shard: int = SHARD, say: Callable[[str], None] = print) -> None:
    """Write ``target - base``, so that :func:`apply_delta` gives ``target`` back bit for bit.

    Rows that ``target`` has more of (new tokens), and tensors that ``base`` has not, are kept whole. A difference that the
    target's dtype cannot hold exactly is stored in a wider one.

    Args:
        base: Hugging Face folder of the base model.
        target: Hugging Face folder of the model trained from it.
        out: Folder to make, with the target's config and tokenizer and ``delta.json``: which base it is for, by fingerprint.
        shard: Bytes per file and, with the base's part, in memory.
        say: Is told what was made.

    Raises:
        GraphGPTError: ``out`` is there.
        CheckpointError: the models are not of one shape.
    """
    _refuse_taken(out)
    before, after = TensorFiles(base), TensorFiles(target)
    _check_shapes(before, after, base, target)
    dtypes: dict[str, str] = {}
    prints: dict[str, dict[str, list[Any]]] = {"base": {}, "target": {}}

    def read(names: Iterable[str]) -> dict[str, Tensor]:
        new = after.read(names)
        old = before.read(name for name in new if name in before.specs)
        prints["base"] |= {name: sample_tensor(tensor) for name, tensor in old.items()}
        prints["target"] |= {name: sample_tensor(tensor) for name, tensor in new.items()}
        found = {name: _difference(tensor, old.get(name)) for name, tensor in new.items()}
        dtypes.update({name: _name(new[name].dtype) for name, tensor in found.items() if tensor.dtype != new[name].dtype})
        return found

    with atomic_folder(out) as tmp:
        copy_all_companions(after.folder, tmp)
        write_shards(tmp, groups(after.specs, shard), read)
        write_json(tmp / CARD, {**{key: fingerprint_of_samples(value) for key, value in prints.items()}, "dtypes": dtypes})
    say(f"Wrote {out}: the difference of {amount(len(after.specs), 'tensor')}.")


def apply_delta(base: Path, delta: Path, out: Path, *, shard: int = SHARD, say: Callable[[str], None] = print) -> None:
    """Write ``base + delta`` as a Hugging Face folder; also for differences that others released without ``delta.json``.

    Raises:
        GraphGPTError: ``out`` is there.
        CheckpointError: the base is not the one that the difference was made with, or the result is not what it was made of.
    """
    _refuse_taken(out)
    before, change = TensorFiles(base), TensorFiles(delta)
    _check_shapes(before, change, base, delta)
    card = read_record(change.folder / CARD, Card, "what a difference is of") if (change.folder / CARD).is_file() else None
    dtypes = card["dtypes"] if card else {}
    if card is not None:
        found = _fingerprint(before, change.specs, shard)
        if found != card["base"]:
            raise CheckpointError(f"{base} is not the base that {delta} was made with (fingerprint {found}, expected {card['base']}).")
    else:
        say(f"{delta} has no {CARD}: whether {base} is the right base cannot be checked.")
    prints: dict[str, list[Any]] = {}

    def read(names: Iterable[str]) -> dict[str, Tensor]:
        changes = change.read(names)
        old = before.read(name for name in changes if name in before.specs)
        found = {
            name: _sum(tensor, old.get(name), getattr(torch, dtypes[name]) if name in dtypes else tensor.dtype)
            for name, tensor in changes.items()
        }
        prints.update({name: sample_tensor(tensor) for name, tensor in found.items()})
        return found

    with atomic_folder(out) as tmp:
        copy_all_companions(change.folder, tmp)
        write_shards(tmp, groups(change.specs, shard), read)
        if card is not None and (made := fingerprint_of_samples(prints)) != card["target"]:
            raise CheckpointError(f"{delta} on {base} gives fingerprint {made}, expected {card['target']}: one of them was changed.")
    say(f"Wrote {out}: {amount(len(change.specs), 'tensor')}.")


def _difference(new: Tensor, old: Tensor | None) -> Tensor:
    if old is None:
        return new
    for dtype in (new.dtype, torch.float32, torch.float64):
        wide = torch.float64 if dtype == torch.float64 or new.dtype == torch.float32 else torch.float32
        delta = (new.to(wide) - _grown(old, new.shape).to(wide)).to(dtype)
        if torch.equal(_sum(delta, old, new.dtype), new):
            break
    return delta


def _sum(delta: Tensor, old: Tensor | None, dtype: torch.dtype) -> Tensor:
    """In float64 where either is float32 or wider, so that adding rounds once; else in float32."""
    if old is None:
        return delta.to(dtype)
    wide = torch.float32 if max(delta.dtype.itemsize, old.dtype.itemsize, dtype.itemsize) < 4 else torch.float64
    return (_grown(old, delta.shape).to(wide) + delta.to(wide)).to(dtype)


def _grown(tensor: Tensor, shape: torch.Size) -> Tensor:
    """With rows of zeros up to the number asked for."""
    return tensor if tensor.shape == shape else torch.cat([tensor, tensor.new_zeros(shape[0] - len(tensor), *shape[1:])])


def _check_shapes(before: TensorFiles, after: TensorFiles, base: Path, other: Path) -> None:
    if missing := [name for name in before.specs if name not in after.specs and not name.endswith("rotary_emb.inv_freq")]:
        raise CheckpointError(
            f"{other} has no '{missing[0]}', which {base} has ({len(missing)} of {amount(len(before.specs), 'tensor')} missing)."
        )
    for name, spec in after.specs.items():
        old = before.specs.get(name, spec)
        if old.shape[1:] != spec.shape[1:] or len(old.shape) != len(spec.shape) or old.shape[:1] > spec.shape[:1]:
            raise CheckpointError(f"{other} has '{name}' of shape {list(spec.shape)}, {base} of {list(old.shape)}; only rows may be added.")


def _fingerprint(files: TensorFiles, names: Mapping[str, object], limit: int) -> str:
    common = {name: name for name in files.specs if name in names}
    return Base(files, common, limit=limit).fingerprint(tied=False)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuse_taken(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise GraphGPTError(f"{out} exists already; choose another name.")
