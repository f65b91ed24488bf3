"""``@configclass``: how every configuration is declared."""

from typing import TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def configclass(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose values are checked against their annotations and that knows no extra keys.

    The string under a field documents it; ``Literal`` and ``Field(gt=0)`` constrain it.
    """
    return dataclass(kw_only=True, frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))(cls)
