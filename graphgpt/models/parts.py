"""What a model's modalities are made of, by the names of their config nodes; without torch, for who only reads configs."""

import re
from collections.abc import Mapping
from typing import Any

from graphgpt.registry import TOWERS

#: The parts of a modality.
PARTS = ("tower", "projector", "fusion")

#: What goes on from one stage to the next as it is, and those of its settings that are each stage's own.
HANDED_OVER: dict[str, set[str]] = {
    "tower": {"train", "dropout", "init_from", "cache", "cache_gb"},
    "projector": {"dropout"},
    "fusion": set(),
    "template": set(),
    "compat": {"tower_dropout"},
}


def respelled(text: str, modality: str) -> str:
    """A text in which a modality's parts are spelt as in a model of several: ``model.tower`` becomes ``model.modalities.graph.tower``."""
    within = f"model.modalities.{modality}"
    parts = "|".join(PARTS)
    text = re.sub(rf"\bmodel/({parts})\b", rf"model/\1@{within}.\1", text)
    return re.sub(rf"(?<!@)\bmodel\.({parts})\b", rf"{within}.\1", text)


def modalities_of(model: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The modalities of any model's config as plain data, whichever way it has them; by name, with their parts' settings."""
    if model.get("tower") is None:
        return dict(model.get("modalities") or {})
    return {TOWERS.get(model["tower"]["name"]).modality: {part: model.get(part) for part in PARTS}}
