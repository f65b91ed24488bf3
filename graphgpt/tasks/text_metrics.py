"""Measures of written answers against the right ones."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

#: What F and yes-rate of yes/no questions count as the answer that is looked for.
YES, NO = "yes", "no"

_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_DIGITS)} | {"none": "0"}
#: Punctuation that stands between words; a full stop or comma between digits stays.
_SIGNS = re.compile(r"(?<!\d)[.,]|[.,](?!\d)|[;/\[\]\"{}()=+\\_<>@`?!:-]")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without signs."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def rouge_l(expected: str, said: str) -> float:
    """F1 of the longest common subsequence of lower-case words (Lin, "ROUGE", 2004, section 3.1, with beta 1)."""
    right, found = words(expected), words(said)
    if not right or not found:
        return 0.0
    longest = [0] * (len(found) + 1)
    for word in right:
        diagonal = 0
        for j, other in enumerate(found, start=1):
            diagonal, longest[j] = longest[j], diagonal + 1 if word == other else max(longest[j], longest[j - 1])
    return 2 * longest[-1] / (len(right) + len(found))


def cider_d(references: Sequence[Sequence[str]], said: Sequence[str], sigma: float = 6.0, longest: int = 4) -> np.ndarray:
    """CIDEr-D of captions, shape ``[n]``: likeness of n-grams of 1 to 4 words, weighted by how rare they are among the references.

    Source: Vedantam et al., "CIDEr" (arXiv:1411.5726), section 5 and, for the D, section 7: counts are clipped, and captions of another
    length cost a Gaussian of the difference. As there, the scale is 10 for equal captions of rare words. Words are not stemmed.

    Args:
        references: Right captions of every picture, one or more.
        said: A caption for each.
        sigma: Of the Gaussian, in words.
        longest: n of the longest n-grams.
    """
    right = [[_grams(words(text), longest) for text in texts] for texts in references]
    rarity: Counter[Any] = Counter(gram for texts in right for gram in {gram for grams in texts for gram in grams})
    total = math.log(max(1, len(references)))

    def weighted(grams: Counter[Any]) -> list[dict[Any, float]]:
        by_length: list[dict[Any, float]] = [{} for _ in range(longest)]
        for gram, count in grams.items():
            by_length[len(gram) - 1][gram] = count * (total - math.log(max(1, rarity[gram])))
        return by_length

    found = []
    for texts, caption in zip(right, said, strict=True):
        own, size = weighted(_grams(words(caption), longest)), len(words(caption))
        scores = []
        for grams in texts:
            theirs = weighted(grams)
            length = sum(count for gram, count in grams.items() if len(gram) == 1)
            penalty = math.exp(-((size - length) ** 2) / (2 * sigma**2))
            scores.append(penalty * sum(_clipped_cosine(a, b) for a, b in zip(own, theirs, strict=True)) / longest)
        found.append(10 * sum(scores) / len(scores))
    return np.array(found)


def _grams(tokens: Sequence[str], longest: int) -> Counter[Any]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, longest + 1) for i in range(len(tokens) - n + 1))


def _clipped_cosine(said: dict[Any, float], right: dict[Any, float]) -> float:
    length = math.sqrt(sum(value**2 for value in said.values())) * math.sqrt(sum(value**2 for value in right.values()))
    return sum(min(value, right[gram]) * right[gram] for gram, value in said.items() if gram in right) / length if length else 0.0


def normal_answer(text: str) -> str:
    """A short answer without what is no difference: case, articles, signs, and whether a number is a word.

    As VQA's evaluation has it (Antol et al., arXiv:1505.00468, section 4, and its released code), but for its list of contractions.
    """
    plain = _SIGNS.sub(" ", text.lower().replace("'", "").replace("\u2019", ""))
    kept = (_NUMBERS.get(word, word) for word in plain.split() if word not in _ARTICLES)
    return " ".join(kept)


def exact_match(answers: Sequence[str], said: str) -> float:
    """Whether an answer is one of the right ones, see :func:`normal_answer`."""
    return float(normal_answer(said) in {normal_answer(answer) for answer in answers})


def vqa_score(answers: Sequence[str], said: str) -> float:
    """How many of ten people gave an answer: min(their number / 3, 1), mean over leaving each of them out (arXiv:1505.00468, section 4).

    Of fewer than ten answers, which are then not people's but a list of all that is right: whether it is among them.
    """
    if len(answers) < 10:
        return exact_match(answers, said)
    right, given = [normal_answer(answer) for answer in answers], normal_answer(said)
    each = [min(1.0, sum(other == given for place, other in enumerate(right) if place != left_out) / 3) for left_out in range(len(right))]
    return sum(each) / len(each)


def yes_no(truth: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of yes, and how often yes is said, which is a half where questions are balanced.

    Source: POPE (Li et al., arXiv:2305.10355), section 4.

    Args:
        truth: Whether yes is right, shape ``[n]``, bool.
        answer: Whether yes is said, shape ``[n]``, bool.
    """
    both = int((truth & answer).sum())
    precision, recall = both / max(1, int(answer.sum())), both / max(1, int(truth.sum()))
    return {
        "accuracy": float((truth == answer).mean()),
        "f1": 2 * precision * recall / (precision + recall) if both else 0.0,
        "precision": precision,
        "recall": recall,
        "yes_rate": float(answer.mean()),
    }


def iou(expected: str, said: str) -> float:
    """Area that two boxes share, over the area that they cover together; 0 of what is no box.

    Args:
        expected: Left, top, right and bottom in square brackets, as shares of the sides: ``[0.00, 0.33, 0.33, 0.66]``.
        said: The same, anywhere in a text.
    """
    right, found = _box(expected), _box(said)
    if right is None or found is None:
        return 0.0
    width = min(right[2], found[2]) - max(right[0], found[0])
    height = min(right[3], found[3]) - max(right[1], found[1])
    shared = max(0.0, width) * max(0.0, height)
    together = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (right, found)) - shared
    return shared / together if together > 0 else 0.0


def _box(text: str) -> list[float] | None:
    found = re.search(r"\[\s*" + r"\s*,\s*".join([r"(\d*\.?\d+)"] * 4) + r"\s*\]", text)
    if found is None:
        return None
    left, top, right, bottom = map(float, found.groups())
    return [left, top, right, bottom] if left < right and top < bottom else None
