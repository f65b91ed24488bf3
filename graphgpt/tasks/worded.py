"""Tasks whose questions are worded in YAML: sentences with words in braces and places for inputs."""

import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from graphgpt.errors import amount, nearest
from graphgpt.prompts.instruction import ModalityInput, Part
from graphgpt.prompts.wording import content, count_places
from graphgpt.schema import configclass, placeholder
from graphgpt.tasks.task import Task


@configclass
class TaskConfig:
    """What all worded tasks have in common."""

    name: str
    """Name of a registered task."""
    wording: str
    """Which of the wordings below is used: its name, or its number from 1."""
    wordings: dict[str, str]
    """Prompts by name; words in braces are filled in, ``<graph>`` and ``<image>`` are where inputs go."""
    max_chars: int = Field(default=300, ge=0)
    """Longest text taken from a node or a picture, cut between words."""

    @property
    def chosen(self) -> str | None:
        """The chosen wording, None where there is none of that name or number."""
        names = [*self.wordings]
        if self.wording.isdecimal() and self.wording not in names and 0 < int(self.wording) <= len(names):
            return self.wordings[names[int(self.wording) - 1]]
        return self.wordings.get(self.wording)


class WordedTask(Task):
    """Base of tasks that put a question in the words of their config."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    dataset_words: ClassVar[tuple[str, ...]]
    """What the config of a dataset calls things; every wording may use these words."""
    words: ClassVar[tuple[str, ...]] = ()
    """What the task fills into its wordings, besides the dataset's own words."""
    text_words: ClassVar[tuple[str, ...]] = ()
    """Those of ``words`` that hold texts of items, where the answers hold none."""
    places: ClassVar[Mapping[str, int]]
    """By modality how many inputs an item has, and so how often its placeholder stands in a wording that has it."""
    needs: ClassVar[str | None] = None
    """A modality without which a wording asks for nothing, since the answer is about its tokens themselves."""

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """A wording that is not there, or that cannot be filled in."""
        found = [problem for name, wording in config.wordings.items() for problem in cls._wording_problems(name, wording)]
        if config.chosen is None:
            found.append(f"task.wording: '{config.wording}' is not one of task.wordings. {nearest(config.wording, config.wordings)}")
        return found

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """What the chosen wording has no place for. Not what its inputs are made of: a run without them is another's control."""
        has, found = _fields(config.chosen), {}
        if "relation" in cls.dataset_words and "relation" not in has:
            found["dataset.relation"] = f"acts only in a wording with {{relation}}, and task.wording={config.wording} has none."
        if not cls.has_texts(config):
            why = f"changes nothing, for the prompts of task.wording={config.wording} hold no text."
            found |= dict.fromkeys(("task.max_chars", "task.text_dropout"), why)
        return found

    @classmethod
    def has_texts(cls, config: Any) -> bool:
        """Whether prompts in the chosen wording, or their answers, hold texts of items."""
        return not cls.text_words or bool(_fields(config.chosen) & set(cls.text_words))

    @classmethod
    def modalities(cls, config: Any) -> Collection[str] | None:
        return tuple(modality for modality in cls.places if count_places(config.chosen, modality))

    @classmethod
    def _wording_problems(cls, name: str, wording: str) -> list[str]:
        known = [*cls.dataset_words, *cls.words]
        try:
            fields = _fields(wording)
        except ValueError as error:
            return [f"task.wordings.{name}: {wording!r} cannot be filled in: {error}; a brace that is meant as one is doubled."]
        found = [
            f"task.wordings.{name}: '{{{field}}}' is not known here. {nearest(field, known)}"
            for field in sorted(fields)
            if field not in known
        ]
        for modality, expected in cls.places.items():
            times, needed = count_places(wording, modality), cls.needs == modality
            if times != expected and (times or needed):
                or_none = "" if needed else " (or none, for text alone)" if len(cls.places) == 1 or modality == "graph" else " (or none)"
                has = f"has {placeholder(modality)} {amount(times, 'time')}"
                found.append(f"task.wordings.{name}: {has}, expected {expected}{or_none}.")
        return found

    def other_wordings(self) -> list[str]:
        chosen = self.config.chosen

        def alike(text: str) -> bool:
            return text != chosen and all(count_places(text, modality) == count_places(chosen, modality) for modality in self.places)

        return [name for name, text in self.config.wordings.items() if alike(text)]

    def fill(self, inputs: Mapping[str, Sequence[ModalityInput]], **words: str) -> tuple[Part, ...]:
        """The chosen wording with its words filled in, and inputs where their placeholders stand; those without a place are left out."""
        chosen = self.config.chosen
        placed = {modality: own if count_places(chosen, modality) else () for modality, own in inputs.items()}
        return content(chosen, self.called | words, placed)

    @property
    def called(self) -> dict[str, str]:
        """What the dataset calls things."""
        return {name: getattr(self.dataset, name) for name in self.dataset_words}

    def cut(self, text: str) -> str:
        """At most ``max_chars`` characters of a text, on one line, cut between words."""
        flat = " ".join(text.split())
        if len(flat) <= self.config.max_chars:
            return flat
        head = flat[: self.config.max_chars + 1]
        return head[: head.rfind(" ")].rstrip() if " " in head else head[:-1]


def _fields(wording: str) -> set[str]:
    """The words in braces of a wording.

    Raises:
        ValueError: a brace is left open.
    """
    return {field for _, field, _, _ in string.Formatter().parse(wording) if field is not None}
