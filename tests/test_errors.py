"""Sentences for users: of any name, but of no length."""

import pytest

from graphgpt.errors import CheckpointError, ConfigError, GraphGPTError, amount, with_article


def test_what_is_quoted_does_not_make_a_sentence_endless() -> None:
    name, text = "/tmp/" + "a" * 5000 + ".json", "word " * 2000
    said = str(CheckpointError(f"{name} is refused: '{text}' stands there, expected '{text[:100]}'."))
    assert len(said) < 700 and said.startswith("/tmp/aaa") and ".json is refused: 'word word" in said
    assert said.endswith(f"stands there, expected '{text[:100]}'.")
    assert len(str(ConfigError([f"name: {name} is too long."]))) < 400
    usual = f"{'/a' * 150} is not there; 'graphgpt data build' makes one."
    assert str(GraphGPTError(usual)) == usual


@pytest.mark.parametrize(("count", "text"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes"), (1460, "1,460 boxes")])
def test_numbers_and_nouns(count: int, text: str) -> None:
    assert amount(count, "box", "boxes") == text
    assert amount(count, "item") == text.replace("boxes", "items").replace("box", "item")


def test_articles() -> None:
    assert [with_article(word) for word in ("int", "list", "HeteroData", "object")] == ["an int", "a list", "a HeteroData", "an object"]
