"""Conversations as ShareGPT's users saved them."""

from typing import Any

from graphgpt.conversations.dataset import ConversationDataset
from graphgpt.conversations.store import Conversation
from graphgpt.datasets.conversations import name_of, turns_of
from graphgpt.registry import DATASETS


@DATASETS.register("sharegpt")
class ShareGPT(ConversationDataset):
    """Records of ``conversations`` (or ``messages``): ``from`` and ``value`` (or ``role`` and ``content``), perhaps with an ``id``.

    A turn of the system may come first.
    """

    def read(self, record: Any, number: int) -> Conversation:
        return Conversation(id=name_of(record, number), turns=turns_of(record))
