"""What a model has to know of a task before it can be built."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What a task tells a model, in one object.

    Args:
        task: The task's name, for messages.
        widths: By modality the width of its raw features, where data decide that: node features have one, a picture's pixels none.
        inputs: How many inputs a question has, 0 where that differs between questions.
        candidates: How many answers there are to choose from, None where answers are written.
        text_dim: Width of the embeddings of the samples' texts, None where the texts themselves are read.
    """

    task: str
    widths: Mapping[str, int] = field(default_factory=dict)
    inputs: int = 1
    candidates: int | None = None
    text_dim: int | None = None
