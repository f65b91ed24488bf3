"""GraphGPT: a language model learns to read graphs, pictures and whatever else has an encoder, through tokens."""

import importlib
from typing import TYPE_CHECKING, Any

from graphgpt.machine.installation import CHECKOUT

if TYPE_CHECKING:
    from graphgpt.assistant.assistant import Assistant
    from graphgpt.assistant.graph_assistant import GraphAssistant

__all__ = ["Assistant", "GraphAssistant", "__version__"]

__version__ = "0.1.0"

# `graphgpt.configs`, `graphgpt.datasets` and `graphgpt.runners` are folders at the root of a checkout; installed, they lie in here.
if CHECKOUT is not None:
    __path__.append(str(CHECKOUT))


#: Imported when they are asked for: with them come torch and transformers, which `graphgpt ls` can do without.
_LATER = {"Assistant": "graphgpt.assistant.assistant", "GraphAssistant": "graphgpt.assistant.graph_assistant"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
