"""Figures from answers, held against other people's code and against what follows from their definitions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import CLASS_NAMES
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.metrics import Declared, Metric
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.report.breakdowns import (
    Answers,
    by_degree,
    by_homophily,
    calibration,
    confusion_matrix,
    figures,
    leaks,
    local_homophily,
    occurrences,
    parse_answer,
)
from graphgpt.tasks.node_classification import classification_metrics
from graphgpt.tasks.task import Task


def unranked(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    raise AssertionError("there is nothing to rank")


def test_one_item_leaves_nearly_everything_open_and_top_3_of_3_is_none() -> None:
    right = Answers(truth=np.array([0]), scores=np.array([[1.0, 0.0, 0.0]]))
    wrong = Answers(truth=np.array([1]), scores=np.array([[1.0, 0.0, 0.0]]))
    found = figures([right], classification_metrics, Declared(), resamples=9, seed=0)
    assert found.metrics == {"accuracy": 1.0, "macro_f1": 1.0}
    assert found.intervals["accuracy"] == (0.025, 1.0)
    assert figures([wrong], classification_metrics, Declared(), resamples=9, seed=0).intervals["accuracy"] == (0.0, 0.975)


def test_intervals_are_those_of_the_normal_approximation() -> None:
    truth = np.array([0] * 70 + [1] * 30)
    scores = np.tile([1.0, 0.0, 0.0, 0.0], (100, 1))  # right for the first 70
    answers = Answers(truth=truth, scores=scores)
    found = figures([answers], classification_metrics, Declared(), resamples=500, seed=0)
    assert found.metrics["accuracy"] == 0.7
    # 0.7 +- 1.96 * sqrt(0.7 * 0.3 / 100).
    assert found.intervals["accuracy"] == pytest.approx((0.61, 0.79), abs=0.02)
    assert found.intervals["top3"] == pytest.approx((0.9638, 1.0), abs=1e-4)  # all are right: Clopper and Pearson's for 100 of 100
    assert found.deviations == {}
    assert figures([answers], classification_metrics, Declared(), resamples=500, seed=0) == found
    assert figures([answers], classification_metrics, Declared(), resamples=500, seed=1) != found
    assert figures([answers], classification_metrics, Declared(), resamples=0, seed=0).intervals == {}


def test_means_of_single_answers() -> None:
    runs = [Answers(each={"rouge_l": np.array(values)}) for values in ([0.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 0.0])]
    found = figures(runs, unranked, Declared(), resamples=300, seed=0)
    assert found.metrics == {"rouge_l": pytest.approx(0.625)}
    assert found.deviations == {"rouge_l": pytest.approx(np.std([0.5, 0.75], ddof=1))}
    low, high = found.intervals["rouge_l"]
    assert low < 0.625 < high
    single = figures(
        [Answers(each={"rouge_l": np.array([0.4]), "exact_match": np.array([0.0])})], unranked, Declared(), resamples=9, seed=0
    )
    assert single.metrics["rouge_l"] == 0.4
    assert single.intervals == {"exact_match": (0.0, 0.975)}  # a point is no interval
    number = Declared.of([Metric(name="cider", title="CIDEr-D", unit="")])
    alike = [Answers(each={"cider": np.zeros(4)})]
    assert figures(alike, unranked, number, resamples=9, seed=0).intervals == {}  # what is no share has no whole to be far from


def test_a_metric_that_is_not_defined_is_left_out() -> None:
    def rank(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        return {"auc": float("nan"), "accuracy": float((scores.argmax(axis=1) == truth).mean())}

    found = figures([Answers(truth=np.array([0, 1]), scores=np.eye(2))], rank, Declared(), resamples=5, seed=0)
    assert found.metrics == {"accuracy": 1.0}
    assert set(found.intervals) == {"accuracy"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Art", 0),
        (" art. ", 0),
        ("ART.", 0),
        ("Biochemistry", 2),
        ("Biology\n", 1),
        ("Not Art", None),
        ("Art or Biology", None),
        ("Bio", None),
        ("Art..", None),
        ("", None),
        (".", None),
    ],
)
def test_answers_are_read_exactly(text: str, answer: int | None) -> None:
    assert parse_answer(text, CLASS_NAMES) == answer


def test_candidates_that_differ_in_case_or_end_in_a_full_stop() -> None:
    assert [parse_answer(text, ["US", "us", "St."]) for text in ("US", "us.", "Us", "St.", "st", "St..")] == [0, 1, None, 2, 2, 2]


@given(st.lists(st.text(max_size=4), min_size=1, max_size=5, unique=True), st.text(max_size=6))
def test_only_a_candidate_is_an_answer(candidates: list[str], text: str) -> None:
    found = parse_answer(text, candidates)
    if text in candidates:
        assert found == candidates.index(text)
    elif found is not None:
        bare, said = ("".join(part.split()).casefold().strip(".") for part in (candidates[found], text))
        assert bare == said


def test_calibration_by_hand() -> None:
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    found = calibration(np.array([0, 1, 0, 1]), np.log(chances))
    # Bins of width 1/15: two items at 0.9 (half right), one at 0.6 (right), one at 0.8 (right).
    assert found["ece"] == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.6 - 1) + abs(0.8 - 1)) / 4)
    assert sum(bin["items"] for bin in found["bins"]) == 4


@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 1000))
def test_calibration_and_confusion_count_every_item(classes: int, items: int, seed: int) -> None:
    random = np.random.RandomState(seed)
    truth, scores = random.randint(0, classes, items), random.randn(items, classes) * 3
    found = calibration(truth, scores)
    assert sum(bin["items"] for bin in found["bins"]) == items
    assert 0 <= found["ece"] <= 1
    right = sum(bin["items"] * bin["accuracy"] for bin in found["bins"])
    assert right == pytest.approx((scores.argmax(axis=1) == truth).sum())
    expected = sklearn_confusion(truth, scores.argmax(axis=1), labels=range(classes))
    assert (confusion_matrix(truth, scores.argmax(axis=1), classes) == expected).all()


def test_local_homophily_is_the_share_of_neighbors_of_the_same_class(graph: TextAttributedGraph) -> None:
    nodes = [0, 18, 30, 59]
    for node, share in zip(nodes, local_homophily(graph, nodes), strict=True):
        classes = [int(graph.y[n]) for n in graph.neighbors(node).tolist() if int(graph.y[n]) >= 0]
        expected = sum(c == int(graph.y[node]) for c in classes) / len(classes) if classes else np.nan
        assert share == pytest.approx(expected, nan_ok=True)
    assert np.isnan(local_homophily(graph, [59])).all()


def test_groups_by_homophily() -> None:
    shares, right = np.array([0.0, 0.19, 0.2, 1.0, 0.8, np.nan]), np.array([1, 0, 1, 1, 0, 0])
    found = {group["label"]: (group["items"], group["value"]) for group in by_homophily(shares, right)}
    assert found == {"no neighbor": (1, 0.0), "0–20 %": (2, 0.5), "20–40 %": (1, 1.0), "80–100 %": (2, 0.5)}  # noqa: RUF001


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_groups_by_degree_hold_every_item_once_in_order(degrees: list[int]) -> None:
    found = by_degree(np.array(degrees), np.ones(len(degrees)))
    assert sum(group["items"] for group in found) == len(degrees)
    bounds = [[int(bound) for bound in group["label"].split("–")] for group in found]  # noqa: RUF001
    flat = [bound for pair in bounds for bound in pair]
    assert flat == sorted(flat)
    assert (flat[0], flat[-1]) == (min(degrees), max(degrees))


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [("Art", "art and Art, but not artful.", 2), ("C++", "C++ is not C", 1), ("re.compile", "re.compile reXcompile", 1), ("", "a", 0)],
)
def test_occurrences_are_of_whole_words(name: str, text: str, count: int) -> None:
    assert occurrences(name, text) == count


# What gives an answer away.


def asked(task: Task, item: int, hide: bool) -> Instruction:
    return task.instruction(item, seed=item, training=False, hide_text=hide)


@pytest.mark.parametrize("name", ["node_classification", "link_prediction", "graph_matching", "node_description"])
def test_honest_prompts_give_nothing_away(name: str, graph: TextAttributedGraph, make_task: Callable[..., Task]) -> None:
    task = make_task(name, graph)
    items = task.items("test").tolist()
    assert leaks([asked(task, i, False) for i in items], [asked(task, i, True) for i in items]) == []


def test_an_answer_beside_the_list_of_classes(graph: TextAttributedGraph, make_task: Callable[..., Task]) -> None:
    """One neighbour's text that names the class is enough; the item's own text may name it."""
    task = make_task("node_classification", graph)
    items = task.items("test").tolist()

    def changed(item: int, hide: bool, text: str) -> Instruction:
        found = asked(task, item, hide)
        return replace(found, messages=(Message("user", *found.messages[0].content, text), found.messages[1]))

    own = [changed(i, False, f" {CLASS_NAMES[int(graph.y[i])]}") for i in items]
    assert leaks(own, [asked(task, i, True) for i in items]) == []
    told = [changed(i, True, f" {CLASS_NAMES[int(graph.y[i])]}" if i == items[2] else " another") for i in items]
    [finding] = leaks(own, told)
    assert (finding["kind"], finding["ids"]) == ("answer", [str(graph.ids[items[2]])])


def test_a_test_edge_in_a_subgraph(graph: TextAttributedGraph, make_task: Callable[..., Task]) -> None:
    task: Any = make_task("link_prediction", graph)
    items = task.items("test").tolist()
    hidden = [asked(task, i, True) for i in items]
    # As if the edges had stayed in the graph.
    task.edges = replace(task.edges, evaluation=graph)
    [finding] = leaks([asked(task, i, False) for i in items], hidden)
    assert finding["kind"] == "edge"
    linked = {asked(task, i, False).id for i in items if task.edges.linked[i]}
    # Not all: an edge that could be seen may not have been sampled.
    assert len(linked & set(finding["ids"])) > len(linked) / 2
