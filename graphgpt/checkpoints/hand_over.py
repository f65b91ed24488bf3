"""What a run takes of the run that it starts from, where nobody has chosen anything else."""

import copy
from collections.abc import Collection
from typing import Any

from graphgpt.checkpoints.folder import find_checkpoint, read_experiment, read_manifest
from graphgpt.models.parts import HANDED_OVER, PARTS

#: By node, the settings in it that are not taken: how a stage trains and what it runs on are its own. What is taken of a language model
#: is which one it is.
TAKEN = {
    **{f"model.{part}": ignored for part, ignored in HANDED_OVER.items()},
    "model.llm": {"dtype", "attn_implementation", "train"},
    "dataset": set(),
}


def handed_over(path: str, settings: dict[str, Any], defaults: dict[str, Any], chosen: Collection[str]) -> dict[str, Any]:
    """Settings in which the model's parts and the dataset are those of a checkpoint, but for what was chosen.

    Args:
        path: Run or checkpoint folder.
        settings: Of an experiment, plain, without what its classes have by default.
        defaults: The same of a command line without any override: where ``settings`` are no different, nobody has chosen them.
        chosen: Dotted keys of the command line, of values and of files: chosen, even if no different.

    Raises:
        CheckpointError: the checkpoint's config cannot be read.
    """
    folder = find_checkpoint(path)
    theirs, found = read_experiment(folder / "config.yaml"), dict(settings)
    model = theirs.get("model")
    if not isinstance(model, dict) or model.get("name") != found["model"].get("name") or "lora" not in model:
        return found  # another model, or one of a single stage: refused, with what to do
    found = copy.deepcopy(found)
    several = {f"model.modalities.{name}.{part}": HANDED_OVER[part] for name in model.get("modalities") or {} for part in PARTS}
    for key, ignored in (TAKEN | several).items():
        above, _, part = key.rpartition(".")
        if above in chosen or (key == "dataset" and "imported" in read_manifest(folder)):  # which no run has made: it stands for any
            continue
        source, ours, base, target = [_node(one, above) for one in (theirs, settings, defaults, found)]
        if isinstance(node := source.get(part), dict):
            here = ours.get(part) or {}
            own = here if here.get("name") == node.get("name") else {}
            node = {name: value for name, value in node.items() if name not in ignored}
            node |= {name: value for name, value in own.items() if name in ignored}
            target[part] = _merged(key, node, ours.get(part), base.get(part), chosen)
    return found


def _node(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """What stands at a dotted key; nothing where there is none."""
    for word in filter(None, key.split(".")):
        settings = settings.get(word) or {}
    return settings


def _merged(key: str, theirs: Any, ours: Any, base: Any, chosen: Collection[str]) -> Any:
    """A value of theirs, with what of ours was chosen."""
    if key in chosen:
        return ours
    if not isinstance(theirs, dict) or not isinstance(ours, dict | None) or not isinstance(base, dict | None):
        return theirs if ours == base else ours
    ours, base = ours or {}, base or {}
    if ours.get("name") != base.get("name"):
        return ours  # another class, whose settings are its own
    merged = {name: _merged(f"{key}.{name}", value, ours.get(name), base.get(name), chosen) for name, value in theirs.items()}
    added = {name: value for name, value in ours.items() if name not in theirs and (f"{key}.{name}" in chosen or value != base.get(name))}
    return merged | added
