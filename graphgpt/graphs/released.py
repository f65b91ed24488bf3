"""The files that GraphGPT's authors released: where they lie, and the graph file among them, read without trusting it."""

import difflib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphgpt.errors import DataError, amount, first_line, with_article
from graphgpt.files.atomic import atomic_folder, cache_dir, file_sha256, fingerprint
from graphgpt.graphs.stored import Stored, dense_tensor, edge_tensor, load_stored

log = logging.getLogger(__name__)

HUB = "hub:"

#: What is kept of a graph: per node, and the edges.
NODE_FIELDS = ("x", "y", "train_mask", "val_mask", "test_mask")
EDGES = "edge_index"


def file_problems(name: str, key: str) -> list[str]:
    """What is wrong with a file's name and can be seen without a network: one sentence, naming the config key."""
    if name.startswith(HUB):
        if len(name.removeprefix(HUB).split("/")) < 3:
            return [f"{key}={name}: expected hub:OWNER/REPOSITORY/FILE, a file of a dataset on the hub."]
        return []
    path = Path(name).expanduser()
    if path.is_file():
        return []
    near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*")], n=1)
    return [f"{key}={name}: there is no such file." + (f" Did you mean '{near[0]}'?" if near else "")]


def locate(name: str, key: str) -> Path:
    """The local path of a file that a config names, downloaded (once) where it lies on the hub.

    Args:
        name: A path, or ``hub:OWNER/REPOSITORY/FILE``.
        key: The config key, for messages.

    Raises:
        DataError: the hub does not give it; the message says which file to get from where.
    """
    if not name.startswith(HUB):
        return Path(name).expanduser()
    import huggingface_hub
    from huggingface_hub.constants import ENDPOINT

    owner, repository, file = name.removeprefix(HUB).split("/", 2)
    try:
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", file, repo_type="dataset"))
    except (OSError, ValueError) as error:  # no network, no such file or repository, a name that cannot be one
        raise DataError(
            f"{key}: the hub does not give {name} ({first_line(error).rstrip('.')}); get {file} from "
            f"{ENDPOINT}/datasets/{owner}/{repository} and set {key} to the path where it lies."
        ) from error


def stamp(path: Path) -> str:
    """Identifies a file without reading it: path, size and time of the last change."""
    status = path.stat()
    return fingerprint(str(path.resolve()), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class GraphFile:
    """What a graph file holds.

    Args:
        path: The file as released.
        fingerprint: Of its content.
        graphs: By graph key the tensors that it has of ``x`` [n, d] float32, ``y`` [n] int64, ``edge_index`` [2, e] int64, and
            ``train_mask``, ``val_mask``, ``test_mask`` [n] bool; ``x`` is always there. Memory-mapped.
    """

    path: Path
    fingerprint: str
    graphs: dict[str, dict[str, Tensor]]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of nodes by graph key."""
        return {key: len(tensors["x"]) for key, tensors in self.graphs.items()}


def open_graph_file(path: Path) -> GraphFile:
    """Open a graph file: ``torch.save`` of ``{key: torch_geometric Data}``, converted to safetensors once.

    Neither torch_sparse nor the version of PyG that wrote the file is needed, and nothing in it is executed: of the classes
    it names only those of ``_STAND_INS`` are taken, as mere bags of attributes.

    Raises:
        DataError: the file names anything else, is damaged, or is no such dictionary.
    """
    folder = cache_dir() / "released_graphs" / f"{path.stem}-{fingerprint(file_sha256(Path(__file__)), stamp(path))}"
    if not (folder / "card.json").is_file():
        log.info("Converting the graph file %s (once) ...", path)
        graphs = _convert(path)
        with atomic_folder(folder) as tmp:
            named = {f"{key}/{name}": tensor for key, tensors in graphs.items() for name, tensor in tensors.items()}
            save_file(named, tmp / "graphs.safetensors")
            (tmp / "card.json").write_text(json.dumps({"fingerprint": file_sha256(path)[:16]}), encoding="utf-8")
    graphs = {}
    try:
        for name, tensor in load_file(folder / "graphs.safetensors").items():
            key, _, field = name.rpartition("/")
            graphs.setdefault(key, {})[field] = tensor
        of_content = json.loads((folder / "card.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        raise DataError(f"{folder} is damaged ({first_line(error)}); delete it to have it made again.") from error
    return GraphFile(path=path, fingerprint=of_content, graphs=graphs)


def _convert(path: Path) -> dict[str, dict[str, Tensor]]:
    loaded = load_stored(path, "a file of graphs")
    expected = "expected a dictionary of graphs by name, as torch.save({'cora': data}, file) writes it"
    if isinstance(loaded, Stored):
        raise DataError(f"{path}: {expected}, found one graph; its name is what stands before the first '_' in the records' ids.")
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(key, str) for key in loaded):
        found = f"a dictionary with the keys {list(loaded)[:5]}" if isinstance(loaded, dict) else with_article(type(loaded).__name__)
        raise DataError(f"{path}: {expected}, found {found}.")
    return {key: _tensors(value, f"{path}, graph '{key}'") for key, value in loaded.items()}


def _tensors(stored: Any, where: str) -> dict[str, Tensor]:
    fields = stored.fields if isinstance(stored, Stored) else stored
    if not isinstance(fields, dict):
        raise DataError(f"{where}: expected a torch_geometric Data object, found {with_article(type(stored).__name__)}.")
    try:
        x = dense_tensor(fields.get("x"))
        if x.ndim != 2 or not x.numel():
            raise ValueError(f"{x.dtype} of shape {list(x.shape)}")
    except (ValueError, RuntimeError) as error:
        found = "nothing" if fields.get("x") is None else first_line(error)
        raise DataError(f"{where}: expected node features x of shape [nodes, features], found {found}.") from error
    kept = {"x": x.float()}
    if not torch.isfinite(kept["x"]).all():
        node, column = (~torch.isfinite(kept["x"])).nonzero()[0].tolist()
        raise DataError(f"{where}: x holds {x[node, column].item()} (node {node}, column {column}), expected finite numbers.")
    for name in NODE_FIELDS[1:]:
        value = fields.get(name)
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and value.numel() == len(x):
            kept[name] = value.reshape(-1).to(torch.int64 if name == "y" else torch.bool)
    if (edges := _edges(fields.get(EDGES), len(x), where)) is not None:
        kept[EDGES] = edges
    # Copies: two fields may be views of one storage, which safetensors does not store.
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in kept.items()}


def _edges(value: Any, num_nodes: int, where: str) -> Tensor | None:
    """Edges [2, e] from a tensor or a torch_sparse matrix, which has a row per edge or, compressed, a start per row."""
    if value is None:
        return None
    try:
        edges = edge_tensor(value)
    except (ValueError, RuntimeError) as error:
        expected = "expected edge_index of shape [2, edges], of integers, or a sparse matrix"
        raise DataError(f"{where}: {expected}, found {first_line(error)}.") from error
    if wrong := edges[(edges < 0) | (edges >= num_nodes)].tolist():
        raise DataError(f"{where}: edge_index names the node {wrong[0]}, but x has {amount(num_nodes, 'row')}.")
    return edges
