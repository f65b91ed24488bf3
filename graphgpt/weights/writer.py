"""Models written as plain Hugging Face folders, one shard at a time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from graphgpt.files.atomic import write_json

#: So many bytes are in memory at a time, unless told otherwise.
SHARD = 512 * 10**6


def write_shards(
    folder: Path,
    names: Sequence[Sequence[str]],
    read: Callable[[Iterable[str]], Mapping[str, Tensor]],
    form: Literal["safetensors", "bin"] = "safetensors",
) -> None:
    """Write a model's tensors, with an index where there is more than one shard.

    Args:
        folder: An existing folder.
        names: What goes into each shard.
        read: Gives the tensors of a shard, perhaps under other names.
        form: safetensors, or what ``torch.save`` writes, for programs that know nothing else.
    """
    stem, suffix = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    places: dict[str, str] = {}
    total = 0
    for number, group in progress(names, f"Writing {folder.name.strip('.').partition('.')[0]}"):
        file = f"{stem}-{number:05d}-of-{len(names):05d}.{suffix}" if len(names) > 1 else f"{stem}.{suffix}"
        tensors = dict(read(group))
        if form == "safetensors":
            save_file(tensors, folder / file, metadata={"format": "pt"})
        else:
            # A copy each: torch.save would write the whole storage of a view.
            torch.save({name: tensor.clone() for name, tensor in tensors.items()}, folder / file)
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(names) > 1:
        write_json(folder / f"{stem}.{suffix}.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def progress(groups: Sequence[Sequence[str]], what: str) -> Iterable[tuple[int, Sequence[str]]]:
    """Groups with their number from 1, behind a progress bar where there are several and a terminal."""
    from rich.progress import track

    console = Console(stderr=True)
    return track(list(enumerate(groups, start=1)), what, console=console, disable=len(groups) < 2 or not console.is_terminal)
