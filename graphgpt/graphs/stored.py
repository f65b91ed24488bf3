"""Graphs that PyTorch Geometric saved, read without it: its classes are taken as mere bags of attributes, and nothing is run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphgpt.errors import with_article
from graphgpt.files.untrusted import load_untrusted

#: Sparse tensors of more numbers are not made dense.
LARGEST_DENSE = 2**30


class Stored:
    """Stands in for a class of torch_geometric or torch_sparse: its state becomes attributes, and none of its code runs."""

    @property
    def fields(self) -> Any:
        """What a ``Data`` holds: PyG 1.x keeps a graph's tensors in ``Data`` itself, PyG 2.x in a ``GlobalStorage``."""
        storage = vars(self).get("_store")
        return vars(storage).get("_mapping") if isinstance(storage, Stored) else vars(self)


class StoredHetero:
    """Stands in for a ``HeteroData``, to be refused by its name."""


def _scalar(kind: np.dtype[Any], data: Any = b"") -> Any:
    """Stands in for numpy's function of that name: a number or a text, never an object."""
    if kind.hasobject or not isinstance(data, bytes) or len(data) != kind.itemsize:
        raise ValueError("a numpy scalar that is neither number nor text")
    return np.frombuffer(data, kind, 1)[0].item()


#: Stand-ins by the name of what they stand for. Of numpy's own, arrays of numbers and texts are what they say.
STAND_INS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "torch_geometric.data.data.Data",
            "torch_geometric.data.data.DataEdgeAttr",
            "torch_geometric.data.data.DataTensorAttr",
            "torch_geometric.data.storage.GlobalStorage",
            "torch_sparse.tensor.SparseTensor",
            "torch_sparse.storage.SparseStorage",
        ),
        Stored,
    ),
    **dict.fromkeys(
        (
            "torch_geometric.data.hetero_data.HeteroData",
            "torch_geometric.data.graph_store.EdgeAttr",
            "torch_geometric.data.feature_store.TensorAttr",
            "torch_geometric.data.storage.BaseStorage",
            "torch_geometric.data.storage.NodeStorage",
            "torch_geometric.data.storage.EdgeStorage",
        ),
        StoredHetero,
    ),
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{f"numpy.dtypes.{type(np.dtype(kind)).__name__}": type(np.dtype(kind)) for kind in "?bhilqBHILQefdOU"},
    **{f"numpy.{core}.multiarray._reconstruct": np.empty(0).__reduce__()[0] for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}


def load_stored(path: Path, what: str) -> Any:
    """What ``torch.save`` wrote of PyG's objects, tensors, numpy's arrays and plain containers.

    Raises:
        DataError: the file holds anything else, or is damaged.
    """
    return load_untrusted(path, what, STAND_INS)


def dense_tensor(value: Any) -> Tensor:
    """Real numbers as a dense tensor, of an array or of a tensor of any layout.

    Raises:
        ValueError: ``value`` is none of these, or too large when made dense; the message says what it is.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise ValueError(with_article(type(value).__name__))
    if value.is_complex() or value.is_quantized or value.is_meta:
        raise ValueError(f"{value.dtype} of shape {list(value.shape)}{' without its numbers' if value.is_meta else ''}")
    if value.layout == torch.strided:
        return value.detach()
    if (size := math.prod(value.shape)) > LARGEST_DENSE:
        shape = " x ".join(f"{length:,}" for length in value.shape)
        raise ValueError(f"sparse, and {shape} = {size:,} numbers when made dense; make it smaller first (e.g. by an SVD)")
    return value.to_dense()


def edge_tensor(value: Any) -> Tensor:
    """Edges ``[2, e]``, int64, of integers of that shape, or of an adjacency matrix: torch's, sparse in any layout, or torch_sparse's.

    Raises:
        ValueError: ``value`` is none of these; the message says what it is.
    """
    if isinstance(value, Stored):
        storage = vars(vars(value).get("storage", Stored()))
        row, rowptr, col = (storage.get(name) for name in ("_row", "_rowptr", "_col"))
        if row is None and isinstance(rowptr, Tensor):
            row = torch.repeat_interleave(torch.arange(len(rowptr) - 1), rowptr.diff())
        if not isinstance(row, Tensor) or not isinstance(col, Tensor) or row.shape != col.shape:
            raise ValueError("a sparse matrix without rows and columns")
        value = torch.stack([row, col])
    if isinstance(value, Tensor) and value.layout != torch.strided:
        value = value.to_sparse_coo().coalesce().indices()
    edges = dense_tensor(value)
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point() or edges.dtype == torch.bool:
        raise ValueError(f"{edges.dtype} of shape {list(edges.shape)}")
    return edges.long()
