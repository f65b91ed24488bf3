"""The model: a language model, and for each kind of input that is no text a tower, a projector and a fusion."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from graphgpt.errors import GraphGPTError
from graphgpt.models.activations import recompute_activations
from graphgpt.models.answering import answers
from graphgpt.models.attention import tree_arguments
from graphgpt.models.decoding import Look, Looks, Prefix
from graphgpt.models.hand_over import differences
from graphgpt.models.llm import LLMConfig, base_fingerprint, llm_fingerprint, llm_problems, load_llm, load_tokenizer
from graphgpt.models.lora import LoraConfig, add_lora, lora_problems, train_adapters
from graphgpt.models.modality import Modality, ModalityConfig, Projected, check_name, modality_problems
from graphgpt.models.model import Model
from graphgpt.models.parts import PARTS, respelled
from graphgpt.models.quantization import QuantizationConfig, follow_weights, quantization_problems
from graphgpt.prompts.batch import Batch, training_batch
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import AnswerSettings, Prediction
from graphgpt.prompts.processor import Example, Processor, TooLong
from graphgpt.prompts.reader import Inputs, Readers
from graphgpt.prompts.tokens import Token, token_id
from graphgpt.registry import FUSIONS, MODELS, PROJECTORS, TASKS, TEMPLATES, TOWERS
from graphgpt.schema import EachOf, Registered, configclass


@configclass
class CompatConfig:
    """What the original GraphGPT does without meaning to: on only to reproduce its numbers, off wherever they shall be good."""

    last_input_only: bool = False
    """Of several inputs in a prompt, such as both graphs of a link prediction, only the last is read."""
    tower_dropout: bool = False
    """The tower's dropout is never off, neither where it is frozen nor in evaluation."""


@dataclass(frozen=True)
class PromptReader:
    """Tokenises instructions and joins them into token trees."""

    processor: Processor

    def read(self, instructions: Sequence[Instruction]) -> list[Example]:
        return self.processor.several(instructions)

    def collate(self, examples: Sequence[Example]) -> Batch:
        return training_batch(examples, self.processor.readers)


