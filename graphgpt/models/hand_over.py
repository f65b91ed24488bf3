"""Whether a model goes on where another stage left it: what of its config must be as it was."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from graphgpt.files.configs import options
from graphgpt.models.parts import HANDED_OVER, PARTS, modalities_of, respelled


def differences(model: Any, theirs: Mapping[str, Any], path: str) -> list[str]:
    """What keeps a model from starting at a checkpoint, one sentence each.

    Args:
        model: The ``Config`` of a ``MultimodalLLM``.
        theirs: Of the checkpoint's, as plain data.
        path: Of the checkpoint, for the sentences.
    """
    problems: list[str] = []
    if theirs["llm"]["path"] != model.llm.path:
        problems.append(
            f"start_from: {path} was made for the language model '{theirs['llm']['path']}', not for model.llm.path={model.llm.path}."
        )
    before, now = modalities_of(theirs), model.by_modality
    if [*before] != [*now]:
        reads = [", ".join(names) or "words alone" for names in (before, now)]
        problems.append(f"start_from: {path} reads {reads[0]}, and this model {reads[1]}: they have to read the same, in the same order.")
    else:
        for name, config in now.items():
            found = [one for part in PARTS for one in _compared(path, part, before[name].get(part), getattr(config, part) or config.fused)]
            problems += [respelled(problem, name) for problem in found] if model.modalities else found
    problems += _compared(path, "compat", theirs.get("compat", {}), model.compat)
    # A projector alone was learned with a language model that knows all forms as well as before: LLaVA's first stage has one of its own.
    if theirs["lora"]["rank"] or theirs["llm"].get("train"):
        problems += _compared(path, "template", theirs.get("template", {}), model.template)
    if theirs["lora"]["rank"] not in (0, model.lora.rank):
        problems.append(
            f"start_from: {path} has adapters of rank {theirs['lora']['rank']}, but model.lora.rank={model.lora.rank} would drop them."
        )
    elif theirs["lora"]["rank"]:
        adapters = defaults(model.lora) | theirs["lora"]
        problems += [
            f"start_from: {path} has adapters with {name}={adapters[name]!r}, but model.lora.{name}={value!r}."
            for name, value in dataclasses.asdict(model.lora).items()
            if name not in ("rank", "dropout") and adapters[name] != value
        ]
    return problems


def _compared(path: str, part: str, theirs: Mapping[str, Any] | None, config: Any) -> Iterator[str]:
    ours = dataclasses.asdict(config)
    theirs = dict(theirs or ({"name": "splice"} if part == "fusion" else {}))
    if (name := theirs.get("name")) != ours.get("name"):
        # A class with several files of settings has none of its own name.
        which = f"model/{part}={name}" if name in options(f"model/{part}") else f"the model/{part} that it was trained with"
        right = f"; choose {which}" if name else ""
        yield f"start_from: {path} has {part}.name={name!r}, but model.{part}.name={ours['name']!r}{right}."
        return  # the fields of one class say nothing about another's
    theirs = defaults(config) | theirs  # it may be older than a setting
    for name, value in ours.items():
        if name not in HANDED_OVER[part] and theirs.get(name) != value:
            yield f"start_from: {path} has {part}.{name}={theirs.get(name)!r}, but model.{part}.{name}={value!r}."


def defaults(config: Any) -> dict[str, Any]:
    """Those of a config's fields that have one, as plain data."""
    fields = type(config).__pydantic_fields__
    found = {name: info.get_default(call_default_factory=True) for name, info in fields.items() if not info.is_required()}
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        for name, value in found.items()
    }
