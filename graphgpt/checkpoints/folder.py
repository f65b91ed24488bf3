"""The checkpoint folder: what training made, what it fits, and the checks before it is used.

::

    checkpoint/
      manifest.json                what it is, what it fits, checksums
      config.yaml                  the experiment, as data
      graph/                       of each modality that the model reads
        projector.safetensors
        fusion.safetensors         ... a file for each part that has weights
        tower.safetensors
        tower.json                 what tower that is, so that ``model.tower.init_from`` can name the folder
      lora/                        when the language model has adapters, in peft's form
      llm/                         when the whole language model was trained: a Hugging Face folder, with its tokenizer
      trained.parquet              the items whose answers it has seen, and those before it
      history.json                 loss curves of this run and of those it came from
      README.md, scores.json       the model card, and what evaluations found (not part of what is verified)

The language model itself is not in it: the manifest names it and holds a fingerprint of its weights. The parts of a model without one lie
at the root. Folders of format 1 are read as ``upgrade`` has it.
"""

import dataclasses
import datetime
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import graphgpt
from graphgpt.checkpoints.shapes import Experiment, Manifest, Stage, Versioned
from graphgpt.checkpoints.upgrade import experiment_settings, model_settings, part_file
from graphgpt.errors import CheckpointError
from graphgpt.files.atomic import RUNS, atomic_folder, file_sha256, folder_with, folders_with, there_are, write_json, write_text
from graphgpt.files.records import read_record
from graphgpt.machine.installation import CHECKOUT, as_typed
from graphgpt.models.adapters import peft
from graphgpt.models.fit import check_fit
from graphgpt.registry import MODELS, TOWERS, check_plugins

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
MANIFEST = "manifest.json"

#: Where a trained language model lies in a checkpoint, and how large its files are at most.
LLM, SHARD = "llm", "4GB"

#: What stands for the newest checkpoint among the runs.
LATEST = "latest"


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that ``path`` is, or, for a run folder, holds.

    Raises:
        CheckpointError: there is none.
    """
    if (found := folder_with(MANIFEST, path)) is not None:
        return found
    folder, others = Path(path).expanduser(), there_are(MANIFEST, path)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist{others}.")
    itself = f" itself{others}" if others else f": there is no {MANIFEST} in it or in {folder / 'checkpoint'}"
    raise CheckpointError(f"{folder} holds no checkpoint{itself}.")


def named_checkpoint(path: str | Path) -> Path:
    """A path as a user names it: ``latest`` is the newest run with a checkpoint, and it is said which.

    Raises:
        CheckpointError: there is none.
    """
    if str(path) != LATEST or Path(LATEST).exists():
        return Path(path)
    if not (found := folders_with(MANIFEST, RUNS)):
        raise CheckpointError(f"{LATEST}: there is no checkpoint in the folder {RUNS} yet.")
    # Beside what a program prints, which other programs may read.
    print(f"{LATEST}: {found[0]}", file=sys.stderr)
    return found[0]


def verify_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that ``path`` is or holds, after comparing every file with the manifest.

    Raises:
        CheckpointError: there is none, or a file is missing, cut short or changed.
    """
    folder = find_checkpoint(path)
    verify_files(folder, read_manifest(folder))
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder.

    Raises:
        CheckpointError: it cannot be read, or a newer version wrote it.
    """
    file = folder / MANIFEST
    # First the version alone: a newer one may have another shape.
    if (written := read_record(file, Versioned, "a manifest")["format"]) > FORMAT:
        raise CheckpointError(f"{folder} has checkpoint format {written}; this version reads up to {FORMAT}: update graphgpt.")
    manifest = read_record(file, Manifest, "a manifest")
    # Of a model with a language model both are there, of another one none.
    missing = [part for part in ("llm", "lora") if part not in manifest["model"]]
    if manifest["llm"] and missing:
        raise CheckpointError(f"{file} cannot be read as a manifest: it has no 'model.{missing[0]}', though it has an 'llm'.")
    if not manifest["llm"] and "lora" not in missing:
        raise CheckpointError(f"{file} cannot be read as a manifest: its 'llm' is empty, though it has a 'model.lora'.")
    return {**manifest, "model": model_settings(manifest["model"])}


def checkpoint_experiment(path: str | Path) -> dict[str, Any]:
    """The experiment that made a checkpoint, as plain data; without where it or its tower started or resumed: its weights are here.

    Raises:
        CheckpointError: there is no checkpoint, or its config cannot be read.
        GraphGPTError: it asks for modules that the user has not named.
    """
    folder = find_checkpoint(path)
    read = read_record(folder / "config.yaml", Experiment, "a checkpoint's configuration")
    experiment = {**experiment_settings(read), "start_from": None, "resume": None}
    check_plugins(experiment, folder)
    if isinstance(model := experiment.get("model"), dict):
        experiment["model"] = _without_origin(model)
        if (folder / LLM).is_dir() and isinstance(llm := model.get("llm"), dict):
            experiment["model"]["llm"] = {**llm, "path": str(folder / LLM), "revision": None}
    return experiment


def _without_origin(settings: dict[str, Any]) -> dict[str, Any]:
    """A model's settings without where a tower's weights once came from."""
    kept = {name: _without_origin(value) if isinstance(value, dict) else value for name, value in settings.items()}
    return {name: value for name, value in kept.items() if name != "init_from"}


def read_experiment(file: Path) -> dict[str, Any]:
    """A training's ``config.yaml`` as plain data.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    return experiment_settings(read_record(file, Experiment, "the configuration of a training"))


