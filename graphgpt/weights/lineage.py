"""``graphgpt weights show``: what a checkpoint is, what it was made from, and how well it does."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphgpt.checkpoints.card import read_scores
from graphgpt.checkpoints.folder import MANIFEST, find_checkpoint, read_manifest
from graphgpt.errors import CheckpointError, amount
from graphgpt.files.atomic import file_sha256
from graphgpt.files.tensors import TensorFiles
from graphgpt.machine.installation import typed
from graphgpt.models.parts import modalities_of
from graphgpt.models.tower import TOWER_CARD, TOWER_TENSORS, find_tower, tower_card
from graphgpt.registry import TASKS


def show(path: Path, console: Console | None = None) -> None:
    """Print the lineage, files, fingerprints and scores of a run, a checkpoint or a folder of tower weights.

    Raises:
        CheckpointError: it is none of these.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    if (path / TOWER_CARD).is_file() and not (path / MANIFEST).is_file():
        for line in _tower(path):
            console.print(escape(line))
        console.print(_files(path, [TOWER_TENSORS]))
        return
    folder = find_checkpoint(path)
    manifest = read_manifest(folder)
    for line in lineage(folder, manifest):
        console.print(escape(line))
    llm = manifest["llm"]
    facts = Table(box=None, show_header=False, pad_edge=False)
    if llm:
        facts.add_row("language model", escape(manifest["model"]["llm"]["path"]))
        facts.add_row("  fingerprint", llm["fingerprint"] or "not known, and so not checked")
        facts.add_row("  hidden size, vocabulary", f"{llm['hidden_size']}, {llm['vocabulary'] or 'not known'}")
    data = manifest.get("data", {})
    facts.add_row("graph", f"{escape(str(data.get('name')))}, fingerprint {data.get('fingerprint') or 'not known'}")
    facts.add_row("manifest", f"sha256 {file_sha256(folder / MANIFEST)[:16]}")
    console.print(facts)
    console.print(_files(folder, list(manifest["files"])))
    for score in read_scores(folder):
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in score["metrics"].items())
        console.print(escape(f"{score['task']} on {amount(score['items'], score['split'] + ' item')} of {score['graph']}: {metrics}"))
    if not read_scores(folder) and TASKS.get(manifest["task"]).asks:
        console.print(escape("no scores yet: " + typed("evaluate", f"checkpoint={path}")))


def lineage(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """A checkpoint and, line by line and further in, what it was made from, as far as that is still there."""
    depth, seen = 0, {folder.resolve()}
    yield f"{manifest['task']}  {folder}  ({manifest['created']})"
    while True:
        depth += 1
        before = "   " * depth + "<- "
        if imported := manifest.get("imported"):
            yield f"{before}{imported['kind']}, imported from {imported['path']} (sha256 {imported['sha256'][:16]})"
        for modality, parts in modalities_of(manifest["model"]).items():
            if weights := parts["tower"].get("init_from"):
                there = _tower_folder(weights, modality)
                yield from (before + line for line in _tower(there)) if there else [f"{before}tower  {weights}  (not there any more)"]
        if not (parent := manifest.get("parent")):
            return
        path = Path(parent["path"])
        state = _state(path, parent["sha256"])
        yield f"{before}{parent['task']}  {path}  ({state or parent['created']})"
        if state is not None or path.resolve() in seen:
            return
        seen.add(path.resolve())
        manifest = read_manifest(path)


def _state(folder: Path, sha256: str) -> str | None:
    """Why a parent cannot be followed; None where it is there as it was."""
    if not (folder / MANIFEST).is_file():
        return "not there any more"
    return None if file_sha256(folder / MANIFEST) == sha256 else "changed since"


def _tower_folder(weights: str, modality: str) -> Path | None:
    """The folder of a tower's weights, None where there is none any more."""
    try:
        return find_tower(weights, modality)
    except CheckpointError:
        return None


def _tower(folder: Path) -> Iterator[str]:
    card = tower_card(folder)
    fields = ", ".join(f"{name} {value}" for name, value in card["tower"].items() if name != "name")
    yield f"tower {card['tower'].get('name')}  {folder}  ({fields}; reads {card['input_dim']} features per node)"
    if imported := card.get("imported"):
        yield f"   imported from {imported['path']} (sha256 {imported['sha256'][:16]})"


def _files(folder: Path, names: list[str]) -> Table:
    table = Table("file", "bytes", "numbers", "dtypes", box=None, pad_edge=False)
    total = 0
    for name in names:
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        total += size
        if not file.is_file():
            table.add_row(escape(name), "missing", "", "")
        elif file.suffix == ".safetensors":
            specs = TensorFiles(file).specs.values()
            count = sum(spec.bytes // spec.dtype.itemsize for spec in specs)
            dtypes = ", ".join(sorted({str(spec.dtype).removeprefix("torch.") for spec in specs}))
            table.add_row(escape(name), f"{size:,}", f"{count:,}", dtypes)
        else:
            table.add_row(escape(name), f"{size:,}", "", "")
    table.add_row("in all", f"{total:,}", "", "")
    return table
