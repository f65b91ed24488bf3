"""The simple baselines that a graph language model must be held against."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.towers.sgc import SGC


def baseline_scores(graph: TextAttributedGraph, train: Tensor, test: Tensor, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Majority class, text alone, and text smoothed over the graph, each fitted on the training nodes.

    Args:
        graph: With features and labels.
        train: Labelled nodes to fit on, shape ``[k]``.
        test: Nodes to score, shape ``[m]``.
        seed: Of the solvers.

    Yields:
        A name, and a score for every class of every test node, shape ``[m, c]``.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    classes = len(graph.class_names)
    labels = graph.y[train].numpy()
    yield "Majority class", np.tile(np.bincount(labels, minlength=classes).astype(float), (len(test), 1))

    texts = [f"{title}\n{body}" for title, body in zip(graph.titles.to_pylist(), graph.bodies.to_pylist(), strict=True)]
    words = TfidfVectorizer(sublinear_tf=True, max_features=20000, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    yield "TF-IDF + logistic regression", _fit(words[train.numpy()], labels, words[test.numpy()], classes, seed)

    smooth = smoothed(graph, hops=2).numpy()
    yield "2-hop SGC", _fit(smooth[train.numpy()], labels, smooth[test.numpy()], classes, seed)


def smoothed(graph: TextAttributedGraph, hops: int) -> Tensor:
    """The graph's features averaged over neighbours ``hops`` times, with no sampling, shape ``[n, d]``."""
    row = torch.repeat_interleave(torch.arange(graph.num_nodes), graph.rowptr.diff())
    tower = SGC(SGC.Config(name="sgc", hops=hops, keep_all=False), graph.features.shape[1])
    return tower.encode(graph.features, torch.stack([row, graph.col]))


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