@MODELS.register("multimodal_llm")
class MultimodalLLM(Model):
    """Any causal language model that reads inputs of other modalities through projected tower states.

    Sources: GraphGPT (arXiv:2310.13023), section 3, for graphs; LLaVA (arXiv:2304.08485), section 4, for pictures.

    Args:
        config: This class's ``Config``.
        facts: Of the task: how wide its inputs are.
    """

    @configclass
    class Config:
        name: str
        """Name of a registered model."""
        llm: LLMConfig
        """The language model."""
        quantization: QuantizationConfig = QuantizationConfig()
        """How many bits its frozen weights have."""
        tower: Annotated[Any, Registered(TOWERS, "model.tower")] | None = None
        """What encodes the inputs, where they are of one modality; null where there are none, or several."""
        projector: Annotated[Any, Registered(PROJECTORS, "model.projector")] | None = None
        """What moves tower states into the language model's embedding space."""
        fusion: Annotated[Any, Registered(FUSIONS, "model.fusion")] | None = None
        """How they come in; null puts them into the sequence, where their placeholder stood."""
        modalities: Annotated[dict[str, Any], EachOf(ModalityConfig, "model.modalities", respelled)] = Field(default_factory=dict)
        """Instead of these three: several modalities, each by its name with a tower, a projector and a fusion of its own."""
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

        @property
        def by_modality(self) -> dict[str, ModalityConfig]:
            """What reads which kind of input, whichever way it was given."""
            if self.tower is None:
                return self.modalities
            one = ModalityConfig(tower=self.tower, projector=self.projector, fusion=self.fusion)
            return {TOWERS.get(self.tower.name).modality: one}

    @staticmethod
    def problems(config: Any) -> list[str]:
        """What is wrong with the language model's path, its adapters and bits, and the modalities."""
        own = [*llm_problems(config.llm), *quantization_problems(config.quantization), *lora_problems(config.lora)]
        if config.lora.dora and config.quantization.name == "int8":
            own.append("model.lora.dora: peft loses the scales of int8 weights when it measures columns; use model/quantization=nf4.")
        if config.llm.train and config.lora.rank:
            why = "adapters are for a frozen language model, and model.llm.train=true; use model/lora=none"
            own.append(f"model.lora.rank={config.lora.rank}: {why}.")
        if config.llm.train and config.quantization.active:
            why = "such weights do not learn, and model.llm.train=true; use model/quantization=none"
            own.append(f"model.quantization: {config.quantization.name}: {why}.")
        given = [part for part in PARTS if getattr(config, part) is not None]
        if given and config.modalities:
            spelt = f"model.modalities.{next(iter(config.modalities))}.{given[0]}"
            return [
                *own,
                f"model.{given[0]}: a model with model.modalities has its parts there; give {spelt}, or leave model.modalities out.",
            ]
        for name, modality in config.modalities.items():
            if modality is not None:
                own += check_name(name, modality) + [respelled(problem, name) for problem in modality_problems(modality)]
        return own + (modality_problems(next(iter(config.by_modality.values()))) if config.tower is not None else [])

    @staticmethod
    def idle(config: Any, experiment: Any) -> dict[str, str]:
        """Faults of the original that have nothing to act on."""
        if config.by_modality:
            return {}
        return {"model.compat": "changes nothing, for a model without modalities reads words alone."}

    @classmethod
    def task_problems(cls, config: Any, task: Any) -> list[str]:
        """Parts that want others, a task that asks nothing, or one that shows what the model cannot read."""
        given = [part for part in PARTS if getattr(config, part) is not None]
        if missing := [part for part in PARTS[:2] if given and part not in given]:
            return [f"model.{missing[0]}: must be given (model/{missing[0]}=...), since model.{given[0]} is."]
        kind = TASKS.get(task.name)
        if not kind.asks:
            return [f"task.name: '{task.name}' asks nothing that a language model could answer; use experiment=stage0."]
        reads = ", ".join(config.by_modality) or "words alone"
        return [
            f"task.name: the prompts of '{task.name}' have a {modality}, and this model reads {reads}; choose a wording without "
            f"<{modality}> (task.wording), or a model that reads a {modality} (model=...)."
            for modality in kind.modalities(task) or ()
            if modality not in config.by_modality
        ]

    @classmethod
    def build(cls, config: Any, facts: TaskFacts) -> "MultimodalLLM":
        return cls(config, facts)

    def __init__(self, config: Any, facts: TaskFacts) -> None:
        super().__init__(config)
        self.tokenizer = load_tokenizer(config.llm)
        llm = load_llm(config.llm, config.quantization)
        embeddings = llm.get_input_embeddings().weight
        shapes_only = embeddings.is_meta
        dim, rms = embeddings.shape[1], 1.0 if shapes_only else float(embeddings.detach().float().square().mean().sqrt())
        self.modalities = nn.ModuleDict()
        for number, (name, modality) in enumerate(config.by_modality.items()):
            self.modalities[name] = Modality(modality, number, facts, dim, rms, config.compat.last_input_only)
        # Of the weights before they were quantized: adapters fit a base however many bits it has.
        weights = base_fingerprint(config.llm) if config.quantization.active and not shapes_only else None
        self.llm_fingerprint = weights or ("" if shapes_only else llm_fingerprint(llm))
        if config.gradient_checkpointing:
            recompute_activations(llm)
        for modality in self.each_modality.values():
            modality.fusion.attach(llm)
        self.llm = add_lora(llm, config.lora).requires_grad_(True) if config.llm.train else add_lora(llm, config.lora)

    @property
    def each_modality(self) -> dict[str, Modality]:
        """The modalities by name."""
        return {name: module for name, module in self.modalities.items() if isinstance(module, Modality)}

    @property
    def parts(self) -> dict[str, nn.Module]:
        each = self.each_modality.items()
        return {f"{name}/{part}": getattr(modality, part) for name, modality in each for part in ("tower", "projector", "fusion")}

    @classmethod
    def towers(cls, config: Any) -> dict[str, Any]:
        return {name: modality.tower for name, modality in config.by_modality.items()}

    @classmethod
    def title(cls, config: Any) -> str:
        read = " and ".join(config.by_modality)
        return f"{read.capitalize()} tokens" if read else "Language model"

    @classmethod
    def learns(cls, config: Any) -> set[str]:
        found = super().learns(config) | ({"projector", "tokens"} if config.by_modality else set())
        return found | ({"lora"} if config.lora.rank else set()) | ({"llm"} if config.llm.train else set())

    @classmethod
    def trains_llm(cls, config: Any) -> bool:
        return bool(config.llm.train)

    @staticmethod
    def rate_of(name: str) -> str:
        first, *rest = name.split(".")
        if first == "llm":
            return "lora" if ".lora_" in name else "llm"
        return {"fusion": "tokens"}.get(rest[1], rest[1])

    def train(self, mode: bool = True) -> "MultimodalLLM":
        """Training mode for the parts that learn; frozen parts stay in eval mode, without dropout."""
        super().train(mode)
        self.llm.train(mode and self.config.llm.train)
        train_adapters(self.llm, mode)
        for modality in self.each_modality.values():
            modality.tower.train(self.config.compat.tower_dropout or (mode and modality.config.tower.train))
        return self

    @property
    def device(self) -> torch.device:
        device: torch.device = self.llm.get_input_embeddings().weight.device
        return device

    def _apply(self, fn: Any, recurse: bool = True) -> "MultimodalLLM":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # what .to() and .cuda() come down to
        if self.config.quantization.active:
            if self.device.type == "mps":
                raise GraphGPTError(f"A language model in {self.config.quantization.name} does not run on mps; run it on the processor.")
            follow_weights(self.llm)
        return self

    @cached_property
    def readers(self) -> Readers:
        """How inputs appear in prompts, by modality."""
        return {name: modality.reader() for name, modality in self.each_modality.items()}

    @cached_property
    def processor(self) -> Processor:
        """Tokenises instructions for this model."""
        template = TEMPLATES.build(self.config.template, self.tokenizer)
        return Processor(self.tokenizer, template, self.config.max_length, self.readers, self.config.too_long)

    def reader(self) -> PromptReader:
        return PromptReader(self.processor)

    @staticmethod
    def facts(config: Any) -> dict[str, str]:
        each = config.by_modality
        of = {name: f" ({name})" if len(each) > 1 else "" for name in each}
        parts = {f"{part.title()}{of[name]}": getattr(one, part).name for name, one in each.items() for part in ("tower", "projector")}
        return {"Language model": config.llm.path, **parts, "LoRA rank": str(config.lora.rank)}

    @property
    def base(self) -> dict[str, Any]:
        config = self.llm.config
        return {
            "type": config.model_type,
            "hidden_size": config.hidden_size,
            "vocabulary": config.vocab_size,
            "fingerprint": self.llm_fingerprint,
        }

    @classmethod
    def hand_over_problems(cls, config: Any, theirs: Mapping[str, Any], path: str) -> list[str]:
        return differences(config, theirs, path)

    def project(self, inputs: Mapping[str, Inputs]) -> dict[str, Projected]:
        """Inputs in the language model's space, by modality."""
        return {name: self.modalities[name](own) for name, own in inputs.items()}

    def embed(self, input_ids: Tensor, inputs: Mapping[str, Projected]) -> Tensor:
        """Embeddings of ids of any shape, with inputs in their places (in row-major order): ``[*, d]``."""
        embedded: Tensor = self.llm.get_input_embeddings()(input_ids.clamp(min=0))
        for name, modality in self.each_modality.items():
            own = inputs.get(name)
            embedded = modality.fusion.embed(embedded, input_ids, None if own is None else own.values)
            if own is None:
                # Every trainable part still takes part in the graph, or distributed training would wait for it.
                embedded = embedded + sum(parameter.sum() * 0.0 for parameter in modality.idle())
        return embedded

    def looks(self, batch: Batch, inputs: Mapping[str, Projected], prefix: Prefix | None) -> Looks:
        """What a batch's tokens see of inputs that are not in the sequence, those of the prefix before it among them."""
        found: Looks = {}
        for name, modality in self.each_modality.items():
            if not modality.fusion.looks:
                continue
            place = (batch.input_ids == token_id(modality.number, Token.MEDIA)).nonzero().flatten()
            everything = torch.arange(batch.num_tokens, device=batch.input_ids.device)
            sees = batch.visible_from(everything)[:, batch.before + place]
            known, own = None if prefix is None else prefix.inputs.get(name), inputs.get(name)
            if known is not None:
                sees = torch.cat([sees.new_ones(len(sees), len(known.lengths)), sees], dim=1)
            if (all_of_them := known if own is None else own if known is None else known.and_then(own)) is not None:
                found[name] = Look(sees, all_of_them)
        return found

    @contextlib.contextmanager
    def looking(self, looks: Looks) -> Iterator[None]:
        """Within it, layers of the language model look at inputs that are not in the sequence."""
        with contextlib.ExitStack() as stack:
            for name, look in looks.items():
                fusion = self.each_modality[name].fusion
                stack.enter_context(fusion.looking(look.sees, look.inputs.values, look.inputs.lengths))
            yield

    def forward(self, batch: Batch, prefix: Prefix | None = None) -> tuple[Tensor, Tensor]:
        """Log-likelihood of every answer in a token tree, which stands below ``prefix`` where there is one.

        Returns:
            Sum of the log-probabilities of each answer's tokens, shape ``[a]``, float32, and their number, shape ``[a]``.
        """
        needed, place = batch.source.unique(return_inverse=True)
        inputs = self.project(batch.inputs)
        embedded = self.embed(batch.input_ids, inputs)
        with self.looking(self.looks(batch, inputs, prefix)):
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

    def token_counts(self, batch: Batch) -> Tensor:
        """How many tokens each sample teaches to write, shape ``[b]``, float32."""
        return torch.bincount(batch.answer, minlength=batch.num_answers).float()

    def predictions(
        self, candidates: Sequence[str] | None, instructions: Sequence[Instruction], settings: AnswerSettings
    ) -> Iterator[Prediction]:
        """Candidates scored where the task has them, greedy answers where not or asked for."""
        return answers(self, candidates, instructions, settings)
