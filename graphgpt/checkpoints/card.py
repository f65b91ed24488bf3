"""The model card of a checkpoint folder: ``README.md``, made from the manifest, the history and the scores known so far."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphgpt.checkpoints.folder import checkpoint_experiment, read_history, read_manifest
from graphgpt.checkpoints.next_steps import Step, after_training
from graphgpt.checkpoints.shapes import Score
from graphgpt.errors import amount
from graphgpt.files.atomic import write_json, write_text
from graphgpt.files.records import read_record
from graphgpt.models.parts import modalities_of

SCORES = "scores.json"

#: Licences of the base models that are shipped as configs, by a part of their path.
LICENCES = {
    "smollm2": "Apache-2.0",
    "qwen3": "Apache-2.0",
    "mistral-7b": "Apache-2.0",
    "vicuna": "Llama 2 Community License",
    "llama-3.1": "Llama 3.1 Community License",
}


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """What evaluations found, oldest first, each as :func:`add_scores` notes it.

    Raises:
        CheckpointError: the file cannot be read as that.
    """
    file = folder / SCORES
    return [dict(score) for score in read_record(file, list[Score], "the scores of a checkpoint")] if file.is_file() else []


def add_scores(folder: Path, result: Mapping[str, Any], evaluation: Path) -> None:
    """Note the scores of an evaluation beside the checkpoint, and renew its card.

    Args:
        folder: A checkpoint folder.
        result: What ``metrics.json`` holds.
        evaluation: Where it lies; an older entry of the same evaluation is replaced.
    """
    entry = {
        **{key: result[key] for key in ("task", "graph", "split", "items")},
        "metrics": result["rows"][0]["metrics"],
        "declared": result["declared"],
        "evaluation": str(evaluation),
    }
    write_json(folder / SCORES, [*(old for old in read_scores(folder) if old["evaluation"] != entry["evaluation"]), entry])
    write_card(folder)


def write_card(folder: Path) -> None:
    """Write ``README.md`` of a checkpoint folder."""
    steps = after_training(checkpoint_experiment(folder), folder)
    write_text(folder / "README.md", model_card(read_manifest(folder), read_history(folder), read_scores(folder), steps))


def model_card(manifest: Mapping[str, Any], history: list[dict[str, Any]], scores: list[dict[str, Any]], steps: Sequence[Step] = ()) -> str:
    """What a checkpoint is, and what can be done with it (``steps``), in Markdown with the header that model hubs read."""
    model, title = manifest["model"], manifest["task"].replace("_", " ").capitalize()
    what, header = "The weights of a tower, and of what it was trained with.", ["library_name: graphgpt"]
    modalities = modalities_of(model)
    of = {name: f" ({name})" if len(modalities) > 1 else "" for name in modalities}
    parts = {f"Tower{of[name]}": one["tower"]["name"] for name, one in modalities.items()}
    if manifest["llm"]:
        reads = " and ".join(f"{name}s" for name in modalities)
        title += f" with {' and '.join(modalities)} tokens" if modalities else ""
        what = f"A projector (and perhaps adapters) by which a language model reads {reads}. The language model itself is not part of it."
        if not modalities:
            what = "Adapters of a language model, which itself is not part of it."
        base = model["llm"]["path"]
        header.append(f"base_model: {json.dumps(base)}")
        parts["Language model (not in here)"] = f"`{base}`, licence: {licence_of(base)}"
        parts["Fingerprint"] = f"`{manifest['llm']['fingerprint']}`"
        parts |= {f"Projector{of[name]}": one["projector"]["name"] for name, one in modalities.items()}
        rank = model["lora"]["rank"]
        parts["Adapters"] = f"LoRA of rank {rank}" if rank else "none: the language model is as it was"
    parts["Task"] = manifest["task"]
    if data := manifest.get("data"):
        width = f" ({data.get('features') or '?'} features per node)" if "graph" in modalities else ""
        parts["Trained on"] = f"{data.get('name', 'unknown')}{width}"
    parts["Stages"] = " -> ".join(stage["name"] for stage in history) or "unknown"
    origins = " and ".join(one["tower"]["init_from"] for one in modalities.values() if one["tower"].get("init_from"))
    parts["Started from"] = manifest["parent"]["path"] if manifest.get("parent") else origins or "new weights"
    parts["Command"] = f"`{manifest.get('command', 'unknown')}`"
    parts["Made"] = manifest["created"]
    lines = [
        "---",
        *header,
        "tags: [graph, graphgpt]",
        "---",
        "",
        f"# {title}",
        "",
        what,
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in parts.items()),
        "",
        "## Scores",
        "",
    ]
    for score in scores:
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in score["metrics"].items())
        lines.append(f"- {score['task']} on {amount(score['items'], score['split'] + ' item')} of {score['graph']}: {metrics}")
    if not scores:
        lines.append("None yet.")
    lines += ["", "## Use", ""]
    for what, command in steps:
        lines += [f"{what}:", "", f"    {command}", ""]
    return "\n".join(lines)


def licence_of(base: str) -> str:
    """The licence of a base model, as far as it is known here."""
    return next((licence for name, licence in LICENCES.items() if name in base.lower()), "see the model's own page")
