"""Conversations as a file has them, with pictures or without."""

from typing import Any

from graphgpt.metrics import Metric
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.records import RecordTask
from graphgpt.tasks.text_metrics import rouge_l


@TASKS.register("conversations")
class ConversationsTask(RecordTask):
    """Every answer of a record is learned; the last one is asked for in evaluations."""

    @configclass
    class Config:
        name: str
        """Name of a registered task."""

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        return (Metric(name="rouge_l", title="ROUGE-L"),)

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """ROUGE-L of the last answer against the record's."""
        return {"rouge_l": rouge_l(prediction.expected, prediction.text or "")}
