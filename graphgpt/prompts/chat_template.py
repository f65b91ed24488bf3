"""Chat templates rendered. They are programs (Jinja) that come with a model, from anyone: each runs in a process that can be ended."""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphgpt.errors import GraphGPTError

#: A template of a real model takes milliseconds, and the start of the process a tenth of a second.
SECONDS = 20

_INSTEAD = "use model/template=vicuna_v1, or another language model"


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """What the tokenizer's chat template makes of messages with ``role`` and ``content``; the same input is rendered once.

    A thread cannot be stopped and a sandbox counts no steps, so the template gets a process of its own; it sees nothing of this one.

    Raises:
        GraphGPTError: the template does not end, grows without bounds, or cannot be rendered.
    """
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)}
    return _rendered(json.dumps({"template": tokenizer.get_chat_template(), "variables": {**tokens, "messages": [*messages]}}))


@functools.lru_cache(maxsize=1024)
def _rendered(request: str) -> str:
    try:
        done = subprocess.run(
            # -P: a module beside the user is not taken for one of the interpreter's.
            [sys.executable, "-P", str(Path(__file__).with_name("chat_template_process.py"))],
            input=request.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GraphGPTError(f"The tokenizer's chat template does not end (it was stopped after {SECONDS} s); {_INSTEAD}.") from error
    if done.returncode:
        raise GraphGPTError(f"The tokenizer's chat template cannot be rendered (its process ended with {done.returncode}); {_INSTEAD}.")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise GraphGPTError(f"The tokenizer's chat template cannot be rendered ({answer['error']}); {_INSTEAD}.")
    return str(answer["text"])
