"""The model: a tower, a projector and a language model, joined by the tokens that stand for inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import GraphGPTError
from graphgpt.models.activations import recompute_activations
from graphgpt.models.attention import tree_arguments
from graphgpt.models.decoding import Decoding
from graphgpt.models.llm import LLMConfig, base_fingerprint, llm_fingerprint, llm_problems, load_llm, load_tokenizer
from graphgpt.models.lora import LoraConfig, add_lora, lora_problems, train_adapters
from graphgpt.models.modality_tokens import ModalityTokens
from graphgpt.models.model import Model
from graphgpt.models.projector import Projector
from graphgpt.models.quantization import QuantizationConfig, follow_weights, quantization_problems
from graphgpt.models.tower import build_tower, tower_problems
from graphgpt.prompts.batch import Batch, CollateInputs, common_prompt, scoring_batch, training_batch
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import Prediction
from graphgpt.prompts.processor import PATCH, Example, Modality, Processor, TooLong
from graphgpt.registry import MODELS, PROJECTORS, TASKS, TEMPLATES, TOWERS
from graphgpt.schema import Registered, configclass


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What a number of prompts begin with, encoded.

    Args:
        length: In tokens.
        cache: Their keys and values, a transformers ``DynamicCache``.
    """

    length: int
    cache: Any


@configclass
class CompatConfig:
    """What the original GraphGPT does without meaning to: on only to reproduce its numbers, off wherever they shall be good."""

    last_input_only: bool = False
    """Of several inputs in a prompt, such as both graphs of a link prediction, only the last is read."""
    tower_dropout: bool = False
    """The tower's dropout is never off, neither where it is frozen nor in evaluation."""


def build_processor(config: Any, tokenizer: Any) -> Processor:
    """The processor of a model of this ``Config``; it needs no weights."""
    template = TEMPLATES.build(config.template, tokenizer)
    return Processor(tokenizer, template, config.max_length, Modality(last_only=config.compat.last_input_only), config.too_long)


@dataclass(frozen=True)
class PromptReader:
    """Tokenises instructions and joins them into token trees."""

    processor: Processor
    collate_inputs: CollateInputs

    def read(self, instructions: Sequence[Instruction]) -> list[Example]:
        return self.processor.several(instructions)

    def collate(self, examples: Sequence[Example]) -> Batch:
        return training_batch(examples, self.collate_inputs)


