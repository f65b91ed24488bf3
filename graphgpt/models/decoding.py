"""Answers written token by token."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from graphgpt.models.attention import additive, tree_arguments
from graphgpt.models.modality import Projected
from graphgpt.prompts.batch import Batch, common_prompt, scoring_batch
from graphgpt.prompts.processor import Example
from graphgpt.prompts.reader import Inputs, Readers


@dataclass(frozen=True)
class Look:
    """What tokens see of inputs that are not in the sequence.

    Args:
        sees: Which token has which input before it on its path, shape ``[t, k]``, bool.
        inputs: All k of them.
    """

    sees: Tensor
    inputs: Projected


#: By modality; of those whose fusion has layers look at inputs.
Looks = dict[str, Look]


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What a number of prompts begin with, encoded.

    Args:
        length: In tokens.
        cache: Their keys and values, a transformers ``DynamicCache``.
        inputs: By modality the inputs in it.
    """

    length: int
    cache: Any
    inputs: dict[str, Projected]


class Reads(Protocol):
    """What of a model reads prompts."""

    @property
    def llm(self) -> Any:
        """The language model."""
        ...

    @property
    def device(self) -> Any: ...

    @property
    def readers(self) -> Readers:
        """How inputs appear in prompts."""
        ...

    def project(self, inputs: dict[str, Inputs]) -> dict[str, Projected]:
        """Inputs in the language model's space."""
        ...

    def embed(self, input_ids: Tensor, inputs: dict[str, Projected]) -> Tensor:
        """Embeddings of ids ``[*]``, with inputs in their places: ``[*, d]``."""
        ...

    def looks(self, batch: Batch, inputs: dict[str, Projected], prefix: Prefix | None) -> Looks:
        """What a batch's tokens see of inputs that are not in the sequence."""
        ...

    def looking(self, looks: Looks) -> AbstractContextManager[object]:
        """Within it, layers of the language model look at those."""
        ...


def prefix_of(model: Reads, prompts: Sequence[Example]) -> Prefix | None:
    """The common beginning of all prompts, encoded once for all batches of them; None where there is none."""
    length = common_prompt(prompts)
    if length == 0:
        return None
    beginning = prompts[0].first(length)
    batch = scoring_batch([beginning], [(0,)], model.readers).to(model.device)
    inputs = model.project(batch.inputs)
    with model.looking(model.looks(batch, inputs, None)):
        embedded = model.embed(batch.input_ids, inputs)
        cache = model.llm(inputs_embeds=embedded[None], logits_to_keep=1, use_cache=True).past_key_values
    return Prefix(length=length, cache=cache, inputs=inputs)


class Decoding:
    """Prompts that were read, and answers to them, of which every pass writes one token each.

    All of it is one token tree (see ``graphgpt.prompts.batch``) with its keys and values kept: a common beginning stands once,
    nothing is padded, and an answer that has ended takes no part any more.

    Args:
        model: In eval mode.
        prompts: Tokenised; each begins with ``prefix``.
        prefix: Of :func:`prefix_of`; it stays as it is.

    Attributes:
        logits: Of the next token of every answer that goes on, shape ``[r, vocabulary]``, float32.
    """

    logits: Tensor

    def __init__(self, model: Reads, prompts: Sequence[Example], prefix: Prefix | None = None) -> None:
        self.model = model
        # A candidate of one token is only predicted and never read: the tree holds the prompts alone.
        batch = scoring_batch(prompts, [(0,)], model.readers, 0 if prefix is None else prefix.length).to(model.device)
        self._cache = _copy(prefix)
        inputs = model.project(batch.inputs)
        looks = model.looks(batch, inputs, prefix)
        embedded = model.embed(batch.input_ids, inputs)
        self._read(embedded, batch.position_ids, tree_arguments(model.llm, batch, embedded.dtype), looks, batch.source)
        self._positions = batch.position_ids[batch.source]
        self._visible = batch.visible_from(batch.source)
        self._looks = {name: replace(look, sees=look.sees[batch.source]) for name, look in looks.items()}

    def write(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Add a token to some answers; the others have ended.

        Args:
            rows: Those that go on, as rows of ``logits``, of which they are all that is left.
            tokens: An id for each of them.
        """
        embedded = self.model.llm.get_input_embeddings()(torch.tensor(tokens, device=self.model.device))
        going = list(rows)
        self._positions = self._positions[going] + 1
        own = torch.eye(len(rows), dtype=torch.bool, device=self.model.device)
        self._visible = torch.cat([self._visible[going], own], dim=1)
        self._looks = {name: replace(look, sees=look.sees[going]) for name, look in self._looks.items()}
        self._read(embedded, self._positions, {"attention_mask": additive(self._visible, embedded.dtype)}, self._looks)

    def _read(self, embedded: Tensor, positions: Tensor, attention: dict[str, Any], looks: Looks, source: Tensor | int = 0) -> None:
        """A pass, which keeps its keys and values, and the logits after the tokens ``source``, of all by default."""
        with self.model.looking(looks):
            output = self.model.llm(
                inputs_embeds=embedded[None],
                position_ids=positions[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=source,
                **attention,
            )
        self.logits = torch.as_tensor(output.logits)[0].float()


def _copy(prefix: Prefix | None) -> Any:
    """A cache that can grow: the prefix's keys and values are copied as soon as others follow."""
    from transformers import DynamicCache

    return DynamicCache([] if prefix is None else [(layer.keys, layer.values) for layer in prefix.cache.layers])
