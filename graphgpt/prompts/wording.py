"""Wordings of prompts: sentences with words in braces, and places for what is no text."""

import re
from collections.abc import Iterator, Mapping, Sequence

from graphgpt.errors import with_article
from graphgpt.prompts.instruction import ModalityInput, Part
from graphgpt.schema import PLACEHOLDER

_ARTICLE = re.compile(r"\b([Aa]) \{(\w+)\}")


def fill_in(wording: str, words: Mapping[str, str]) -> str:
    """Fill in the words in braces; ``a`` before one becomes ``an`` where the word that comes asks for it.

    Args:
        wording: Such as ``Which topic does a {node} of a {domain} graph have?``
        words: What stands for each word in braces.

    Raises:
        KeyError: a word is not among them.
    """

    def article(found: re.Match[str]) -> str:
        letter, name = found.groups()
        return f"{letter}{with_article(words.get(name, '')).partition(' ')[0][1:]} {{{name}}}"

    return _ARTICLE.sub(article, wording).format_map(words)


def content(wording: str, words: Mapping[str, str], inputs: Sequence[ModalityInput]) -> tuple[Part, ...]:
    """What a message in a wording holds: its texts filled in, and the inputs in the order of its placeholders.

    It is divided before anything is filled in, so a text may hold whatever it likes.

    Raises:
        ValueError: there are more or fewer inputs than places for them.
    """
    if (places := wording.count(PLACEHOLDER)) != len(inputs):
        raise ValueError(f"{places} {PLACEHOLDER} in a wording, and {len(inputs)} inputs for them")
    return tuple(part if not isinstance(part, str) else fill_in(part, words) for part in placed(wording, iter(inputs)))


def placed(text: str, inputs: Iterator[ModalityInput]) -> Iterator[Part]:
    """A text divided at its placeholders, each replaced by the next input."""
    first, *others = text.split(PLACEHOLDER)
    yield first
    for other in others:
        yield next(inputs)
        yield other
