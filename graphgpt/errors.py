"""What a user can get wrong, said in one sentence."""

import difflib
import re
from collections.abc import Iterable

#: What begins with a vowel when it is spoken: by its letters, but for "use", "unit", "Europe", "one", "hour" and the like.
_VOWEL = re.compile(r"(?!uni[^nm]|us[aeu]|ut[ei]|eu|on(?:e|ce)\b)[aeiou]|hour|honou?r|honest|heir", re.IGNORECASE)

#: A name or value of somebody's may have any length, the sentence that quotes it may not.
_LONGEST = 500
_ENDLESS = re.compile(rf"\S{{{_LONGEST},}}|(?<=')[^'\n]{{{_LONGEST},}}(?=')")


class GraphGPTError(Exception):
    """A mistake in the user's input. ``str(error)`` is one or more full sentences fit to be shown as they are.

    Programs catch this class at their outermost level, print it without a traceback and leave with exit code 2.
    """

    def __init__(self, message: str) -> None:
        # From a worker process, torch raises the same class with the worker's traceback as the message.
        super().__init__(shortened(message.rstrip().rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2]))


def shortened(sentence: str) -> str:
    """A sentence without the middle of the endless names and values that it quotes."""
    return _ENDLESS.sub(lambda found: cut(found[0]), sentence)


def cut(text: str) -> str:
    """A text without its middle, if it is endless."""
    return text if len(text) < _LONGEST else f"{text[:200]}…{text[-40:]}"


class ConfigError(GraphGPTError):
    """Everything that is wrong with a configuration, in one report.

    Args:
        problems: One sentence per problem, each naming its config key.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: list[str] = list(problems)
        lines = [f"{amount(len(self.problems), 'problem')} in the configuration:"]
        lines += [f"  {i}. {problem}" for i, problem in enumerate(self.problems, start=1)]
        super().__init__("\n".join(lines))


class DataError(GraphGPTError):
    """A data file or record that cannot be used; names the file, the place in it and the value found."""


class SampleTooLong(DataError):
    """A sample with more tokens than the model reads."""


class CheckpointError(GraphGPTError):
    """A checkpoint folder that is incomplete, damaged or made for something else."""


class Interrupted(GraphGPTError):
    """The user or a scheduler asked the program to stop, and it did; says how to go on."""


def amount(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 item``, ``1,460 items``; what ends in anything but an s is given."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def with_article(word: str) -> str:
    """A word after ``a`` or ``an``, by how it is spoken."""
    return f"an {word}" if _VOWEL.match(word) else f"a {word}"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The nearest known word, after ``prefix``, as a question; empty when none is near."""
    matches = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"Did you mean '{prefix}{matches[0]}'?" if matches else ""


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The hint that follows an unknown word: the nearest known one after ``prefix``, else all of them (a sentence, or empty)."""
    names = sorted(known)
    return did_you_mean(word, names, prefix) or (f"Known: {', '.join(names)}." if names else "")


def first_line(error: BaseException) -> str:
    """What another library's exception says, in one line: its first, or its class's name when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