def read_settings(file: Path) -> dict[str, Any]:
    """The ``config.yaml`` of any program as plain data.

    Raises:
        CheckpointError: it cannot be read, or is no mapping.
    """
    return experiment_settings(read_record(file, dict[str, Any], "a configuration"))


def checkpoint_problems(path: str, key: str) -> list[str]:
    """What is wrong with a checkpoint given as config value ``key``, one sentence each; reads no weights."""
    try:
        read_manifest(find_checkpoint(path))
    except CheckpointError as error:
        return [f"{key}: {error}"]
    return []


def hand_over_problems(path: str, model: Any) -> list[str]:
    """What keeps a model of this configuration from starting at the checkpoint ``start_from``; reads no weights."""
    folder = find_checkpoint(path)
    theirs = read_manifest(folder)["model"]
    if (folder / LLM).is_dir() and MODELS.get(model.name).reads_words:
        if not model.llm.train and Path(model.llm.path) != folder / LLM:
            return [
                f"start_from: {path} has trained its language model: go on with it by model.llm.train=true, or stand on it by "
                f"model.llm.path={folder / LLM}."
            ]
        theirs = {**theirs, "llm": {**theirs["llm"], "path": model.llm.path}}
    if theirs["name"] != model.name:
        return [f"start_from: {path} is a '{theirs['name']}', not a '{model.name}'; model.tower.init_from={path} takes its tower alone."]
    problems: list[str] = MODELS.get(model.name).hand_over_problems(model, theirs, path)
    return problems


def model_state(model: Any) -> "dict[str, dict[str, Tensor]]":
    """What of a model goes into a checkpoint, by part, whole and on the processor; adapters as ``lora``.

    Where weights are cut among processes, all of them have to call it.
    """
    library = peft()
    parts = {part: module.state_dict() for part, module in model.parts.items()}
    if model.trains_llm(model.config):
        parts[LLM] = model.llm.state_dict()
    if isinstance(getattr(model, "llm", None), library.PeftModel):
        parts["lora"] = library.get_peft_model_state_dict(model.llm)
    return {part: {name: whole(tensor) for name, tensor in state.items()} for part, state in parts.items()}


def whole(tensor: Any) -> Any:
    """A tensor as it would be in one process, a copy on the processor; of a cut one, every process has to ask. Anything else as it is."""
    from torch import Tensor
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    # A copy also where it is on the processor: what is kept must not change with the model's next weights.
    return tensor.detach().to("cpu", copy=True).contiguous() if isinstance(tensor, Tensor) else tensor