@MODELS.register("graph_llm")
class GraphLLM(Model):
    """Any causal language model that reads inputs of another modality through projected tower states.

    Source: GraphGPT (arXiv:2310.13023), section 3.

    Args:
        config: This class's ``Config``.
        input_dim: Width of the raw inputs' features.
    """

    @configclass
    class Config:
        name: str
        """Name of a registered model."""
        llm: LLMConfig
        """The language model."""
        quantization: QuantizationConfig = QuantizationConfig()
        """How many bits its frozen weights have."""
        tower: Annotated[Any, Registered(TOWERS, "model.tower")]
        """What encodes the inputs."""
        projector: Annotated[Any, Registered(PROJECTORS, "model.projector")]
        """What moves tower states into the language model's embedding space."""
        lora: LoraConfig = LoraConfig()
        """Adapters on the language model."""
        template: Annotated[Any, Registered(TEMPLATES, "model.template")]
        """Conversation form."""
        max_length: int = Field(default=2048, ge=8)
        """Longest sequence in tokens."""
        too_long: TooLong = "raise"
        """What becomes of a longer sample: ``raise`` says so before training, ``skip`` leaves it out of training and validation, ``cut``
        shortens its texts, never graph tokens or answers."""
        gradient_checkpointing: bool = False
        """In training, keep the input of each layer of the language model only, and compute the rest again: less memory, more time."""
        compat: CompatConfig = CompatConfig()
        """Faults of the original, for comparison."""

    @staticmethod
    def problems(config: Any) -> list[str]:
        """What is wrong with the language model's path, its adapters and bits, and the tower's weights."""
        own = [*llm_problems(config.llm), *quantization_problems(config.quantization), *lora_problems(config.lora)]
        if config.lora.dora and config.quantization.name == "int8":
            own.append("model.lora.dora: peft loses the scales of int8 weights when it measures columns; use model/quantization=nf4.")
        return [*own, *(tower_problems(config.tower) if config.tower is not None else [])]

    parts = ("projector", "modality_tokens", "tower")
    title = "Graph tokens"
    rates: ClassVar[Mapping[str, str]] = {"llm": "lora", "modality_tokens": "tokens"}

    @classmethod
    def task_problems(cls, config: Any, task: Any) -> list[str]:
        """A task that asks nothing."""
        if TASKS.get(task.name).asks:
            return []
        return [f"task.name: '{task.name}' asks nothing that a language model could answer; use experiment=stage0."]

    @classmethod
    def build(cls, config: Any, facts: TaskFacts) -> "GraphLLM":
        return cls(config, facts.widths["graph"])

    def __init__(self, config: Any, input_dim: int) -> None:
        super().__init__(config)
        self.tokenizer = load_tokenizer(config.llm)
        llm = load_llm(config.llm, config.quantization)
        embeddings = llm.get_input_embeddings().weight
        rms = float(embeddings.detach().float().square().mean().sqrt())
        self.tower = build_tower(config.tower, input_dim)
        self.projector: Projector = PROJECTORS.build(config.projector, self.tower.output_dim, embeddings.shape[1], rms)
        self.modality_tokens = ModalityTokens(embeddings.shape[1], rms, blank=config.compat.last_input_only)
        # Of the weights before they were quantized: adapters fit a base however many bits it has.
        self.llm_fingerprint = base_fingerprint(config.llm) if config.quantization.active else llm_fingerprint(llm)
        if config.gradient_checkpointing:
            recompute_activations(llm)
        self.llm = add_lora(llm, config.lora)

    def train(self, mode: bool = True) -> "GraphLLM":
        """Training mode for the parts that learn; frozen parts stay in eval mode, without dropout."""
        super().train(mode)
        self.llm.eval()
        train_adapters(self.llm, mode)
        self.tower.train(self.config.compat.tower_dropout or (mode and self.config.tower.train))
        return self

    @property
    def device(self) -> torch.device:
        return self.modality_tokens.weight.device

    def _apply(self, fn: Any, recurse: bool = True) -> "GraphLLM":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # what .to() and .cuda() come down to
        if self.config.quantization.active:
            if self.device.type == "mps":
                raise GraphGPTError(f"A language model in {self.config.quantization.name} does not run on mps; run it on the processor.")
            follow_weights(self.llm)
        return self

    @cached_property
    def processor(self) -> Processor:
        """Tokenises instructions for this model."""
        return build_processor(self.config, self.tokenizer)

    def reader(self) -> PromptReader:
        return PromptReader(self.processor, self.tower.collate)

    @staticmethod
    def facts(config: Any) -> dict[str, str]:
        return {
            "Language model": config.llm.path,
            "Tower": config.tower.name,
            "Projector": config.projector.name,
            "LoRA rank": str(config.lora.rank),
        }

    @property
    def base(self) -> dict[str, Any]:
        config = self.llm.config
        return {
            "type": config.model_type,
            "hidden_size": config.hidden_size,
            "vocabulary": config.vocab_size,
            "fingerprint": self.llm_fingerprint,
        }

    def embed(self, input_ids: Tensor, inputs: Any | None) -> Tensor:
        """Embeddings of ids of any shape, with tower states at the patches (in row-major order): ``[*, d]``."""
        table = self.llm.get_input_embeddings()
        embedded: Tensor = table(input_ids.clamp(min=0))
        dtype = embedded.dtype
        own = self.modality_tokens.holds(input_ids)
        embedded = embedded.masked_scatter(own[..., None], self.modality_tokens(input_ids[own]).to(dtype))
        if inputs is None:
            # Text only: every trainable part still takes part in the graph, or distributed training would wait for it.
            idle = [*self.projector.parameters(), *self.modality_tokens.parameters(), *self.tower.parameters()]
            return embedded + sum(p.sum() * 0.0 for p in idle if p.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.tower.train):
            states = self.tower(inputs)
        projected = self.projector(states.to(self.modality_tokens.weight.dtype))
        return embedded.masked_scatter((input_ids == PATCH)[..., None], projected.to(dtype))

    def forward(self, batch: Batch, prefix: Prefix | None = None) -> tuple[Tensor, Tensor]:
        """Log-likelihood of every answer in a token tree, which stands below ``prefix`` where there is one.

        Returns:
            Sum of the log-probabilities of each answer's tokens, shape ``[a]``, float32, and their number, shape ``[a]``.
        """
        needed, place = batch.source.unique(return_inverse=True)
        embedded = self.embed(batch.input_ids, batch.inputs)
        logits = self.llm(
            inputs_embeds=embedded[None],
            position_ids=batch.position_ids[None],
            **tree_arguments(self.llm, batch, embedded.dtype),
            logits_to_keep=needed,
            past_key_values=None if prefix is None else prefix.cache,
            use_cache=prefix is not None,
        ).logits[0]
        if prefix is not None:
            prefix.cache.crop(-batch.num_tokens)
        log_probability = logits.float().log_softmax(dim=-1)[place, batch.target]
        zeros = torch.zeros(batch.num_answers, device=logits.device)
        return zeros.index_add(0, batch.answer, log_probability), zeros.index_add(0, batch.answer, torch.ones_like(log_probability))

    def losses(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each sample's answer tokens, shape ``[b]``, float32, in the order of ``batch.ids``.

        A mean per sample, so that the loss of a global batch does not depend on how it is cut into smaller ones.
        """
        total, count = self.forward(batch)
        return -(total / count)

    @torch.inference_mode()
    def prefix(self, prompts: Sequence[Example]) -> Prefix | None:
        """The common beginning of all prompts, encoded once for all batches of them; None where there is none."""
        length = common_prompt(prompts)
        if length == 0:
            return None
        embedded = self.embed(torch.tensor([prompts[0].ids[:length]], device=self.device), None)
        return Prefix(length=length, cache=self.llm(inputs_embeds=embedded, logits_to_keep=1, use_cache=True).past_key_values)

    @torch.inference_mode()
    def score(self, prompts: Sequence[Example], candidates: Sequence[Sequence[int]], prefix: Prefix | None = None) -> Tensor:
        """Log-likelihood of every candidate answer (token ids) after every prompt, shape ``[b, c]``, float32, on the CPU.

        Args:
            prompts: Tokenised; each begins with ``prefix``.
            candidates: Token ids.
            prefix: Of :meth:`prefix`, for these prompts and others.
        """
        before = 0 if prefix is None else prefix.length
        total, _ = self.forward(scoring_batch(prompts, candidates, self.tower.collate, before).to(self.device), prefix)
        return total.view(len(prompts), len(candidates)).cpu()

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Example], max_new_tokens: int, prefix: Prefix | None = None) -> list[str]:
        """Greedy answers, each as it would be alone: without special tokens and space around it.

        Args:
            prompts: Tokenised; each begins with ``prefix``. Their answers are written together.
            max_new_tokens: An answer is cut after so many tokens.
            prefix: Of :meth:`prefix`, for these prompts and others.
        """
        written: list[list[int]] = [[] for _ in prompts]
        going = list(range(len(prompts)))
        decoding = Decoding(self, prompts, prefix)
        while True:
            tokens = decoding.logits.argmax(dim=-1).tolist()
            rows = [row for row, token in enumerate(tokens) if token not in self.ends]
            going, tokens = [going[row] for row in rows], [tokens[row] for row in rows]
            for answer, token in zip(going, tokens, strict=True):
                written[answer].append(token)
            if not going or len(written[going[0]]) == max_new_tokens:
                return [text.strip() for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]
            decoding.write(rows, tokens)

    def predictions(self, candidates: Sequence[str] | None, instructions: Sequence[Instruction], config: Any) -> Iterator[Prediction]:
        """Candidates scored where the task has them, greedy answers where not or asked for."""
        prompts = [self.processor.prompt(instruction) for instruction in instructions]
        answers = [self.processor.answer(name) for name in candidates or ()]
        writes = config.generate or not answers
        prefix = self.prefix(prompts)
        size = config.writing_batch_size if writes else config.batch_size
        for first in range(0, len(prompts), size):
            asked = prompts[first : first + size]
            scores: list[list[float] | None] = [None] * len(asked)
            texts: list[str | None] = [None] * len(asked)
            if answers:
                parts = (asked[at : at + config.batch_size] for at in range(0, len(asked), config.batch_size))
                scores = [row for part in parts for row in self.score(part, answers, prefix).tolist()]
            if writes:
                texts = [*self.generate(asked, config.max_new_tokens, prefix)]
            for instruction, prompt, score, text in zip(instructions[first : first + size], asked, scores, texts, strict=True):
                yield Prediction(
                    id=instruction.id,
                    prompt_tokens=len(prompt.ids),
                    truth=instruction.truth,
                    scores=score,
                    expected=instruction.messages[-1].text,
                    text=text,
                )

    @cached_property
    def ends(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        terminator = TEMPLATES.build(self.config.template, self.tokenizer).terminator
        return {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids(terminator)}
