"""Measures of written answers, on values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.tasks.text_metrics import cider_d, exact_match, iou, normal_answer, rouge_l, vqa_score, yes_no


def test_rouge_l() -> None:
    assert rouge_l("the cat sat", "The cat, sat!") == 1
    assert rouge_l("a b c d", "a c e") == pytest.approx(2 * 2 / 7)
    assert rouge_l("a", "") == rouge_l("", "a") == 0


def test_cider_of_one_word_by_hand() -> None:
    """Two pictures, one word each: the rarity of each is log 2, of longer n-grams there are none, so a quarter of the scale."""
    assert cider_d([["dog"], ["cat"]], ["dog", "dog"]).tolist() == pytest.approx([2.5, 0])


def test_cider_by_hand() -> None:
    """``a dog`` and ``a cat``: the article is everywhere and counts nothing, the noun and the pair count log 2 each."""
    found = cider_d([["a dog"], ["a cat"]], ["a dog", "a dog"])
    assert found.tolist() == pytest.approx([10 * 2 / 4, 0])
    # One word more, three instead of two: a Gaussian of 1, the noun's vector is now (1, 1) / sqrt 2 against (1, 0).
    longer = cider_d([["a dog"], ["a cat"], ["a fox"]], ["a dog dog", "x", "y"])[0]
    rare = math.log(3)
    uni = rare * rare / (2 * rare * rare)  # clipped to one dog, over the length of two
    pair = rare * rare / (rare * math.hypot(rare, rare))  # "a dog" of "a dog" and "dog dog", which is as rare
    assert longer == pytest.approx(10 * math.exp(-1 / 72) * (uni + pair) / 4)


def test_cider_takes_the_mean_over_references() -> None:
    both = cider_d([["dog", "cat"], ["fox"]], ["dog", "fox"])[0]
    assert both == pytest.approx(2.5 / 2)


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The Two dogs.", "2 dogs"), ("a red, round apple!", "red round apple"), ("1,000.5", "1,000.5"), ("None", "0"), ("It's", "its")],
)
def test_normal_answers(text: str, normal: str) -> None:
    assert normal_answer(text) == normal


def test_exact_match() -> None:
    assert exact_match(["2", "two"], "Two.") == 1
    assert exact_match(["2"], "three") == 0


def test_vqa_score_of_ten_people() -> None:
    """Of ten answers three are ``red``: left out one of them, two agree, 2/3; left out another, three, 1."""
    people = ["red"] * 3 + ["blue"] * 7
    assert vqa_score(people, "Red") == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert vqa_score(people, "blue") == 1
    assert vqa_score(["red", "crimson"], "crimson") == 1


def test_yes_no() -> None:
    truth = np.array([True, True, False, False])
    found = yes_no(truth, np.array([True, False, True, False]))
    assert found == {"accuracy": 0.5, "f1": 0.5, "precision": 0.5, "recall": 0.5, "yes_rate": 0.5}
    assert yes_no(truth, np.zeros(4, dtype=bool))["f1"] == 0
    assert yes_no(truth, truth) == {"accuracy": 1, "f1": 1, "precision": 1, "recall": 1, "yes_rate": 0.5}


def test_boxes() -> None:
    box = "[0.00, 0.00, 0.50, 0.50]"
    assert iou(box, f"It is at {box}.") == 1
    assert iou(box, "[0.25, 0.00, 0.75, 0.50]") == pytest.approx(1 / 3)
    assert iou(box, "[0.6, 0.6, 0.9, 0.9]") == iou(box, "nowhere") == iou(box, "[0.5, 0.5, 0.1, 0.1]") == 0


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_measured(one: str, other: str) -> None:
    assert 0 <= rouge_l(one, other) <= 1
    assert exact_match([one], one) == 1
    assert cider_d([[one], [other]], [one, other]).min() >= 0
    assert 0 <= iou(one, other) <= 1
