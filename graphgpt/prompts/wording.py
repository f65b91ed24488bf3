"""Wordings of prompts: sentences with words in braces, and places for what is no text."""

import re
from collections.abc import Iterator, Mapping, Sequence

from graphgpt.errors import with_article
from graphgpt.prompts.instruction import ModalityInput, Part
from graphgpt.schema import placeholder

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


def count_places(wording: str, modality: str) -> int:
    """How often a wording has a place for an input of a modality."""
    return wording.count(placeholder(modality))


def content(wording: str, words: Mapping[str, str], inputs: Mapping[str, Sequence[ModalityInput]]) -> tuple[Part, ...]:
    """What a message in a wording holds: its texts filled in, and the inputs where their placeholders stand.

    It is divided before anything is filled in, so a text may hold whatever it likes.

    Args:
        wording: Such as ``<graph> Which topic does a {node} have?``
        words: As for :func:`fill_in`.
        inputs: By modality, in the order of its placeholders.

    Raises:
        ValueError: there are more or fewer inputs of a modality than places for them.
    """
    for modality, own in inputs.items():
        if (places := count_places(wording, modality)) != len(own):
            raise ValueError(f"{places} {placeholder(modality)} in a wording, and {len(own)} inputs for them")
    queues = {modality: iter(own) for modality, own in inputs.items()}
    return tuple(part if not isinstance(part, str) else fill_in(part, words) for part in placed(wording, queues))


def placed(text: str, inputs: Mapping[str, Iterator[ModalityInput]]) -> Iterator[Part]:
    """A text divided at the placeholders of the given modalities, each replaced by the next input of its modality."""
    if not inputs:
        yield text
        return
    names = "|".join(map(re.escape, inputs))
    first, *others = re.split(f"<({names})>", text)
    yield first
    for modality, other in zip(others[::2], others[1::2], strict=True):
        yield next(inputs[modality])
        yield other
