"""Node description: the text is the answer, never the question."""

from collections.abc import Callable

import pytest

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.tasks.task import Task
from graphgpt.tasks.text_metrics import rouge_l


def test_the_text_is_the_answer(make_task: Callable[..., Task], graph: TextAttributedGraph) -> None:
    task = make_task("node_description", graph, max_chars=40)
    assert set(task.items("train").tolist()) >= {57, 58}  # no label is needed
    found = task.instruction(3, seed=0, training=True)
    assert found.messages[1].text == task.cut(f"{graph.title(3)}. {graph.body(3)}")
    assert graph.title(3) not in found.messages[0].text
    assert found.truth is None and task.candidates is None


@pytest.mark.parametrize(
    ("expected", "said", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("a b c", "a b c", 1.0),
        ("A, b! (c)", "a b c", 1.0),
        ("a b c", "", 0.0),
        ("a b c d", "a c", 2 * 2 / 6),
    ],
)
def test_rouge_l(expected: str, said: str, score: float) -> None:
    """The first two are the example in Lin's paper, section 3.1."""
    assert rouge_l(expected, said) == pytest.approx(score)
