"""What does the node at the centre say? Self-supervised: no labels are read."""

from typing import Any

from graphgpt.metrics import Metric
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.graph_task import GraphInstruction, GraphTask
from graphgpt.tasks.worded import TaskConfig


@TASKS.register("node_description")
class NodeDescription(GraphTask):
    """Describe the centre node from its graph tokens alone (LLaGA, arXiv:2402.08170, section 3.3)."""

    needs_labels = False

    @configclass
    class Config(TaskConfig):
        pass

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> GraphInstruction:
        subgraph = self.subgraph(item, seed)
        asked = Message("user", *self.ask(subgraph))
        answer = f"{self.graph.title(item)}. {self.graph.body(item)}"
        return GraphInstruction(
            id=str(self.graph.ids[item].as_py()),
            messages=(asked, Message("assistant", self.cut(answer))),
            limits=self.limits(asked.inputs),
            nodes=(item,),
            subgraphs=(subgraph,),
        )

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        return (Metric(name="rouge_l", title="ROUGE-L"),)

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """ROUGE-L of the answer against the node's own text."""
        return {"rouge_l": rouge_l(prediction.expected, prediction.text or "")}


def rouge_l(expected: str, said: str) -> float:
    """F1 of the longest common subsequence of lower-case words (Lin, "ROUGE", 2004, section 3.1, with beta 1)."""
    right, words = _words(expected), _words(said)
    if not right or not words:
        return 0.0
    longest = [0] * (len(words) + 1)
    for word in right:
        diagonal = 0
        for j, other in enumerate(words, start=1):
            diagonal, longest[j] = longest[j], diagonal + 1 if word == other else max(longest[j], longest[j - 1])
    return 2 * longest[-1] / (len(right) + len(words))


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