def save_checkpoint(
    folder: Path,
    model: Any,
    experiment: Any,
    *,
    data: Mapping[str, Any],
    history: list[dict[str, Any]],
    state: "Mapping[str, Mapping[str, Tensor]] | None" = None,
    more: Callable[[Path], None] = lambda tmp: None,
) -> None:
    """Write a checkpoint folder, all or nothing.

    Args:
        folder: Its name; an older one is replaced when the new one is complete.
        model: A ``Model``.
        experiment: The ``ExperimentConfig`` that trained it.
        data: Name and fingerprint of the graph, width of its features.
        history: Stages with their loss curves, oldest first.
        state: Of :func:`model_state`; None asks for it.
        more: As for :func:`write_checkpoint`.
    """
    from safetensors.torch import save_file

    from graphgpt.models.llm import fingerprint_of_samples, sample_tensor

    state = state or model_state(model)

    base = model.base
    if LLM in state:
        # What was trained stands on itself from now on.
        base = {**base, "fingerprint": fingerprint_of_samples({name: sample_tensor(tensor) for name, tensor in state[LLM].items()})}

    def save_language_model(tmp: Path) -> None:
        if LLM in state:
            model.llm.save_pretrained(str(tmp / LLM), state_dict=dict(state[LLM]), max_shard_size=SHARD)
            model.tokenizer.save_pretrained(str(tmp / LLM))
        if "lora" in state:
            model.llm.peft_config["default"].save_pretrained(str(tmp / "lora"))
            save_file(dict(state["lora"]), tmp / "lora" / "adapter_model.safetensors", metadata={"format": "pt"})
        more(tmp)

    parts = {part: state[part] for part in model.parts}
    write_checkpoint(folder, parts, experiment, llm=base, data=data, history=history, more=save_language_model)


