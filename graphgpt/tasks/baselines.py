"""The simple baselines that a graph language model must be held against."""

import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphgpt.graphs.edge_splits import EdgeSplit
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.smoothing import smoothed
from graphgpt.schema import NETWORKS, Baseline

#: What tables call them. The plain language model is no method on a graph: the evaluation runs it.
NAMES: dict[Baseline, str] = {
    "majority": "Majority class",
    "tfidf": "TF-IDF + logistic regression",
    "sgc": "2-hop SGC",
    "gcn": "GCN",
    "graphsage": "GraphSAGE",
    "probe": "Logistic regression on pooled states",
    "neighbor": "Nearest neighbor on pooled states",
    "text_cosine": "Text cosine",
    "two_hop_cosine": "2-hop cosine",
    "common_neighbors": "Common neighbors",
    "llm": "Language model alone",
}


def baseline_scores(
    graph: TextAttributedGraph, train: Tensor, test: Tensor, seed: int, *, val: Tensor | None = None, names: Collection[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Majority class, text alone, text smoothed over the graph, and graph neural networks, each fitted on the training nodes.

    Args:
        graph: With features and labels.
        train: Labelled nodes to fit on, shape ``[k]``.
        test: Nodes to score, shape ``[m]``.
        seed: Of the solvers.
        val: Labelled nodes that choose when a network has learned enough.
        names: Keys of ``NAMES``; None is all there are.

    Yields:
        A name, and a score for every class of every test node, shape ``[m, c]``.
    """
    classes = len(graph.class_names)
    labels = graph.y[train].numpy()

    def wanted(name: str) -> bool:
        return names is None or name in names

    if wanted("majority"):
        yield NAMES["majority"], np.tile(np.bincount(labels, minlength=classes).astype(float), (len(test), 1))
    if wanted("tfidf"):
        words = tfidf(graph)
        yield NAMES["tfidf"], _fit(words[train.numpy()], labels, words[test.numpy()], classes, seed)
    if wanted("sgc"):
        smooth = smoothed_features(graph, hops=2).numpy()
        yield NAMES["sgc"], _fit(smooth[train.numpy()], labels, smooth[test.numpy()], classes, seed)
    for network in NETWORKS:
        if wanted(network):
            scores = network_scores(network, graph, train, train[:0] if val is None else val, seed)
            yield NAMES[network], scores[test].numpy()


def state_scores(
    y: Tensor,
    train: Tensor,
    val: Tensor,
    test: Tensor,
    classes: int,
    pooled: Callable[[Tensor], np.ndarray] | None,
    names: Collection[str] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Majority class, and classifiers on one vector of each item: logistic regression, its C chosen on validation, and nearest neighbour.

    Args:
        y: Class of every item, shape ``[n]``, int64, -1 where unknown.
        train: Items to fit on, shape ``[k]``.
        val: Items that choose, shape ``[v]``; those without a label say nothing.
        test: Items to score, shape ``[m]``.
        classes: How many.
        pooled: A vector of each item; None leaves out what needs it.
        names: Keys of ``NAMES``; None is all there are.

    Yields:
        A name, and a score for every class of every test item, shape ``[m, classes]``.
    """
    train, val = train[y[train] >= 0], val[y[val] >= 0]
    labels = y[train].numpy()

    def wanted(name: str) -> bool:
        return names is None or name in names

    if wanted("majority"):
        yield NAMES["majority"], np.tile(np.bincount(labels, minlength=classes).astype(float), (len(test), 1))
    if pooled is None or not (wanted("probe") or wanted("neighbor")):
        return
    states = [pooled(items) for items in (train, val, test)]
    mean, deviation = states[0].mean(axis=0), states[0].std(axis=0) + 1e-6
    known, chosen_on, asked = ((part - mean) / deviation if len(part) else part for part in states)
    if wanted("probe"):
        yield NAMES["probe"], _probe(known, labels, chosen_on, y[val].numpy(), asked, classes)
    if wanted("neighbor"):
        long = known / np.linalg.norm(known, axis=1, keepdims=True)
        nearest = (asked @ long.T).argmax(axis=1)
        yield NAMES["neighbor"], np.eye(classes)[labels[nearest]]


def _probe(x: np.ndarray, labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Class probabilities by the logistic regression whose C is best on validation, shape ``[m, classes]``."""
    from sklearn.linear_model import LogisticRegression

    best, right = None, -1.0
    for c in (0.001, 0.01, 0.1, 1.0):
        fitted = LogisticRegression(C=c, max_iter=300).fit(x, labels)
        score = float(fitted.score(val, val_labels)) if len(val) else 0.0
        if score > right:
            best, right = fitted, score
    assert best is not None
    scores = np.zeros((len(test), classes))
    scores[:, best.classes_] = best.predict_proba(test)
    return scores


def network_scores(network: Baseline, graph: TextAttributedGraph, train: Tensor, val: Tensor, seed: int, *, steps: int = 300) -> Tensor:
    """Class log-probabilities of all nodes by a graph neural network of two layers, trained on the whole graph at once.

    GCN: Kipf and Welling (arXiv:1609.02907), section 3. GraphSAGE, mean aggregation: Hamilton et al. (arXiv:1706.02216),
    section 3. Dropout 0.5, width 64 and weight decay 5e-4, about as in the former's section 5.2; every fifth step is tried on
    the validation nodes, the one with the lowest loss is kept, and training ends when that is 50 steps ago.

    Args:
        network: ``gcn`` or ``graphsage``.
        graph: With features and labels.
        train: Labelled nodes, shape ``[k]``.
        val: Labelled nodes, shape ``[v]``; when empty, the last step counts.
        seed: Of the initial weights and the dropout.
        steps: At most so many.

    Returns:
        Shape ``[n, c]``, float32.
    """
    from torch.nn import functional
    from torch_geometric.nn import GCNConv, SAGEConv

    with warnings.catch_warnings():
        # That torch's compressed sparse matrices are in beta; the product with them, all that is used, takes a third of the time.
        warnings.simplefilter("ignore", UserWarning)
        edges = torch.sparse_csr_tensor(graph.rowptr, graph.col, torch.ones(len(graph.col)), size=(graph.num_nodes, graph.num_nodes))
    # Rows of one length: a few nodes with large features would otherwise lead the training.
    x = functional.normalize(graph.features.float(), dim=1) * graph.features.shape[1] ** 0.5
    width, classes = 64, len(graph.class_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make = {"gcn": lambda *sizes: GCNConv(*sizes, cached=True), "graphsage": SAGEConv}[network]
        first, second = make(x.shape[1], width), make(width, classes)
        parameters = [*first.parameters(), *second.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=0.01, weight_decay=5e-4)

        def forward(training: bool) -> Tensor:
            hidden = functional.relu(first(functional.dropout(x, 0.5, training), edges))
            scores: Tensor = second(functional.dropout(hidden, 0.5, training), edges).log_softmax(dim=1)
            return scores

        lowest, waited = float("inf"), 0
        best = forward(training=False).detach()
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            functional.nll_loss(forward(training=True)[train], graph.y[train]).backward()
            optimizer.step()
            if len(val) and step % 5 == 0:
                with torch.no_grad():
                    scores = forward(training=False)
                loss = float(functional.nll_loss(scores[val], graph.y[val]))
                lowest, best, waited = (loss, scores, 0) if loss < lowest else (lowest, best, waited + 5)
                if waited == 50:
                    break
        if not len(val):
            with torch.no_grad():
                best = forward(training=False)
    return best


def tfidf(graph: TextAttributedGraph) -> Any:
    """Weighted word counts of all titles and bodies, a sparse matrix of shape ``[n, words]``."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [f"{title}\n{body}" for title, body in zip(graph.titles.to_pylist(), graph.bodies.to_pylist(), strict=True)]
    return TfidfVectorizer(sublinear_tf=True, max_features=20000, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)


def smoothed_features(graph: TextAttributedGraph, hops: int) -> Tensor:
    """The graph's features averaged over neighbours ``hops`` times, with no sampling, shape ``[n, d]``."""
    from torch_geometric.utils import to_undirected

    row = torch.repeat_interleave(torch.arange(graph.num_nodes), graph.rowptr.diff())
    edges: Tensor = to_undirected(torch.stack([row, graph.col]), num_nodes=graph.num_nodes)
    return smoothed(graph.features.float(), edges, hops)[-1]


def _fit(x: np.ndarray, labels: np.ndarray, x_test: np.ndarray, classes: int, seed: int) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    present = np.unique(labels)
    scores = np.full((x_test.shape[0], classes), -np.inf)
    if len(present) == 1:
        scores[:, present] = 0.0
        return scores
    model = LogisticRegression(max_iter=1000, random_state=seed).fit(x, labels)
    scores[:, model.classes_] = model.predict_log_proba(x_test)
    return scores


def link_scores(
    edges: EdgeSplit, train: Tensor, test: Tensor, seed: int, *, names: Collection[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Similarity of the two nodes' texts, of their smoothed features, and their common neighbours, each calibrated on training pairs.

    Args:
        edges: Pairs, and the graphs without their edges.
        train: Pairs to fit on, shape ``[k]``; seen in the training graph.
        test: Pairs to score, shape ``[m]``; seen in the evaluation graph.
        seed: Of the solver.
        names: Keys of ``NAMES``; None is all there are.

    Yields:
        A name, and log-probabilities of yes and no for every test pair, shape ``[m, 2]``.
    """
    graph = edges.training
    words = tfidf(graph) if names is None or "text_cosine" in names else None

    def text_cosine(_: TextAttributedGraph, pairs: np.ndarray) -> np.ndarray:
        assert words is not None
        return np.asarray(words[pairs[:, 0]].multiply(words[pairs[:, 1]]).sum(axis=1)).ravel()

    def smooth_cosine(seen: TextAttributedGraph, pairs: np.ndarray) -> np.ndarray:
        states = torch.nn.functional.normalize(smoothed_features(seen, hops=2), dim=1).numpy()
        similarity: np.ndarray = (states[pairs[:, 0]] * states[pairs[:, 1]]).sum(axis=1)
        return similarity

    def common_neighbors(seen: TextAttributedGraph, pairs: np.ndarray) -> np.ndarray:
        return np.array([np.intersect1d(seen.neighbors(a), seen.neighbors(b), assume_unique=True).size for a, b in pairs.tolist()], float)

    methods: dict[Baseline, Callable[[TextAttributedGraph, np.ndarray], np.ndarray]] = {
        "text_cosine": text_cosine,
        "two_hop_cosine": smooth_cosine,
        "common_neighbors": common_neighbors,
    }
    answers = np.where(edges.linked[train].numpy(), 0, 1)
    for name, method in methods.items():
        if names is not None and name not in names:
            continue
        known = method(edges.training, edges.pairs[train].numpy())[:, None]
        asked = method(edges.evaluation, edges.pairs[test].numpy())[:, None]
        yield NAMES[name], _fit(known, answers, asked, 2, seed)
