"""Figures from answers: metrics with their uncertainty, calibration, where the right answers are, what a prompt gives away.

Pure functions on arrays and instructions; nothing here runs a model.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphgpt.errors import amount
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.metrics import Declared
from graphgpt.prompts.instruction import Instruction
from graphgpt.tasks.graph_task import GraphInstruction

RankMetrics = Callable[[np.ndarray, np.ndarray], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one method said about n items.

    Args:
        truth: Right candidates, shape ``[n]``, int; None without candidates.
        scores: Any score that ranks the candidates, shape ``[n, c]``; None without candidates.
        each: Metrics of single answers, whose means are reported, each of shape ``[n]``.
    """

    truth: np.ndarray | None = None
    scores: np.ndarray | None = None
    each: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.each.values()))) if self.truth is None else len(self.truth)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Metrics: their mean over the seeds, 95% intervals, standard deviations over the seeds (none for one seed).

    A metric that is not defined on these items, such as AUC where all have one answer, is left out.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    deviations: dict[str, float]


def figures(runs: Sequence[Answers], rank_metrics: RankMetrics, declared: Declared, *, resamples: int, seed: int) -> Figures:
    """Metrics of one method over runs with several seeds, with intervals by resampling items (bootstrap, percentile method).

    All runs have the same number of items, and a resample draws the same places from each: where the runs ask about the same
    items, these stay together; where not, the places are as good as any.

    Args:
        runs: One per seed.
        rank_metrics: Of the task, from ``truth`` and ``scores``.
        declared: What the metrics are.
        resamples: 0 makes no intervals.
        seed: Of the resampling.
    """
    import sklearn

    found = [_metrics(run, rank_metrics) for run in runs]
    names = [name for name in found[0] if all(np.isfinite(metrics[name]) for metrics in found)]
    mean = {name: float(np.mean([metrics[name] for metrics in found])) for name in names}
    deviations = {name: float(np.std([metrics[name] for metrics in found], ddof=1)) for name in names} if len(found) > 1 else {}
    intervals: dict[str, tuple[float, float]] = {}
    if resamples:
        random = np.random.RandomState(seed)
        drawn = np.empty((resamples, len(names)))
        # The arrays were checked once, above; checking each resample would take longer than counting it.
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            for i in range(resamples):
                places = random.randint(0, len(runs[0]), size=len(runs[0]))
                again = [_metrics(run, rank_metrics, places) for run in runs]
                drawn[i] = [np.mean([metrics[name] for metrics in again]) for name in names]
        for name, values in zip(names, drawn.T, strict=True):
            defined = values[np.isfinite(values)]
            if len(defined):
                low, high = map(float, np.percentile(defined, [2.5, 97.5]))
                if declared[name].unit == "%":
                    low, high = _widened(low, high, len(runs[0]))
                if low < high:  # a point, such as a single answer's ROUGE-L, is no interval
                    intervals[name] = (low, high)
    return Figures(metrics=mean, intervals=intervals, deviations=deviations)


def _widened(low: float, high: float, items: int) -> tuple[float, float]:
    """An interval that is a point because all items are right, or none is: what so few of them leave open (Clopper and Pearson, 1934).

    Resampling items that are all alike knows no doubt, not even of a single one.
    """
    if low == high == 1:
        low = 0.025 ** (1 / items)
    elif low == high == 0:
        high = 1 - 0.025 ** (1 / items)
    return low, high


def _metrics(run: Answers, rank_metrics: RankMetrics, places: np.ndarray | slice = slice(None)) -> dict[str, float]:
    ranked = {} if run.truth is None or run.scores is None else rank_metrics(run.truth[places], run.scores[places])
    return ranked | {name: float(values[places].mean()) for name, values in run.each.items()}


def parse_answer(text: str, candidates: Sequence[str]) -> int | None:
    """The candidate that a text is, but for surrounding space, a final full stop and case; None for any other text.

    Never guessed from a part of the text: "not Art" is no answer. Where case alone tells candidates apart, it counts.
    """
    said = text.strip()
    forms = (said, said.removesuffix(".").rstrip())
    for form in forms:
        if form in candidates:
            return list(candidates).index(form)
    alike = {i for i, name in enumerate(candidates) if name.strip().removesuffix(".").casefold() in {form.casefold() for form in forms}}
    return alike.pop() if len(alike) == 1 else None


