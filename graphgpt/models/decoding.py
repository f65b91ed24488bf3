"""Answers written token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphgpt.models.attention import additive, tree_arguments
from graphgpt.prompts.batch import scoring_batch
from graphgpt.prompts.processor import Example

if TYPE_CHECKING:
    from graphgpt.models.graph_llm import GraphLLM, Prefix


class Decoding:
    """Prompts that were read, and answers to them, of which every pass writes one token each.

    All of it is one token tree (see ``graphgpt.prompts.batch``) with its keys and values kept: a common beginning stands once,
    nothing is padded, and an answer that has ended takes no part any more.

    Args:
        model: In eval mode.
        prompts: Tokenised; each begins with ``prefix``.
        prefix: Of ``GraphLLM.prefix``; it stays as it is.

    Attributes:
        logits: Of the next token of every answer that goes on, shape ``[r, vocabulary]``, float32.
    """

    logits: Tensor

    def __init__(self, model: "GraphLLM", prompts: Sequence[Example], prefix: "Prefix | None" = None) -> None:
        self.model = model
        # A candidate of one token is only predicted and never read: the tree holds the prompts alone.
        batch = scoring_batch(prompts, [(0,)], model.tower.collate, 0 if prefix is None else prefix.length).to(model.device)
        self._cache = _copy(prefix)
        embedded = model.embed(batch.input_ids, batch.inputs)
        self._read(embedded, batch.position_ids, tree_arguments(model.llm, batch, embedded.dtype), batch.source)
        self._positions = batch.position_ids[batch.source]
        self._visible = batch.visible_from(batch.source)

    def write(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Add a token to some answers; the others have ended.

        Args:
            rows: Those that go on, as rows of ``logits``, of which they are all that is left.
            tokens: An id for each of them.
        """
        embedded = self.model.llm.get_input_embeddings()(torch.tensor(tokens, device=self.model.device))
        self._positions = self._positions[list(rows)] + 1
        own = torch.eye(len(rows), dtype=torch.bool, device=self.model.device)
        self._visible = torch.cat([self._visible[list(rows)], own], dim=1)
        self._read(embedded, self._positions, {"attention_mask": additive(self._visible, embedded.dtype)})

    def _read(self, embedded: Tensor, positions: Tensor, attention: dict[str, Any], source: Tensor | int = 0) -> None:
        """A pass, which keeps its keys and values, and the logits after the tokens ``source``, of all by default."""
        output = self.model.llm(
            inputs_embeds=embedded[None],
            position_ids=positions[None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=source,
            **attention,
        )
        self.logits = torch.as_tensor(output.logits)[0].float()


def _copy(prefix: "Prefix | None") -> Any:
    """A cache that can grow: the prefix's keys and values are copied as soon as others follow."""
    from transformers import DynamicCache

    return DynamicCache([] if prefix is None else [(layer.keys, layer.values) for layer in prefix.cache.layers])
