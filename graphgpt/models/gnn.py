"""A tower with a linear head: the graph neural network that a graph language model has to be compared with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphgpt.errors import GraphGPTError
from graphgpt.models.llm import LLMConfig
from graphgpt.models.model import Model, unread_llm
from graphgpt.models.tower import build_tower, tower_problems
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction, ModalityInput
from graphgpt.prompts.prediction import AnswerSettings, Prediction
from graphgpt.prompts.reader import Inputs, TowerReader, join
from graphgpt.registry import MODELS, TOWERS
from graphgpt.schema import Registered, configclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question without its words.

    Args:
        id: The instruction's.
        inputs: One, or two for a question about a pair.
        truth: Index of the right answer.
        num_tokens: States of all inputs.
    """

    id: str
    inputs: tuple[ModalityInput, ...]
    truth: int

    num_tokens: int


@dataclass(kw_only=True)
class Questions:
    """Questions to be answered together.

    Args:
        ids: Names of the samples.
        inputs: Question by question.
        truth: Right answers, shape ``[b]``, int64.
        num_tokens: Of all inputs.
    """

    ids: tuple[str, ...]
    inputs: Inputs
    truth: Tensor
    num_tokens: int

    def to(self, device: Any) -> "Questions":
        """The same on another device."""
        return replace(self, inputs=self.inputs.to(device), truth=self.truth.to(device))


@dataclass(frozen=True)
class QuestionReader:
    """Takes the inputs and the right answer out of instructions."""

    tower: TowerReader
    modality: str

    def read(self, instructions: Sequence[Instruction]) -> list[Question]:
        found = []
        for instruction in instructions:
            inputs = tuple(item for item in instruction.inputs if item.modality == self.modality)
            if not inputs or instruction.truth is None:
                raise GraphGPTError(
                    f"Sample '{instruction.id}' has no {self.modality} or no class to choose, and model.name=gnn reads nothing else."
                )
            states = sum(map(self.tower.num_states, inputs))
            found.append(Question(id=instruction.id, inputs=inputs, truth=instruction.truth, num_tokens=states))
        return found

    def collate(self, examples: Sequence[Question]) -> Questions:
        inputs = [item for example in examples for item in example.inputs]
        return Questions(
            ids=tuple(example.id for example in examples),
            inputs=join(self.tower, inputs),
            truth=torch.tensor([example.truth for example in examples]),
            num_tokens=sum(example.num_tokens for example in examples),
        )


@MODELS.register("gnn")
class GNN(Model):
    """Logits of the candidates, linear in the tower's state of the centre, or of a picture; of a pair, in both states and their product.

    It reads the same samples as a language model, without their words. The product lets a linear head tell like from unlike
    (the Hadamard operator of node2vec, arXiv:1607.00653, table 1). With a frozen tower it is a linear probe.

    Args:
        config: This class's ``Config``.
        facts: Of the task: how many inputs a question has, 1 or 2, how wide they are, and how many candidates.
    """

    @configclass
    class Config:
        name: str
        """Name of a registered model."""
        tower: Annotated[Any, Registered(TOWERS, "model.tower")]
        """What encodes the inputs."""
        llm: LLMConfig
        """The language model whose embeddings a text encoder may read; the model itself has none."""

    reads_words = False

    @staticmethod
    def problems(config: Any) -> list[str]:
        """What is wrong with the tower's weights."""
        return tower_problems(config.tower) if config.tower is not None else []

    @staticmethod
    def idle(config: Any, experiment: Any) -> dict[str, str]:
        """A language model that nothing reads."""
        return unread_llm(experiment)

    @classmethod
    def build(cls, config: Any, facts: TaskFacts) -> "GNN":
        if facts.candidates is None or not facts.inputs:
            raise GraphGPTError(f"task.name: '{facts.task}' has no candidates for model.name={config.name} to choose from.")
        return cls(config, facts)

    def __init__(self, config: Any, facts: TaskFacts) -> None:
        super().__init__(config)
        assert facts.candidates is not None
        self.tower = build_tower(config.tower, facts)
        self.head = nn.Linear(self.tower.output_dim * (2 * facts.inputs - 1), facts.candidates)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"tower": self.tower, "head": self.head}

    @classmethod
    def title(cls, config: Any) -> str:
        [modality] = cls.towers(config)
        return "Graph neural network" if modality == "graph" else f"Classifier on the {modality}'s tower"

    @classmethod
    def learns(cls, config: Any) -> set[str]:
        return super().learns(config) | {"head"}

    def train(self, mode: bool = True) -> "GNN":
        """Training mode; a frozen tower stays in eval mode, without dropout."""
        super().train(mode)
        self.tower.train(mode and self.config.tower.train)
        return self

    def reader(self) -> QuestionReader:
        return QuestionReader(self.tower.reader(), self.tower.modality)

    def forward(self, batch: Questions) -> Tensor:
        """Logits, shape ``[b, candidates]``, float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.tower.train):
            states = self.tower(batch.inputs.joined)
        centres = self.tower.summary(states, batch.inputs.lengths).view(len(batch.ids), -1, self.tower.output_dim)
        if centres.shape[1] > 1:
            centres = torch.cat([centres, centres.prod(dim=1, keepdim=True)], dim=1)
        logits: Tensor = self.head(centres.flatten(1).to(self.head.weight.dtype))
        return logits.float()

    def losses(self, batch: Questions) -> Tensor:
        """Cross-entropy of each sample, shape ``[b]``, float32, in the order of ``batch.ids``."""
        return functional.cross_entropy(self.forward(batch), batch.truth, reduction="none")

    def predictions(
        self, candidates: Sequence[str] | None, instructions: Sequence[Instruction], settings: AnswerSettings
    ) -> Iterator[Prediction]:
        """Log-probabilities of the candidates."""
        reader = self.reader()
        for first in range(0, len(instructions), settings.batch_size):
            asked = instructions[first : first + settings.batch_size]
            questions = reader.read(asked)
            with torch.inference_mode():
                scores = self.forward(reader.collate(questions).to(self.device)).log_softmax(dim=1).tolist()
            for instruction, question, row in zip(asked, questions, scores, strict=True):
                yield Prediction(
                    id=question.id,
                    prompt_tokens=question.num_tokens,
                    truth=question.truth,
                    scores=row,
                    expected=instruction.messages[-1].text,
                )