def calibration(truth: np.ndarray, scores: np.ndarray, bins: int = 15) -> dict[str, Any]:
    """Expected calibration error of the softmax over candidates, in bins of equal width (Guo et al., arXiv:1706.04599, section 2).

    Args:
        truth: Right candidates, shape ``[n]``, int.
        scores: Log-likelihoods, shape ``[n, c]``.
        bins: Of confidence, from 0 to 1.

    Returns:
        ``ece`` and ``bins``, those with items: ``confidence`` and ``accuracy`` (means) and ``items``.
    """
    from scipy.special import softmax

    chances = softmax(scores, axis=1)
    confidence, right = chances.max(axis=1), scores.argmax(axis=1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    filled = [
        {"confidence": float(confidence[mask].mean()), "accuracy": float(right[mask].mean()), "items": int(mask.sum())}
        for mask in (place == b for b in range(bins))
        if mask.any()
    ]
    error = sum(bin["items"] * abs(bin["confidence"] - bin["accuracy"]) for bin in filled) / len(truth)
    return {"ece": float(error), "bins": filled}


def confusion_matrix(truth: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Counts of items as ``[true class][answered class]``, shape ``[c, c]``, int64."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (truth, answers), 1)
    return counts


def local_homophily(graph: TextAttributedGraph, nodes: Sequence[int]) -> np.ndarray:
    """Share of each node's neighbours in the whole graph that have its class, among those with a known one; shape ``[k]``, nan if none."""
    shares = np.full(len(nodes), np.nan)
    for i, node in enumerate(nodes):
        classes = graph.y[graph.neighbors(node)]
        known = classes[classes >= 0]
        if len(known):
            shares[i] = float((known == graph.y[node]).float().mean())
    return shares


def by_homophily(shares: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    """Mean of ``values`` in five bins of local homophily, and of items without a neighbour of known class; empty bins are left out."""
    place = np.minimum((np.nan_to_num(shares, nan=-1.0) * 5).astype(int), 4)
    place[np.isnan(shares)] = -1
    labels = {-1: "no neighbor", **{b: f"{20 * b}–{20 * (b + 1)} %" for b in range(5)}}  # noqa: RUF001
    return _binned(labels, place, values)


def by_degree(degrees: np.ndarray, values: np.ndarray, bins: int = 5) -> list[dict[str, Any]]:
    """Mean of ``values`` in bins of degree that hold about as many items each."""
    edges = np.unique(np.quantile(degrees, np.linspace(0, 1, bins + 1), method="lower"))
    place = np.clip(np.searchsorted(edges, degrees, side="right") - 1, 0, max(0, len(edges) - 2))
    spans = {b: (int(degrees[place == b].min()), int(degrees[place == b].max())) for b in np.unique(place).tolist()}
    return _binned({b: f"{low}" if low == high else f"{low}–{high}" for b, (low, high) in spans.items()}, place, values)  # noqa: RUF001


def _binned(labels: Mapping[int, str], place: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    masks = ((label, place == b) for b, label in labels.items())
    return [{"label": label, "items": int(mask.sum()), "value": float(values[mask].mean())} for label, mask in masks if mask.any()]


def occurrences(name: str, text: str) -> int:
    """How often a name stands in a text as whole words, whatever the case."""
    return len(re.findall(rf"(?<!\w){re.escape(name.strip())}(?!\w)", text, re.IGNORECASE)) if name.strip() else 0


def nodes_of(instruction: Instruction) -> list[int]:
    """The nodes that a question is about, numbered in its task's graph; none where the data name none."""
    return list(instruction.nodes) if isinstance(instruction, GraphInstruction) else []


def subgraphs_of(instruction: Instruction) -> list[Any]:
    """The subgraphs of a question, in the order of its placeholders."""
    return list(instruction.subgraphs) if isinstance(instruction, GraphInstruction) else []


def leaks(instructions: Sequence[Instruction], hidden: Sequence[Instruction]) -> list[dict[str, Any]]:
    """Questions that give their answer away by other means than the items' own texts.

    An answer counts as given away when the prompt without the items' texts has it more often than the prompt of some item
    with another answer: a list of classes is the same in all. A pair that is asked about must be no edge of any subgraph, be
    it its own or another pair's. Stored questions whose own text cannot be told apart are not looked at.

    Args:
        instructions: As the model reads them.
        hidden: The same with the items' own texts hidden.

    Returns:
        One entry per kind that was found: ``kind``, ``ids`` of the samples, ``sentence``.
    """
    found: list[dict[str, Any]] = []

    def note(kind: str, what: str, ids: list[str]) -> None:
        if ids:
            sentence = f"{what} in {len(ids)} of {amount(len(instructions), 'sample')}, the first is '{ids[0]}'."
            found.append({"kind": kind, "ids": ids, "sentence": sentence})

    asked = [
        (item.id, item.messages[-1].text, _prompt(bare))
        for item, bare in zip(instructions, hidden, strict=True)
        if nodes_of(item) or _prompt(item) != _prompt(bare)
    ]
    usual: dict[str, int] = {}
    given_away = []
    for id, answer, prompt in asked:
        count = occurrences(answer, prompt)
        if count and answer not in usual:
            others = [occurrences(answer, prompt) for _, other, prompt in asked if other != answer]
            usual[answer] = min(others, default=count)
        if count > usual.get(answer, 0):
            given_away.append(id)
    note("answer", "The answer stands in the prompt, by more than the item's own text and the list of classes,", given_away)

    pairs = {frozenset(nodes_of(item)) for item in instructions if len(nodes_of(item)) == 2}
    if pairs:
        ids = [item.id for item in instructions if any(not pairs.isdisjoint(_edges(subgraph)) for subgraph in subgraphs_of(item))]
        note("edge", "A pair that is asked about is an edge of a subgraph", ids)
    return found


def _prompt(instruction: Instruction) -> str:
    return "\n".join(message.text for message in instruction.messages[:-1])


def _edges(subgraph: Any) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in subgraph.nodes[subgraph.edge_index].t().tolist()}
