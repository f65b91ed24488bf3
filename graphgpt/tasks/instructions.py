"""Questions and answers that a file brings ready-made, such as those that GraphGPT's authors released."""

import re
from typing import Any, Literal

import numpy as np

from graphgpt.errors import DataError, did_you_mean, nearest
from graphgpt.metrics import INVALID, Metric
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.node_classification import CLASSIFICATION, classification_metrics
from graphgpt.tasks.records import Records, RecordTask


@TASKS.register("instructions")
class Instructions(RecordTask):
    """Every record is an item, asked as it was released; its answer is written and compared, or scored among candidates.

    Source of the form: GraphGPT (arXiv:2310.13023), section 3.3, and its released instruction files.

    Args:
        config: This class's ``Config``.
        records: An ``InstructionSet``.
        dataset: The dataset's config.
    """

    @configclass
    class Config:
        name: str
        """Name of a registered task."""
        candidates: list[str] | None = None
        """All possible answers, where there are finitely many, such as the class names."""
        scoring: Literal["likelihood", "written"] = "likelihood"
        """With candidates: rank them by likelihood, or look which of them a written answer names first."""
        own_text: str
        """Regular expression; what its groups hold of a human's turn are the texts of the items themselves, for prompts without."""

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """An expression that is none, or candidates that cannot be told apart."""
        found = []
        try:
            if re.compile(config.own_text).groups == 0:
                found.append(f"task.own_text: {config.own_text!r} has no group; put what is to be hidden into round brackets.")
        except re.error as error:
            found.append(f"task.own_text: {config.own_text!r} is no regular expression: {error}.")
        if config.candidates is None:
            if config.scoring == "written":
                found.append("task.candidates: must be given for task.scoring=written, which looks for them in the answers.")
        elif len({normal(name) for name in config.candidates}) < max(2, len(config.candidates)) or "" in map(normal, config.candidates):
            found.append(f"task.candidates: {config.candidates} are not two or more different answers (case and spaces aside).")
        return found

    def __init__(self, config: Any, records: Records, dataset: Any) -> None:
        super().__init__(config, records, dataset)
        self._place = {normal(name): i for i, name in enumerate(config.candidates or ())}

    @property
    def candidates(self) -> list[str] | None:
        return self.config.candidates if self.config.scoring == "likelihood" else None

    def truth(self, item: int, answer: str) -> int | None:
        if self.candidates is None:
            return None
        truth = self._place.get(normal(answer))
        if truth is None:
            hint = did_you_mean(answer, self.candidates) or nearest("", self.candidates)
            raise DataError(f"{self.records.place(item)}: the answer '{answer}' is not among task.candidates. {hint}")
        return truth

    def hidden(self, turn: str) -> str:
        """A human's turn without what ``own_text`` finds; where that finds nothing, nothing is hidden."""
        spans = [
            match.span(group) for match in re.finditer(self.config.own_text, turn, re.DOTALL) for group in range(1, match.re.groups + 1)
        ]
        for start, end in sorted((span for span in spans if span[0] < span[1]), reverse=True):
            turn = f"{turn[:start]}(hidden){turn[end:]}"
        return turn

    @classmethod
    def scores(cls, config: Any) -> bool:
        return config.candidates is not None and config.scoring == "likelihood"

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        if cls.scores(config):
            return CLASSIFICATION
        exact = Metric(name="exact_match", title="Exact match")
        return (exact,) if config.candidates is None else (Metric(name="label_match", title="Label match"), exact, INVALID)

    def rank_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Accuracy, macro-F1 and top-3 accuracy over the candidates."""
        return classification_metrics(truth, scores)

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """Whether the answer is the record's, case and spaces aside; with candidates, whether it names the same one first.

        An answer that names no candidate is ``invalid``, and so no match.
        """
        text = prediction.text or ""
        metrics = {"exact_match": float(normal(text) == normal(prediction.expected))}
        if self.config.candidates is not None:
            said = self._named(text)
            metrics["label_match"] = float(said is not None and said == self._named(prediction.expected))
            metrics["invalid"] = float(said is None)
        return metrics

    def _named(self, text: str) -> int | None:
        """The candidate that a text names first, as whole words; of two that begin there the longer one."""
        longest_first = sorted(self._place, key=len, reverse=True)
        found = re.search(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)", normal(text))
        return self._place[found[0]] if found else None


def normal(text: str) -> str:
    """A text without what is no difference between answers: case, and how words are spaced."""
    return " ".join(text.casefold().split())
