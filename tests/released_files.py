"""Files in exactly the layouts that GraphGPT's authors released, made anew: records, and a graph file with a torch_sparse matrix."""

import json
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphgpt.datasets.graphgpt_json import GraphgptJson
from graphgpt.graphs.released import GraphFile, open_graph_file
from graphgpt.registry import TASKS

FEATURES = 8
SIZES = {"arxiv": 600, "pubmed": 19_717, "cora": 400}

OWN = "with the following information: \nAbstract: {abstract} \n Title: {title} \n Question: "
NEIGHBORS = (
    "Given a citation graph: \n<graph>\nwhere the 0th node is the target paper, and other nodes are its one-hop or multi-hop neighbors, "
)

PUBMED: dict[str, Any] = {
    "id": "pubmed_test_10",
    "graph": {
        "node_idx": 10,
        "edge_index": [
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 1, 14, 0, 15, 16, 17, 18, 19, 20],
            [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        ],
        "node_list": [
            *(10, 3878, 15581, 8554, 12388, 3515, 11983, 16894, 3185, 10852, 10624, 19410, 19510, 8307, 11041, 6869, 4384),
            *(6023, 15915, 12233, 304),
        ],
    },
    "conversations": [
        {
            "from": "human",
            "value": NEIGHBORS + OWN.format(abstract="...", title="...") + "Which case of Type 1 diabetes, Type 2 diabetes, or "
            "Experimentally induced diabetes does this paper involve? Please give one answer of either Type 1 diabetes, Type 2 diabetes, "
            "or Experimentally induced diabetes directly. ",
        },
        {"from": "gpt", "value": "Experimentally induced diabetes"},
    ],
}

ARXIV: dict[str, Any] = {
    "id": "arxiv_train_100",
    "graph": {"node_idx": 100, "edge_index": [[1, 2, 0], [0, 0, 2]], "node_list": [100, 7, 599]},
    "conversations": [
        {
            "from": "human",
            "value": NEIGHBORS
            + OWN.format(abstract="We study gloves that type — on paper.", title="Typing in the air")
            + "Which arXiv CS sub-category does this paper belong to? Give the most likely arXiv CS sub-categories of this paper directly, "
            'in the form "cs.XX" with full name of the category.',
        },
        {"from": "gpt", "value": "cs.HC, Human-Computer Interaction"},
    ],
}

#: An isolated node; fields of a pair are null, as where both kinds share one table.
CORA: dict[str, Any] = {
    "id": "cora_test_3",
    "graph": {
        "node_idx": 3,
        "edge_index": [[], []],
        "node_list": [3],
        "node_idx_1": None,
        "edge_index_1": None,
        "node_list_1": None,
        "node_idx_2": None,
        "edge_index_2": None,
        "node_list_2": None,
    },
    "conversations": [
        {
            "from": "human",
            "value": NEIGHBORS
            + OWN.format(abstract="Rules are learned from examples.", title="Learning rules")
            + "Which of the following subcategories of computer science does this paper belong to: {1. Rule learning 2. Neural networks}? "
            "Directly give the full name of the most likely category of this paper.",
        },
        {"from": "gpt", "value": "Rule learning"},
    ],
}

LINK: dict[str, Any] = {
    "id": "pubmed_train_5_9_LP",
    "graph": {
        "node_idx_1": 5,
        "edge_index_1": [[1, 2], [0, 0]],
        "node_list_1": [5, 6, 7],
        "node_idx_2": 9,
        "edge_index_2": [[1], [0]],
        "node_list_2": [9, 19_716],
    },
    "conversations": [
        {
            "from": "human",
            "value": "Given a sequence of graph tokens: <graph> that constitute a subgraph of a citation graph, where the first token "
            "represents the central node of the subgraph, and the remaining nodes represent the first and second order neighbors of the "
            "central node. The information of the central node is as follow: Abstract: Insulin in mice. Title: Mice. The other sequence "
            "of graph tokens: <graph>, where the first token (the central node) with the following information: Abstract: Insulin in "
            "rats. Title: Rats. If the connections between nodes represent the citation relationships between papers, are these two "
            'central nodes connected? Give me a direct answer of "yes" or "no".',
        },
        {"from": "gpt", "value": "yes"},
    ],
}

MATCHING: dict[str, Any] = {
    "id": "arxiv_train_graphmatch_127_hop_1_neighbors_10",
    "graph": {"node_idx": 127, "edge_index": [[1, 2], [0, 0]], "node_list": [127, 4, 8]},
    "conversations": [
        {"from": "gpt", "value": "A first turn that is not the human's is dropped."},
        {
            "from": "human",
            "value": "Given a sequence of graph tokens <graph> that constitute a subgraph of a citation graph, where the first token "
            "represents the central node of the subgraph, and the remaining nodes represent the first and second order neighbors of the "
            "central node. Each graph token contains the title and abstract information of the paper at this node. Here is a list of "
            "paper titles: 1. Waves. 2. Tides. 3. Storms. , please reorder the list of papers according to the order of graph tokens "
            "(i.e., complete the matching of graph tokens and papers).",
        },
        {
            "from": "gpt",
            "value": "Based on the given graph tokens and the list of paper titles, we obtain the matching of graph tokens and papers as "
            "follows: Graph token 1 corresponds to Tides. Graph token 2 corresponds to Storms. Graph token 3 corresponds to Waves. ",
        },
    ],
}

