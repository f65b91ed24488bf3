"""Tokens that stand for what is no text: ids below zero, so that none can clash with a vocabulary."""

from enum import IntEnum


class Token(IntEnum):
    """What a modality token does."""

    PATCH = 0
    """Here a projected state of a tower stands."""
    START = 1
    """Before an input."""
    END = 2
    """Behind it."""
    BLANK = 3
    """Where a state would stand of an input that is not read."""
    MEDIA = 4
    """An input that is not in the sequence: layers of the language model look at it."""


def token_id(modality: int, token: Token) -> int:
    """The id of a token of a model's modality, numbered from 0 in the order of its config; those of the first are -1 to -5."""
    return -1 - (len(Token) * modality + token)
