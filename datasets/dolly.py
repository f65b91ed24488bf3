"""Instructions that people wrote, some with a text that they are about, in Dolly's form."""

from typing import Any

from graphgpt.conversations.dataset import ConversationDataset, text_field
from graphgpt.conversations.store import Conversation
from graphgpt.registry import DATASETS


@DATASETS.register("dolly")
class Dolly(ConversationDataset):
    """Records of ``instruction``, ``context`` (may be empty), ``response`` and ``category``, a line each (databricks-dolly-15k)."""

    def read(self, record: Any, number: int) -> Conversation:
        asked, context = text_field(record, "instruction"), text_field(record, "context", optional=True)
        text = f"{asked}\n\n{context}" if context.strip() else asked
        return Conversation(id=str(record.get("id", number)), turns=(("user", text), ("assistant", text_field(record, "response"))))
