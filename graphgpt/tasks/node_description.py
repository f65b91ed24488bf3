"""What does the node at the centre say? Self-supervised: no labels are read."""

from typing import Any

from graphgpt.metrics import Metric
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.graph_task import GraphInstruction, GraphTask
from graphgpt.tasks.text_metrics import rouge_l
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
