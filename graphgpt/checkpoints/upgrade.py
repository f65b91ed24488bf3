"""What earlier versions wrote, as this one reads it: configs, names of files and of parameters. Pure functions of data.

Format 1 had one tower per model, of whatever modality was a graph; its files lay at the root of the folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: What a model with a language model was called.
_RENAMED = {"graph_llm": "multimodal_llm"}

#: The modules of format 1 by what they are now.
FORMER = {"graph/tower": "tower", "graph/projector": "projector", "graph/fusion": "modality_tokens"}

#: The template that was a class of its own, written down; its system message was there where none was given.
_VICUNA_V1 = {
    "name": "turns",
    "user": "USER: {content} ",
    "assistant": "ASSISTANT: {content}",
    "system": "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
}


def model_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config, as data."""
    found = {**model, "name": _RENAMED.get(model.get("name", ""), model.get("name"))}
    if isinstance(tower := found.get("tower"), Mapping) and "weights" in tower:  # what init_from was called
        found["tower"] = {"init_from" if key == "weights" else key: value for key, value in tower.items()}
    if isinstance(template := found.get("template"), Mapping) and template.get("name") == "vicuna_v1":
        system = template.get("system")
        found["template"] = _VICUNA_V1 | ({} if system is None else {"system": system})
    return found


def experiment_settings(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """A training's config, as data."""
    found = {"start_from" if key == "stage1" else key: value for key, value in experiment.items()}
    if isinstance(model := found.get("model"), Mapping):
        found["model"] = model_settings(model)
    return found


def part_file(folder: Path, part: str) -> Path:
    """The file of a part of a checkpoint, whichever version wrote it; it need not be there."""
    file = folder / f"{part}.safetensors"
    former = folder / f"{FORMER.get(part, part)}.safetensors"
    return former if former.is_file() and not file.is_file() else file


def parameter_name(name: str) -> str:
    """Of a parameter of a state to go on from, ``model.projector.weight``, its name now."""
    root, _, rest = name.partition(".")
    part, _, own = rest.partition(".")
    now = next((now for now, former in FORMER.items() if former == part), None)
    return name if now is None else f"{root}.modalities.{now.replace('/', '.')}.{own}"
