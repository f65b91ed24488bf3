"""Stage 0: a tower learns to say what its nodes say, before any language model reads it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, distributed, nn
from torch.nn import functional

from graphgpt.metrics import LOSS, Metric
from graphgpt.models.llm import LLMConfig, llm_problems
from graphgpt.models.model import Model, unread_llm
from graphgpt.models.text_side import TextReader, TextSide
from graphgpt.models.tower import build_tower, tower_problems
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import GroundingInstruction, Instruction, ModalityInput
from graphgpt.prompts.reader import Inputs, TowerReader, join
from graphgpt.registry import MODELS, TASKS, TEXT_SIDES, TOWERS
from graphgpt.schema import Registered, configclass

#: Where the scale of the similarities starts, and what it never exceeds: CLIP's numbers (arXiv:2103.00020, section 2.5).
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0

#: Of so many validation samples at once the similarities to all are held in memory.
CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class GroundingExample:
    """An input beside its texts: a node's surroundings, a picture.

    Args:
        id: The instruction's.
        input: What the tower encodes.
        texts: What the text side reads: its own text, then those of its neighbours, if it has any.
        num_tokens: What it costs the tower.
    """

    id: str
    input: ModalityInput
    texts: Any
    num_tokens: int


@dataclass(kw_only=True)
class GroundingBatch:
    """Inputs that are told apart.

    Args:
        ids: Names of the samples.
        inputs: One of each.
        texts: What the text side takes: of each sample its own text, then those of its neighbours.
        num_tokens: What all inputs cost the tower.
    """

    ids: tuple[str, ...]
    inputs: Inputs
    texts: Any
    num_tokens: int

    def to(self, device: Any) -> "GroundingBatch":
        """The same on another device."""
        return replace(self, inputs=self.inputs.to(device), texts=self.texts.to(device))


@dataclass(frozen=True)
class GroundingReader:
    """Takes the input and the texts out of instructions."""

    tower: TowerReader
    text: TextReader

    def read(self, instructions: Sequence[Instruction]) -> list[GroundingExample]:
        found = []
        for one in instructions:
            assert isinstance(one, GroundingInstruction), "the model's task_problems lets no other task through"
            texts, cost = self.text.read([one.text, *one.around]), self.tower.cost(one.inputs[0])
            found.append(GroundingExample(id=one.id, input=one.inputs[0], texts=texts, num_tokens=cost))
        return found

    def collate(self, examples: Sequence[GroundingExample]) -> GroundingBatch:
        return GroundingBatch(
            ids=tuple(example.id for example in examples),
            inputs=join(self.tower, [example.input for example in examples]),
            texts=self.text.collate([example.texts for example in examples]),
            num_tokens=sum(example.num_tokens for example in examples),
        )


class Temperature(nn.Module):
    """The number that similarities are multiplied by, one over the temperature; learned as its logarithm.

    Args:
        constant: Keep it where it starts.
    """

    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)), requires_grad=not constant)

    def forward(self) -> Tensor:
        """The scale, a scalar, float32."""
        if self.training:
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        return self.log_scale.float().exp()


class Gather(torch.autograd.Function):
    """All processes' samples, in the order of the processes; gradients go back to where a sample came from.

    A process's gradient is that of the sum of all processes' losses. Where each of b samples of W processes contributes 1/b
    to its process's loss and distributed training takes the mean over processes, that is the gradient of the mean over all
    samples, as one process would have it.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        """``[k, b, d]`` of this process, as of every other, to ``[k, W * b, d]``."""
        own = own.contiguous()
        found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(found, own)
        return torch.cat(found, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size(), dim=1)[distributed.get_rank()]


@configclass
class CompatConfig:
    """What the original GraphGPT does without meaning to: on only to reproduce its numbers."""

    constant_scale: bool = False
    """The scale stays at 1 / 0.07: the original makes it anew at every call, so that it never learns."""