def write_checkpoint(
    folder: Path,
    parts: "Mapping[str, Mapping[str, Tensor]]",
    experiment: Any,
    *,
    llm: Mapping[str, Any],
    data: Mapping[str, Any],
    history: list[dict[str, Any]],
    more: Callable[[Path], None] = lambda tmp: None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder of tensors and configs, without a model; :func:`save_checkpoint` takes them from one.

    Args:
        folder: Its name; an older one is replaced when the new one is complete.
        parts: State by part, such as ``projector``; each becomes a file, an empty one none.
        experiment: The ``ExperimentConfig`` that goes with it.
        llm: ``type``, ``hidden_size``, ``vocabulary`` and ``fingerprint`` of the language model that the weights stand on, if any; None is
            not known and not checked.
        data: Name and fingerprint of the graph, width of its features.
        history: Stages with their loss curves, oldest first.
        more: Writes further files into the temporary folder.
        facts: Further entries of the manifest.
    """
    from safetensors.torch import save_file

    from graphgpt.models.tower import TOWER_CARD, TOWER_TENSORS, describe_tower

    with atomic_folder(folder) as tmp:
        for part, tensors in parts.items():
            state = {name: whole(tensor) for name, tensor in tensors.items()}
            if state:
                file = tmp / f"{part}.safetensors"
                file.parent.mkdir(exist_ok=True)
                save_file(state, file)
        for modality, tower in MODELS.get(experiment.model.name).towers(experiment.model).items():
            home = next((folder for folder in (tmp / modality, tmp) if (folder / TOWER_TENSORS).is_file()), None)
            width = data.get("features") if TOWERS.get(tower.name).measured else 0
            if home is not None and width is not None:
                write_json(home / TOWER_CARD, describe_tower(tower, width))
        more(tmp)
        write_text(tmp / "config.yaml", yaml.safe_dump(dataclasses.asdict(experiment), sort_keys=False, allow_unicode=True))
        write_json(tmp / "history.json", history)
        files = sorted(path for path in tmp.rglob("*") if path.is_file())
        manifest = {
            "format": FORMAT,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "task": experiment.task.name,
            "model": dataclasses.asdict(experiment.model),
            "llm": dict(llm),
            "data": dict(data),
            "parent": None if experiment.start_from is None else _parent(experiment.start_from),
            "files": {str(path.relative_to(tmp)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files},
            "command": as_typed(sys.argv),
            "environment": environment(),
            **(facts or {}),
        }
        write_json(tmp / MANIFEST, manifest)


def width_problem(reader: str, trained: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
    """A sentence where a graph's features have another width than those that a model was trained on.

    Args:
        reader: What the model is called.
        trained: The manifest's ``data``: ``features``, the width, and ``features_from``, if they are known.
        data: The same of the graph, and its ``name``; a task's ``data``.
    """
    if data.get("features") is None or trained.get("features") in (None, data["features"]):
        return None
    theirs, ours = (f" (from {source})" if (source := side.get("features_from")) else "" for side in (trained, data))
    return (
        f"The graph '{data['name']}' has {data['features']} features per node{ours}, and {reader} was trained on "
        f"{trained['features']}{theirs}: make them the same way."
    )


def load_checkpoint(model: Any, path: str | Path, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Put a checkpoint's weights into a model, after checking that it is whole and fits.

    Args:
        model: A ``Model``. Adapters it has and the checkpoint lacks stay as they are (stage 2 begins so).
        path: Run or checkpoint folder.
        data: Of the task that the model is built for, whose features must be as wide as the checkpoint's.

    Returns:
        The manifest.

    Raises:
        CheckpointError: a file is missing or damaged, it or its language model is another one, or tensors do not fit.
    """
    from graphgpt.files.tensors import load_tensors

    library, folder = peft(), find_checkpoint(path)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    if manifest["model"]["name"] != model.config.name:
        raise CheckpointError(f"{folder} is a '{manifest['model']['name']}'; this model is a '{model.config.name}'.")
    if data is not None and (problem := width_problem(str(folder), manifest.get("data") or {}, data)):
        raise CheckpointError(problem)
    made_for, own_llm = manifest["llm"], folder / LLM
    for what, ours in model.base.items():
        if what == "fingerprint" and own_llm.is_dir() and model.trains_llm(model.config):
            continue  # its weights come from the checkpoint
        if what != "type" and made_for[what] is not None and made_for[what] != ours:
            raise CheckpointError(
                f"{folder} was made for another language model ('{manifest['model']['llm']['path']}', {what} {made_for[what]}); "
                f"this one is '{model.config.llm.path}' with {what} {ours}."
            )
    for part, module in model.parts.items():
        file = part_file(folder, part)
        state = load_tensors(file) if file.is_file() else {}
        check_fit(folder, part, state, module.state_dict())
        module.load_state_dict(state)
    if own_llm.is_dir() and model.trains_llm(model.config):
        from graphgpt.files.tensors import TensorFiles

        files = TensorFiles(own_llm)
        tied = set(getattr(model.llm, "all_tied_weights_keys", ()))
        state = files.read(files.specs)
        wanted = {name: tensor for name, tensor in model.llm.state_dict().items() if name in state or name not in tied}
        check_fit(folder, LLM, state, wanted)
        model.llm.load_state_dict(state, strict=False)
    adapter = folder / "lora" / "adapter_model.safetensors"
    if adapter.is_file():
        if not isinstance(getattr(model, "llm", None), library.PeftModel):
            raise CheckpointError(f"{folder} has adapters for the language model, but model.lora.rank is 0.")
        state = load_tensors(adapter)
        check_fit(folder, "lora", state, library.get_peft_model_state_dict(model.llm))
        library.set_peft_model_state_dict(model.llm, state)
    return manifest


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Stages and their loss curves, oldest first.

    Raises:
        CheckpointError: the file cannot be read as that.
    """
    file = folder / "history.json"
    history = read_record(file, list[Stage], "the history of a checkpoint")
    for number, stage in enumerate(history):
        if len(stage["steps"]) != len(stage["loss"]):
            raise CheckpointError(
                f"{file} cannot be read as the history of a checkpoint: '{number}.steps' and '{number}.loss' differ in length."
            )
    return [dict(stage) for stage in history]


def environment() -> dict[str, Any]:
    """Versions and the state of the source, for a manifest or a bug report."""
    packages = ("torch", "transformers", "lightning", "hydra-core", "torch-geometric", "peft", "bitsandbytes")
    return {
        "graphgpt": graphgpt.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: metadata.version(name) for name in packages if _installed(name)},
        "git": _git_state(),
    }


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git_state() -> str | None:
    if CHECKOUT is None:
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" (changed)" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _parent(path: str) -> dict[str, Any]:
    folder = find_checkpoint(path)
    manifest = read_manifest(folder)
    return {"path": str(folder), "task": manifest["task"], "created": manifest["created"], "sha256": file_sha256(folder / MANIFEST)}


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{folder} is incomplete: {name} is missing.")
        if file.stat().st_size != expected["bytes"]:
            raise CheckpointError(f"{file} has {file.stat().st_size:,} bytes, expected {expected['bytes']:,}: it was cut short or changed.")
        if file_sha256(file) != expected["sha256"]:
            raise CheckpointError(f"{file} does not match its checksum: it was changed or damaged.")
