"""Conversations about pictures, or about nothing but words, in LLaVA's form."""

from pathlib import Path
from typing import Any

from graphgpt.conversations.dataset import ConversationDataset, ConversationsConfig, text_field
from graphgpt.conversations.reading import MalformedRecord, shown_json
from graphgpt.conversations.store import Conversation
from graphgpt.prompts.instruction import Role
from graphgpt.registry import DATASETS
from graphgpt.schema import UserPath, configclass

#: Who speaks, by the names that files have for it.
ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip


@configclass
class ConversationsFileConfig(ConversationsConfig):
    images: UserPath | None = None
    """Folder that ``image`` names files in; null where no record has one. Nothing outside of it is read."""


@DATASETS.register("conversations")
class ConversationsFile(ConversationDataset):
    """Records of ``id``, perhaps ``image`` (a file, or a list of them) and ``conversations``: ``from`` human or gpt, and ``value``.

    As many ``<image>`` stand in the human's turns as there are images, where each goes. Source: LLaVA (arXiv:2304.08485) and its files.
    """

    Config = ConversationsFileConfig
    config: ConversationsFileConfig

    @classmethod
    def problems(cls, config: ConversationsFileConfig) -> list[str]:
        found = super().problems(config)
        if config.images is not None and not Path(config.images).is_dir():
            found.append(f"dataset.images: there is no folder {config.images}.")
        return found

    @property
    def images(self) -> Path | None:
        return None if self.config.images is None else Path(self.config.images)

    def read(self, record: Any, number: int) -> Conversation:
        return Conversation(id=name_of(record, number), turns=turns_of(record), images=_images(record))


def name_of(record: Any, number: int) -> str:
    """What a record calls itself, or its number."""
    if not isinstance(record, dict):
        raise MalformedRecord("wrong type", "", f"is {shown_json(record)}, expected an object.")
    value = record.get("id", number)
    if not isinstance(value, str | int):
        raise MalformedRecord("wrong type", "id", f"is {shown_json(value)}, expected a text.")
    return str(value)


def turns_of(record: Any) -> tuple[tuple[Role, str], ...]:
    """Who says what in a record's ``conversations``.

    Raises:
        MalformedRecord: a turn is none, or somebody unknown speaks.
    """
    turns = record.get("conversations", record.get("messages"))
    if not isinstance(turns, list):
        found = "is missing." if turns is None else f"is {shown_json(turns)}, expected a list."
        raise MalformedRecord("missing field" if turns is None else "wrong type", "conversations", found)
    made = []
    for place, turn in enumerate(turns):
        at = f"conversations[{place}]"
        if not isinstance(turn, dict):
            raise MalformedRecord("wrong type", at, f"is {shown_json(turn)}, expected an object with 'from' and 'value'.")
        plain = {{"role": "from", "content": "value"}.get(key, key): value for key, value in turn.items()}
        try:
            said, text = text_field(plain, "from"), text_field(plain, "value")
        except MalformedRecord as error:
            raise MalformedRecord(error.reason, f"{at}.{error.field}", error.sentence) from error
        if said not in ROLES:
            raise MalformedRecord("unknown role", f"{at}.from", f"is '{said}', expected one of {', '.join(ROLES)}.")
        made.append((ROLES[said], text))
    return tuple(made)


def _images(record: dict[str, Any]) -> tuple[str, ...]:
    value = record.get("image", record.get("images"))
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise MalformedRecord("wrong type", "image", f"is {shown_json(value)}, expected a file's name or a list of them.")
    return tuple(names)
