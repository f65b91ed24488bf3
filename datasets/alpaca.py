"""Instructions with an input or without, and answers, in Alpaca's form."""

from typing import Any

from graphgpt.conversations.dataset import ConversationDataset, ConversationsConfig, text_field
from graphgpt.conversations.store import Conversation
from graphgpt.registry import DATASETS
from graphgpt.schema import configclass


@configclass
class AlpacaConfig(ConversationsConfig):
    wording: str = "{instruction}"
    """What is asked where a record has no input."""
    with_input: str = "{instruction}\n\n{input}"
    """What is asked where it has one."""


@DATASETS.register("alpaca")
class Alpaca(ConversationDataset):
    """Records of ``instruction``, ``input`` (may be empty) and ``output``, as Stanford's and those in its form have."""

    Config = AlpacaConfig
    config: AlpacaConfig

    @classmethod
    def problems(cls, config: AlpacaConfig) -> list[str]:
        found = super().problems(config)
        for name, known in (("wording", {"instruction": ""}), ("with_input", {"instruction": "", "input": ""})):
            try:
                getattr(config, name).format_map(known)
            except (KeyError, ValueError, IndexError) as error:
                found.append(f"dataset.{name}: {getattr(config, name)!r} cannot be filled in ({error}); it has {', '.join(known)}.")
        return found

    def read(self, record: Any, number: int) -> Conversation:
        words = {"instruction": text_field(record, "instruction"), "input": text_field(record, "input", optional=True)}
        wording = self.config.with_input if words["input"].strip() else self.config.wording
        asked, answer = wording.format_map(words), text_field(record, "output")
        return Conversation(id=str(record.get("id", number)), turns=(("user", asked), ("assistant", answer)))