TEXT_ONLY: dict[str, Any] = {
    "id": "chat_1",
    "graph": None,
    "conversations": [
        {"from": "human", "value": "What is a graph?"},
        {"from": "gpt", "value": "Nodes and edges."},
        {"from": "human", "value": "And a tree?"},
        {"from": "gpt", "value": "A graph without cycles."},
    ],
}

RECORDS = [PUBMED, ARXIV, CORA, LINK, MATCHING, TEXT_ONLY]


@contextmanager
def torch_sparse() -> Iterator[Any]:
    """The two classes of torch_sparse with the attributes they have there, importable while a file is written."""
    package, tensor, storage = (types.ModuleType(f"torch_sparse{name}") for name in ("", ".tensor", ".storage"))
    tensor.SparseTensor = type("SparseTensor", (), {"__module__": "torch_sparse.tensor"})  # type: ignore[attr-defined]
    storage.SparseStorage = type("SparseStorage", (), {"__module__": "torch_sparse.storage"})  # type: ignore[attr-defined]

    def make(rowptr: Tensor | None, row: Tensor | None, col: Tensor) -> Any:
        matrix, stored = tensor.SparseTensor(), storage.SparseStorage()
        size = len(rowptr) - 1 if rowptr is not None else int(col.max()) + 1
        vars(stored).update(
            dict.fromkeys(("_value", "_rowcount", "_colptr", "_colcount", "_csr2csc", "_csc2csr")),
            _row=row,
            _rowptr=rowptr,
            _col=col,
            _sparse_sizes=(size, size),
        )
        matrix.storage = stored
        return matrix

    modules = {module.__name__: module for module in (package, tensor, storage)}
    sys.modules.update(modules)
    try:
        yield make
    finally:
        for name in modules:
            del sys.modules[name]


def graph_data(key: str, edge_index: Any = None) -> Data:
    """A graph with random features, the same each time."""
    size = SIZES[key]
    generator = torch.Generator().manual_seed(size)
    data = Data(x=torch.randn(size, FEATURES, generator=generator), y=torch.arange(size)[:, None] % 3)
    data.edge_index = torch.stack([torch.arange(size - 1), torch.arange(1, size)]) if edge_index is None else edge_index
    data.train_mask = torch.arange(size) < size // 2
    return data


def write_graphs(folder: Path) -> Path:
    """``graph_data_all.pt`` with arxiv's edges in a torch_sparse matrix."""
    path = folder / "graph_data_all.pt"
    if not path.exists():
        with torch_sparse() as matrix:
            edges = matrix(None, torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0]))
            graphs = {"arxiv": graph_data("arxiv", edges), "pubmed": graph_data("pubmed"), "cora": graph_data("cora")}
            graphs["arxiv"].node_year = torch.full((SIZES["arxiv"], 1), 2015)
            torch.save(graphs, path)
    return path


def open_graphs(folder: Path) -> GraphFile:
    return open_graph_file(write_graphs(folder))


def write_records(folder: Path, records: Iterable[Any] | str | bytes, name: str = "records.json") -> Path:
    """An instruction file of records, or of bytes as they are."""
    path = folder / name
    content = records if isinstance(records, str | bytes) else json.dumps(list(records), ensure_ascii=False)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def changed(record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy of a record with other fields; ``graph`` replaces fields of its graph, ``...`` takes one away."""
    copy = json.loads(json.dumps(record))
    for name, value in fields.items():
        if name == "graph" and isinstance(value, dict) and isinstance(copy["graph"], dict):
            copy["graph"] |= value
            copy["graph"] = {field: item for field, item in copy["graph"].items() if item is not ...}
        else:
            copy[name] = value
    return {name: value for name, value in copy.items() if value is not ...}


def conversation(*turns: str) -> list[dict[str, str]]:
    """Human and model in turn."""
    return [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]


OWN_TEXT = r"Abstract:\s*(.*?)\s*Title:\s*(.*?)\s*(?:Question:|The other sequence|If the connections|$)"


def make_instructions(folder: Path, records: Iterable[Any] = RECORDS, dataset: dict[str, Any] | None = None, **task: Any) -> Any:
    """The task ``instructions`` on files written into a folder."""
    from helpers import parsed

    files = {"graphs": str(write_graphs(folder)), "instructions": str(write_records(folder, records))}
    data = parsed(GraphgptJson.Config, {"name": "graphgpt_json", **files, **(dataset or {})})
    cls = TASKS.get("instructions")
    return cls.build(
        parsed(cls.Config, {"name": "instructions", "own_text": OWN_TEXT, **task}), data, lambda dataset: GraphgptJson(dataset).open()
    )
