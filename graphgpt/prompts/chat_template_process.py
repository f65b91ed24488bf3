"""The process in which a chat template is rendered: a request as JSON on its input, the text as JSON on its output.

It is run as a file and imports nothing of ours, for that would take seconds. The environment is what Hugging Face documents for
templates: Jinja's sandbox with loop controls, ``generation`` blocks, ``raise_exception``, ``strftime_now`` and ``tojson``.
"""

import contextlib
import datetime
import json
import sys
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Of what a template may write, and of the process's memory; one does with a thousandth.
CHARACTERS, BYTES = 10**6, 2**30


class Generation(Extension):
    """``{% generation %}`` marks what a model writes; here its content stands as it is."""

    tags = {"generation"}  # Jinja's attribute

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, variables: dict[str, Any]) -> str:
    """A template's text.

    Raises:
        TemplateError: the template says so, or is none, or writes too much.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **({"ensure_ascii": False} | options))
    given = {"tools": None, "documents": None, "add_generation_prompt": False} | variables
    text = ""
    for piece in environment.from_string(template).generate(given):
        text += piece
        if len(text) > CHARACTERS:
            _raise(f"it writes more than {CHARACTERS:,} characters")
    return text


def _raise(message: str) -> None:
    raise TemplateError(message)


def main() -> None:
    """Answer one request."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system limits memory
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    request = json.load(sys.stdin.buffer)
    try:
        answer = {"text": render(request["template"], request["variables"])}
    except Exception as error:  # a program of somebody else's
        answer = {"error": (str(error).splitlines() or [""])[0][:200] or type(error).__name__}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
