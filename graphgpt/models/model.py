"""What a runner trains and an evaluation asks, whatever it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from graphgpt.metrics import LOSS, Metric
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import AnswerSettings, Prediction
from graphgpt.registry import TASKS, TEXT_ENCODERS, TOWERS


class AnyExample(Protocol):
    """What a model reads of one sample."""

    @property
    def id(self) -> str:
        """Names the sample."""
        ...

    @property
    def num_tokens(self) -> int:
        """What it costs, in the model's own units: samples of like cost go through together."""
        ...


class AnyBatch(Protocol):
    """Examples that go through a model together."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the samples."""
        ...

    @property
    def num_tokens(self) -> int:
        """What it costs, in the units of ``AnyExample.num_tokens``."""
        ...

    def to(self, device: Any) -> Any:
        """The same batch on another device."""
        ...


class Reader(Protocol):
    """Turns samples into batches. Light: every process that prepares data gets a copy."""

    def read(self, instructions: Sequence[Instruction]) -> list[Any]:
        """An :class:`AnyExample` of each."""
        ...

    def collate(self, examples: Sequence[Any]) -> Any:
        """One :class:`AnyBatch` of them."""
        ...


class Model(nn.Module, ABC):
    """Base of all models; register subclasses with ``@MODELS.register(name)``.

    Args:
        config: The class's ``Config``.
    """

    Config: ClassVar[type]
    reads_words: ClassVar[bool] = True
    """Whether it reads a question's words, or its inputs alone."""
    validated: ClassVar[tuple[Metric, ...]] = (LOSS,)
    """What :meth:`summarize` finds; a task's own metrics come beside it."""
    in_one_pass: ClassVar[bool] = False
    """Whether the loss of a sample depends on the others of its step, so that a process takes its share in one pass."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def task_problems(cls, config: Any, task: Any) -> list[str]:
        """What keeps a model from learning a task, seen from both ``Config`` s, one sentence each."""
        shown = TASKS.get(task.name).modalities(task)
        return [
            f"model.tower.name: '{tower.name}' reads a {modality}, which prompts of '{task.name}' have not; they have "
            f"{' and '.join(shown) or 'words alone'}."
            for modality, tower in cls.towers(config).items()
            if shown is not None and modality not in shown
        ]

    @classmethod
    @abstractmethod
    def build(cls, config: Any, facts: TaskFacts) -> Self:
        """A model for a task: for training, evaluation, export and, on the meta device, for the checks before them.

        Raises:
            GraphGPTError: it cannot learn the task.
        """

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """What of it goes into a checkpoint, by the name of the file, which may lie in a folder: ``graph/projector``."""

    @classmethod
    def towers(cls, config: Any) -> dict[str, Any]:
        """Towers of a ``Config``, by what they read."""
        return {TOWERS.get(config.tower.name).modality: config.tower}

    @classmethod
    def title(cls, config: Any) -> str:
        """What tables of results call a model of a ``Config``."""
        return "This model"

    @classmethod
    def learns(cls, config: Any) -> set[str]:
        """With which of ``runner.lr`` something of a model of this ``Config`` learns; what is none of them learns with ``other``."""
        trained = any(tower.train and TOWERS.get(tower.name).has_weights for tower in cls.towers(config).values())
        return {"tower"} if trained else set()

    @staticmethod
    def rate_of(name: str) -> str:
        """Which of ``runner.lr`` a parameter learns with, from its full name; ``other`` where there is none of that name."""
        return name.partition(".")[0]

    @classmethod
    def hand_over_problems(cls, config: Any, theirs: Mapping[str, Any], path: str) -> list[str]:
        """What keeps a model of a ``Config`` from starting at a checkpoint of the same class, one sentence each.

        Args:
            config: The ``Config``.
            theirs: The checkpoint's, as plain data.
            path: Of the checkpoint, for the sentences.
        """
        return [f"start_from: a '{config.name}' has one stage; model.tower.init_from={path} starts with the tower of that run."]

    @abstractmethod
    def reader(self) -> Reader:
        """How it reads samples."""

    @abstractmethod
    def losses(self, batch: Any) -> Tensor:
        """Loss of each sample, shape ``[b]``, float32, in the order of ``batch.ids``."""

    def token_counts(self, batch: Any) -> Tensor:
        """How many tokens each sample teaches to write, shape ``[b]``, float32; of a model that writes none it is not asked."""
        raise NotImplementedError(f"{type(self).__name__} writes no tokens.")

    def validate(self, batch: Any) -> dict[str, Tensor]:
        """What is to be known of each validation sample, tensors whose first dimension is ``b``; ``loss`` is among it."""
        return {"loss": self.losses(batch)}

    def summarize(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        """Validation metrics of what :meth:`validate` found of all samples of the set, over all processes."""
        return {name: float(values.float().mean()) for name, values in found.items()}

    def predictions(
        self, candidates: Sequence[str] | None, instructions: Sequence[Instruction], settings: AnswerSettings
    ) -> Iterator[Prediction]:
        """The answer to every question, in their order.

        Args:
            candidates: All possible answers, None where answers are written.
            instructions: The questions.
            settings: How many at once, how long.
        """
        raise NotImplementedError  # by a model whose task asks nothing, which is not evaluated

    @staticmethod
    def facts(config: Any) -> dict[str, str]:
        """What a model of this ``Config`` is made of, for reports."""
        return {"Model": config.name, "Tower": config.tower.name}

    @classmethod
    def trains_llm(cls, config: Any) -> bool:
        """Whether a model of a ``Config`` trains the whole of a language model, which is then a part of its checkpoints."""
        return False

    @property
    def base(self) -> dict[str, Any]:
        """What its weights stand on without being part of a checkpoint: kept in the manifest and compared when one is loaded."""
        return {}

    @property
    def device(self) -> Any:
        return next(self.parameters()).device

    def trainable_state(self) -> dict[str, nn.Parameter]:
        """All parameters that training may move, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def loss(self, batch: Any) -> Tensor:
        """Mean of :meth:`losses`: a scalar."""
        return self.losses(batch).mean()


def unread_llm(experiment: Any) -> dict[str, str]:
    """What a model without a language model says of ``model.llm`` (see ``schema.ActsWith``) where no text encoder reads it either."""
    for node in (experiment.dataset, experiment.task):
        if (encoder := getattr(node, "text_encoder", None)) is not None and TEXT_ENCODERS.get(encoder.name).reads_llm:
            return {}
    return {"model.llm": f"changes nothing, for neither model.name={experiment.model.name} nor a text encoder reads a language model."}
