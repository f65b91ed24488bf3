"""What a user can get wrong, said in one sentence."""

import difflib
from collections.abc import Iterable


class GraphGPTError(Exception):
    """A mistake in the user's input. ``str(error)`` is one or more full sentences fit to be shown as they are.

    Programs catch this class at their outermost level, print it without a traceback and leave with exit code 2.
    """

    def __init__(self, message: str) -> None:
        # From a worker process, torch raises the same class with the worker's traceback as the message.
        super().__init__(message.rstrip().rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2])


class ConfigError(GraphGPTError):
    """Everything that is wrong with a configuration, in one report.

    Args:
        problems: One sentence per problem, each naming its config key.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: list[str] = list(problems)
        noun = "problem" if len(self.problems) == 1 else "problems"
        lines = [f"{len(self.problems)} {noun} in the configuration:"]
        lines += [f"  {i}. {problem}" for i, problem in enumerate(self.problems, start=1)]
        super().__init__("\n".join(lines))


class DataError(GraphGPTError):
    """A data file or record that cannot be used; names the file, the place in it and the value found."""


class CheckpointError(GraphGPTError):
    """A checkpoint folder that is incomplete, damaged or made for something else."""


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The hint that follows an unknown word: the nearest known one after ``prefix``, else all of them (a sentence, or empty)."""
    names = sorted(known)
    matches = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if matches:
        return f"Did you mean '{prefix}{matches[0]}'?"
    return f"Known: {', '.join(names)}." if names else ""