@MODELS.register("grounding")
class Grounding(Model):
    r"""A tower whose state of an input is to be told from all others' by the input's text, and by its neighbours' texts.

    With rows of unit length H (states), T (texts) and N (means of the neighbours' texts, taken before they are normalised), the
    loss of a batch is :math:`C(H, T) + w C(H, N) + w C(T, N)`, where :math:`C(A, B)` is the mean of the cross-entropies of
    :math:`s A B^\top` and of its transpose against the diagonal. Pictures have no neighbours, and the first term alone.

    Source: GraphGPT (arXiv:2310.13023), section 3.1, with w = 10; there s is fixed by accident, here it is learned as in CLIP
    (arXiv:2103.00020). All other samples of a step, on whatever process, are negatives.

    Args:
        config: This class's ``Config``.
        facts: Of the task: how wide its inputs are, and the embeddings of its texts.
    """

    @configclass
    class Config:
        name: str
        """Name of a registered model."""
        tower: Annotated[Any, Registered(TOWERS, "model.tower")]
        """What is pre-trained."""
        text: Annotated[Any, Registered(TEXT_SIDES, "model.text")]
        """What the tower's states are held against."""
        llm: LLMConfig
        """The language model whose tokenizer or embeddings the text side may read; the model itself has none."""
        around: float = Field(default=10.0, ge=0)
        """w, the weight of both terms with the neighbours' texts."""
        compat: CompatConfig = CompatConfig()
        """Faults of the original, for comparison."""

    validated = (
        LOSS,
        Metric(name="recall@1", title="Text found first"),
        Metric(name="recall@10", title="Text among the first ten"),
        Metric(name="mrr", title="Mean reciprocal rank of an input's text", unit=""),
    )
    in_one_pass = True
    reads_words = False

    @staticmethod
    def problems(config: Any) -> list[str]:
        """What is wrong with the language model's path and the tower, which must have weights, and train them."""
        found = llm_problems(config.llm)
        if (tower := config.tower) is None:
            return found
        found += tower_problems(tower)
        if not TOWERS.get(tower.name).has_weights:
            return [*found, f"model.tower.name: '{tower.name}' has no weights to be trained; use model/tower=graph_transformer or such."]
        if not tower.train:
            found.append("model.tower.train: false trains nothing of the tower that is to be grounded; set it to true.")
        return found

    @staticmethod
    def idle(config: Any, experiment: Any) -> dict[str, str]:
        """A language model that nothing reads."""
        return {} if not TEXT_SIDES.get(config.text.name).reads_embeddings else unread_llm(experiment)

    @classmethod
    def task_problems(cls, config: Any, task: Any) -> list[str]:
        """Another task, or one whose texts are not in the form that the text side reads."""
        if TASKS.get(task.name).asks:
            fitting = {"graph": "grounding", "image": "image_grounding"}.get(TOWERS.get(config.tower.name).modality, "grounding")
            return [f"task.name: model.name={config.name} learns from task={fitting} alone, found '{task.name}'."]
        if found := super().task_problems(config, task):
            return found
        side = config.text.name
        if TEXT_SIDES.get(side).reads_embeddings and task.text_encoder is None:
            return [f"task.text_encoder: is null, and model.text.name={side} reads what one makes; use model/text=transformer."]
        if not TEXT_SIDES.get(side).reads_embeddings and task.text_encoder is not None:
            return [f"task.text_encoder: model.text.name={side} reads the texts themselves; set task.text_encoder=null."]
        return []

    @classmethod
    def build(cls, config: Any, facts: TaskFacts) -> "Grounding":
        return cls(config, facts)

    def __init__(self, config: Any, facts: TaskFacts) -> None:
        super().__init__(config)
        self.tower = build_tower(config.tower, facts)
        self.text: TextSide = TEXT_SIDES.build(config.text, facts.text_dim, self.tower.output_dim, config.llm)
        self.temperature = Temperature(config.compat.constant_scale)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"tower": self.tower, "text": self.text, "temperature": self.temperature}

    @classmethod
    def title(cls, config: Any) -> str:
        return "Grounded tower"

    @classmethod
    def learns(cls, config: Any) -> set[str]:
        return super().learns(config) | {"text", "temperature"}

    @staticmethod
    def facts(config: Any) -> dict[str, str]:
        return {
            "Tower": config.tower.name,
            "Text side": config.text.name,
            "Losses": "in training among the samples of a step, in validation among all of its set, and so larger",
        }

    def reader(self) -> GroundingReader:
        return GroundingReader(self.tower.reader(), self.text.reader())

    def forward(self, batch: GroundingBatch) -> Tensor:
        """Each input's state, text and neighbours' text, if it has any, shape ``[3, b, d]`` or ``[2, b, d]``, float32; their products are
        scaled similarities."""
        texts = self.text(batch.texts).float()
        states = self.tower.summary(self.tower(batch.inputs.joined), batch.inputs.lengths).float()
        around = [texts[:, 1:].mean(dim=1)] if texts.shape[1] > 1 else []
        vectors = torch.stack([states, texts[:, 0], *around])
        # Each as long as the root of the scale, which so needs no place of its own: not in exchanges, not in what is validated.
        scaled: Tensor = functional.normalize(vectors, dim=2) * self.temperature().sqrt()
        return scaled

    def losses(self, batch: GroundingBatch) -> Tensor:
        """Share of each sample in the loss: in training among those of all processes, else among the batch's. Shape ``[b]``, float32."""
        everyone, before = self.forward(batch), 0
        if self.training and distributed.is_available() and distributed.is_initialized():
            everyone, before = Gather.apply(everyone), distributed.get_rank() * len(batch.ids)  # type: ignore[no-untyped-call]
        return self._contrast(everyone, slice(before, before + len(batch.ids)))

    def _contrast(self, everyone: Tensor, own: slice) -> Tensor:
        """Losses of some of the samples of :meth:`forward` among all of them, shape ``[k]``."""
        states, texts, *around = everyone
        losses = contrast(states, texts, own)
        for others in around:
            losses = losses + self.config.around * (contrast(states, others, own) + contrast(texts, others, own))
        return losses

    def validate(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """The vectors of each sample, shape ``[b, d]`` each: only all of them together give figures."""
        return dict(zip(("states", "texts", "around"), self.forward(batch), strict=False))

    def summarize(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        """``loss`` among all samples of the set, and how well an input finds its text among all texts: ``recall@1``, ``recall@10``
        and the mean reciprocal rank ``mrr``. More samples are harder to tell apart, so the loss is none to be held against training's."""
        everyone = torch.stack([found[name] for name in ("states", "texts", "around") if name in found])
        rank = ranks(found["states"], found["texts"])
        return {
            "loss": torch.cat([self._contrast(everyone, own) for own in _chunks(len(rank))]).mean().item(),
            "recall@1": (rank <= 1).float().mean().item(),
            "recall@10": (rank <= 10).float().mean().item(),
            "mrr": (1 / rank).mean().item(),
        }


def contrast(a: Tensor, b: Tensor, own: slice) -> Tensor:
    """Mean of both cross-entropies of pairs that must find each other, for some of the pairs among all.

    Args:
        a: Shape ``[n, d]``; row i belongs to row i of ``b``.
        b: Shape ``[n, d]``.
        own: Which pairs, k of them.

    Returns:
        Shape ``[k]``, float32.
    """
    right = torch.arange(own.start, own.stop, device=a.device)
    with torch.autocast(a.device.type, enabled=False):  # 16 bits are too few for an exponent of up to 100
        forth, back = a[own] @ b.T, b[own] @ a.T
    return (functional.cross_entropy(forth, right, reduction="none") + functional.cross_entropy(back, right, reduction="none")) / 2


def ranks(queries: Tensor, keys: Tensor) -> Tensor:
    """Rank of each query's own key among all keys by product, from 1, shape ``[n]``, float32; of keys that tie, the middle of theirs.

    Args:
        queries: Shape ``[n, d]``; row i belongs to row i of ``keys``.
        keys: Shape ``[n, d]``.
    """
    found = []
    for own in _chunks(len(queries)):
        products = queries[own] @ keys.T
        right = products[:, own].diagonal()[:, None]
        first, last = (products > right).sum(dim=1) + 1, len(keys) - (products < right).sum(dim=1)
        found.append((first + last) / 2)
    return torch.cat(found)


def _chunks(count: int) -> Iterator[slice]:
    """Consecutive runs of at most ``CHUNK``."""
    return (slice(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK))
