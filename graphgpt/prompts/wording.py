"""Wordings of prompts: sentences with words in braces."""

import re
from collections.abc import Mapping

from graphgpt.errors import with_article

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
