"""Functions that are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Numba's compilation of a function, kept for the next time where there is a place for it."""
    try:
        found: Any = njit(cache=True)(function)
    except RuntimeError:  # neither beside the source nor in a home may anything be written
        found = njit(function)
    return found  # type: ignore[no-any-return]
