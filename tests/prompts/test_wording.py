"""Words filled into wordings, with the article that they ask for."""

import pytest

from graphgpt.prompts.wording import fill_in


@pytest.mark.parametrize("word", ["object", "article", "hour", "unimportant thing", "Excel sheet", "old node", "umbrella"])
def test_an(word: str) -> None:
    assert fill_in("A {node} of a {node}, a thing", {"node": word}) == f"An {word} of an {word}, a thing"


@pytest.mark.parametrize("word", ["node", "paper", "user", "unit", "university", "European city", "one-way street", "house", "", "论文"])
def test_a(word: str) -> None:
    assert fill_in("A {node} of a {node}, an {node}", {"node": word}) == f"A {word} of a {word}, an {word}"


def test_what_is_filled_in_is_left_alone() -> None:
    assert fill_in("{text} is a {node}", {"text": "a object {node} a {node}", "node": "item"}) == "a object {node} a {node} is an item"
