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
from graphgpt.prompts.batch import CollateInputs
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction, ModalityInput, first_tokens
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import MODELS, TOWERS
from graphgpt.schema import Registered, configclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question without its words.

    Args:
        id: The instruction's.
        inputs: One, or two for a question about a pair.
        truth: Index of the right answer.
    """

    id: str
    inputs: tuple[ModalityInput, ...]
    truth: int

    @property
    def num_tokens(self) -> int:
        return sum(item.num_tokens for item in self.inputs)


@dataclass(kw_only=True)
class Questions:
    """Questions to be answered together.

    Args:
        ids: Names of the samples.
        inputs: What the tower takes: all inputs, question by question.
        first: Place of each input's first token among all tokens, shape ``[b, k]``, int64; k is 1, or 2 for pairs.
        truth: Right answers, shape ``[b]``, int64.
        num_tokens: Of all inputs.
    """

    ids: tuple[str, ...]
    inputs: Any
    first: Tensor
    truth: Tensor
    num_tokens: int

    def to(self, device: Any) -> "Questions":
        """The same on another device."""
        return replace(self, inputs=self.inputs.to(device), first=self.first.to(device), truth=self.truth.to(device))


@dataclass(frozen=True)
class QuestionReader:
    """Takes the inputs and the right answer out of instructions."""

    collate_inputs: CollateInputs

    def read(self, instructions: Sequence[Instruction]) -> list[Question]:
        found = []
        for instruction in instructions:
            if not instruction.inputs or instruction.truth is None:
                raise GraphGPTError(f"Sample '{instruction.id}' has no graph or no class to choose, and model.name=gnn reads nothing else.")
            found.append(Question(id=instruction.id, inputs=instruction.inputs, truth=instruction.truth))
        return found

    def collate(self, examples: Sequence[Question]) -> Questions:
        inputs = [item for example in examples for item in example.inputs]
        return Questions(
            ids=tuple(example.id for example in examples),
            inputs=self.collate_inputs(inputs),
            first=first_tokens(inputs).view(len(examples), -1),
            truth=torch.tensor([example.truth for example in examples]),
            num_tokens=sum(example.num_tokens for example in examples),
        )


@MODELS.register("gnn")
class GNN(Model):
    """Logits of the candidates, linear in the tower's state of the centre; of a pair, in both states and their product.

    It reads the same samples as a language model, without their words. The product lets a linear head tell like from unlike
    (the Hadamard operator of node2vec, arXiv:1607.00653, table 1). With a frozen tower it is a linear probe.

    Args:
        config: This class's ``Config``.
        input_dim: Width of the raw inputs' features.
        inputs: How many inputs a question has: 1 or 2.
        outputs: How many candidates.
    """

    @configclass
    class Config:
        name: str
        """Name of a registered model."""
        tower: Annotated[Any, Registered(TOWERS, "model.tower")]
        """What encodes the inputs."""
        llm: LLMConfig
        """The language model whose embeddings a text encoder may read; the model itself has none."""

    parts = ("tower", "head")
    title = "Graph neural network"
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
        return cls(config, facts.widths["graph"], facts.inputs, facts.candidates)

    def __init__(self, config: Any, input_dim: int, inputs: int, outputs: int) -> None:
        super().__init__(config)
        self.tower = build_tower(config.tower, input_dim)
        self.head = nn.Linear(self.tower.output_dim * (2 * inputs - 1), outputs)

    def train(self, mode: bool = True) -> "GNN":
        """Training mode; a frozen tower stays in eval mode, without dropout."""
        super().train(mode)
        self.tower.train(mode and self.config.tower.train)
        return self

    def reader(self) -> QuestionReader:
        return QuestionReader(self.tower.collate)

    def forward(self, batch: Questions) -> Tensor:
        """Logits, shape ``[b, candidates]``, float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.tower.train):
            states = self.tower(batch.inputs)
        centres = states[batch.first.flatten()].view(*batch.first.shape, -1)
        if centres.shape[1] > 1:
            centres = torch.cat([centres, centres.prod(dim=1, keepdim=True)], dim=1)
        logits: Tensor = self.head(centres.flatten(1).to(self.head.weight.dtype))
        return logits.float()

    def losses(self, batch: Questions) -> Tensor:
        """Cross-entropy of each sample, shape ``[b]``, float32, in the order of ``batch.ids``."""
        return functional.cross_entropy(self.forward(batch), batch.truth, reduction="none")

    def predictions(self, candidates: Sequence[str] | None, instructions: Sequence[Instruction], config: Any) -> Iterator[Prediction]:
        """Log-probabilities of the candidates."""
        reader = self.reader()
        for first in range(0, len(instructions), config.batch_size):
            asked = instructions[first : first + config.batch_size]
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
