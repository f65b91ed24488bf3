"""Run folders read and compared: how each went, what differs between their settings, what they scored."""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from graphgpt.checkpoints.card import read_scores
from graphgpt.checkpoints.folder import MANIFEST, read_history, read_settings
from graphgpt.errors import GraphGPTError, nearest
from graphgpt.files.records import read_lines, read_record
from graphgpt.metrics import Declared, MetricRecord
from graphgpt.schema import flat

#: In a run folder: why it failed.
ERROR = "error.txt"
#: In a run folder: why a sweep stopped it.
PRUNED = "pruned.txt"

FINISHED, FAILED, STOPPED, UNFINISHED = "finished", "failed", "pruned", "unfinished"

#: Settings of the runner that do not change what a run leads to, with all that is below them.
HARMLESS = (
    *("threads", "workers", "log_every", "checkpoint", "loggers", "val_every", "val_samples", "val_answers", "detect_anomaly"),
    *("accelerator", "strategy", "devices", "num_nodes", "micro_batch_size", "micro_batch_tokens"),
)

#: In a run folder: what the metrics of ``metrics.jsonl`` are.
DECLARED = "declared.json"


class LoggedLine(TypedDict):
    """Of ``metrics.jsonl``; beside these, any metric."""

    step: int
    time: float


class ResultRow(TypedDict):
    """Of ``metrics.json``: one line of its table."""

    metrics: dict[str, float | None]


class Result(TypedDict):
    """``metrics.json``."""

    task: str
    graph: str
    split: str
    items: int
    main_metric: str
    declared: NotRequired[dict[str, MetricRecord]]
    rows: Annotated[list[ResultRow], Field(min_length=1)]


class PredictionLine(TypedDict):
    """Of ``predictions.jsonl``."""

    variant: str
    wording: str | None
    seed: int
    item: int
    id: str
    prompt_tokens: int
    truth: int | None
    expected: str
    text: str | None
    scores: dict[str, float] | None


class SampleLine(TypedDict):
    """Of ``samples.jsonl``."""

    step: int
    item: int
    expected: str
    answer: str
    right: bool | None


#: Words of keys that say nothing alone.
_VAGUE = ("other",)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder.

    Args:
        folder: Where it lies.
        settings: Its ``config.yaml``, by keys joined with dots.
        state: ``finished``, ``failed``, ``pruned`` or ``unfinished`` (still going, or cut off).
        scores: Of a training run, what evaluations of its checkpoint found and its last validation; of an evaluation, its own. As
            they were logged: fractions and losses.
        declared: What those scores are, as far as the run says it.
        seconds: How long it took, or has taken; None where it logged nothing.
        parameters: How many were trained; None of an evaluation and before the end.
        error: Why it failed or was stopped.
    """

    folder: Path
    settings: dict[str, Any]
    state: str
    scores: dict[str, float]
    declared: Declared = field(default_factory=Declared)
    seconds: float | None = None
    parameters: int | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that are equal but for their seed.

    Args:
        runs: They.
        values: What the group has for each of the settings in which groups differ.
        means: Mean of each score over the finished runs.
        deviations: Its standard deviation (of a sample), where there are several.
    """

    runs: list[Run]
    values: dict[str, Any]
    means: dict[str, float]
    deviations: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs beside each other.

    Args:
        runs: In the order of their folders, or as sorted.
        keys: The settings in which they differ, without the seed, each with a short name that says as much.
        scores: Names of the scores that any of them has, those of evaluations first.
        groups: The runs by all settings but the seed, in the same order.
    """

    runs: list[Run]
    keys: dict[str, str]
    scores: list[str]
    groups: list[Group]

    @property
    def declared(self) -> Declared:
        """What the scores are."""
        return Declared({name: metric for one in self.runs for name, metric in one.declared.items()})

    @property
    def seeds(self) -> bool:
        """Whether a group has several runs."""
        return any(len(group.runs) > 1 for group in self.groups)


def find_runs(folder: Path) -> list[Run]:
    """The run folders that ``folder`` is or holds, by name; evaluations only where there is no training run.

    Raises:
        GraphGPTError: there is no such folder, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise GraphGPTError(f"{folder} does not exist.")
    found = []
    for file in folder.rglob("config.yaml"):
        inner = file.parent.relative_to(folder).parts
        if (file.parent / MANIFEST).is_file() or any(part.startswith(".") or part in ("shards", "wandb") for part in inner):
            continue  # a checkpoint's own copy, Hydra's, a part of an evaluation, wandb's
        found.append(file.parent)
    found.sort(key=lambda path: [(int(part) if part.isdigit() else math.inf, part) for part in re.split(r"(\d+)", str(path))])
    runs = [read_run(path) for path in found]
    trained = [one for one in runs if "runner.name" in one.settings]
    return trained or [one for one in runs if "checkpoint" in one.settings]


def read_run(folder: Path) -> Run:
    """A run folder.

    Raises:
        GraphGPTError: a file in it cannot be read.
    """
    settings = flat(read_settings(folder / "config.yaml"))
    facts = _training_facts(folder) if "runner.name" in settings else _evaluation_facts(folder)
    return Run(folder=folder, settings=settings, state=run_state(folder), error=_why(folder), **facts)


def run_state(folder: Path) -> str:
    """``finished``, ``failed``, ``pruned`` or ``unfinished``."""
    for file, state in ((ERROR, FAILED), (PRUNED, STOPPED), (f"checkpoint/{MANIFEST}", FINISHED), ("metrics.json", FINISHED)):
        if (folder / file).is_file():
            return state
    return UNFINISHED


def holds_results(folder: Path) -> bool:
    """Whether a folder has what a run took time to make: a checkpoint, a state to go on from, predictions."""
    made = ("checkpoint/manifest.json", "best/manifest.json", "resume/*.ckpt", "predictions.jsonl", "*/predictions.jsonl")
    return any(path.is_file() for pattern in made for path in folder.glob(pattern))


def _why(folder: Path) -> str:
    """What went wrong, in one line: a user's mistake as its sentence, of a traceback the last line."""
    for file in (folder / ERROR, folder / PRUNED):
        if file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
            return lines[-1] if lines[0].startswith("Traceback") else " ".join(" ".join(lines).split())
    return ""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's ``metrics.jsonl``, one per logged step; of a run that is going on, as far as it has come.

    Raises:
        GraphGPTError: the file cannot be read as that.
    """
    return [dict(line) for line in read_lines(folder / "metrics.jsonl", LoggedLine, "what a run logged")]


def read_result(folder: Path) -> dict[str, Any]:
    """What an evaluation found, from ``metrics.json`` of its folder.

    Raises:
        GraphGPTError: the file cannot be read as that.
    """
    return dict(read_record(folder / "metrics.json", Result, "the result of an evaluation", GraphGPTError))


def read_declared(folder: Path) -> Declared:
    """What a run says of the metrics that it logs; runs of before say nothing.

    Raises:
        GraphGPTError: the file cannot be read as that.
    """
    file = folder / DECLARED
    what = "what the metrics of a run are"
    return Declared.read(read_record(file, dict[str, MetricRecord], what, GraphGPTError)) if file.is_file() else Declared()


def objective(folder: Path) -> float | None:
    """The number that says how a run went: the metric that it keeps its best state by, else its last validation or training loss.

    Of an evaluation, its main score.
    """
    if (folder / "metrics.json").is_file():
        result = read_result(folder)
        return _number(result["rows"][0]["metrics"].get(result["main_metric"]))
    if not (folder / "config.yaml").is_file():
        return None
    monitor = flat(read_settings(folder / "config.yaml")).get("runner.checkpoint.monitor")
    last = last_values(read_metrics(folder))
    return next((last[name] for name in (monitor, "val/loss", "train/loss") if name in last), None)


def last_values(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of everything that was logged."""
    found: dict[str, float] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time") and (number := _number(value)) is not None:
                found[name] = number
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _training_facts(folder: Path) -> dict[str, Any]:
    lines = read_metrics(folder)
    last = last_values(lines)
    seconds = lines[-1]["time"] - lines[0]["time"] if lines else None
    parameters = None
    checkpoint = folder / "checkpoint"
    scores: dict[str, float] = {}
    declared = read_declared(folder)
    if (checkpoint / "history.json").is_file():
        for stage in read_history(checkpoint)[-1:]:
            seconds = stage["seconds"]
            count = stage["facts"].get("Trainable parameters", "").replace(",", "")
            parameters = int(count) if re.fullmatch(r"[0-9]{1,18}", count) else None
        entries = read_scores(checkpoint)
        tasks = {entry["task"] for entry in entries}
        for entry in entries:
            words = [entry["task"]] if len(tasks) > 1 else []
            words += [] if entry["split"] == "test" else [entry["split"]]
            names = {name: " ".join([*words, name]) for name, value in entry["metrics"].items() if _number(value) is not None}
            scores |= {names[name]: entry["metrics"][name] for name in names}
            known = entry.get("declared", {})
            declared |= Declared.read({names[name]: known[name] for name in names if name in known})
    scores |= {name: value for name, value in last.items() if name.startswith("val/")}
    if "train/loss" in last:
        scores["train/loss"] = last["train/loss"]
    return {"scores": scores, "declared": declared, "seconds": seconds, "parameters": parameters}


def _evaluation_facts(folder: Path) -> dict[str, Any]:
    if not (folder / "metrics.json").is_file():
        return {"scores": {}}
    result = read_result(folder)
    main, metrics = result["main_metric"], result["rows"][0]["metrics"]
    names = [main, *(name for name in metrics if name != main)]
    scores = {name: value for name in names if (value := _number(metrics.get(name))) is not None}
    return {"scores": scores, "declared": Declared.read(result.get("declared"))}


# What differs


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings that lead to another result: key, old and new value (None where there is none)."""
    before, after = flat(dict(old)), flat(dict(new))
    keys = [key for key in sorted(before.keys() | after.keys()) if not _says_nothing(key)]
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def _says_nothing(key: str) -> bool:
    return key in ("resume", "name", "threads", "test") or any(f"{key}.".startswith(f"runner.{name}.") for name in HARMLESS)


def compare(runs: Sequence[Run]) -> Comparison:
    """Runs beside each other, by what differs between them."""
    keys = [key for key in _differing(runs) if key != "seed"]
    scores = list(dict.fromkeys(name for one in runs for name in one.scores))
    scores.sort(key=lambda name: (name == "train/loss", name.startswith("val/"), name != "val/loss" and name.startswith("val/")))
    by_values: dict[str, list[Run]] = {}
    for one in runs:
        by_values.setdefault(json.dumps([one.settings.get(key) for key in keys], sort_keys=True), []).append(one)
    groups = [_group(same, keys) for same in by_values.values()]
    return Comparison(runs=[*runs], keys=_short(keys, {key for one in runs for key in one.settings}), scores=scores, groups=groups)


def _differing(runs: Sequence[Run]) -> list[str]:
    """Settings that not all runs share. What only comes along with another choice (``model.projector.hidden`` with ``mlp``) is left out."""
    found = []
    for key in dict.fromkeys(key for one in runs for key in one.settings):
        values = [json.dumps(one.settings[key], sort_keys=True) for one in runs if key in one.settings]
        name = f"{key.rpartition('.')[0]}.name"
        comes_along = len(values) < len(runs) and len({one.settings.get(name) for one in runs}) > 1
        if not _says_nothing(key) and (len(set(values)) > 1 or (len(values) < len(runs) and not comes_along)):
            found.append(key)
    return found


def _short(keys: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Each key by the last of its words that nothing else among the ``known`` settings ends with.

    A choice goes by its group, ``projector`` for ``model.projector.name``, and this comes before a value that ends so: ``lr.projector``.
    """
    known = {*known}
    choices = {tuple(key.split(".")[:-1]) for key in known if key.endswith(".name")}
    nodes = {tuple(key.split(".")[:length]) for key in known for length in range(1, key.count(".") + 2)}
    short = {}
    for key in keys:
        words = tuple(key.removesuffix(".name").split("."))

        def is_clear(length: int, words: tuple[str, ...] = words) -> bool:
            alike = {node for node in nodes - {words} if node[-length:] == words[-length:]}
            if words in choices:
                alike = {node for node in alike if node in choices or len(node) == length}
            return not alike

        lengths = range(2 if words[-1] in _VAGUE else 1, len(words))
        length = next((length for length in lengths if is_clear(length)), len(words))
        short[key] = ".".join(words[-length:])
    return short


def _group(runs: list[Run], keys: Sequence[str]) -> Group:
    found: dict[str, list[float]] = {}
    for one in runs:
        if one.state == FINISHED:
            for name, value in one.scores.items():
                found.setdefault(name, []).append(value)
    return Group(
        runs=runs,
        values={key: runs[0].settings.get(key) for key in keys},
        means={name: statistics.fmean(values) for name, values in found.items()},
        deviations={name: statistics.stdev(values) for name, values in found.items() if len(values) > 1},
    )


def sort(comparison: Comparison, by: str, *, reverse: bool = False) -> Comparison:
    """The same in another order: the best first by a score, the least first by anything else; what has no value comes last.

    Args:
        comparison: What to sort.
        by: A score, a setting (its key or short name), ``seed``, ``time``, ``parameters`` or ``state``.
        reverse: The other way round.

    Raises:
        GraphGPTError: there is no such thing to sort by.
    """
    keys = {short: key for key, short in comparison.keys.items()} | {key: key for key in comparison.keys} | {"seed": "seed"}
    known = [*comparison.scores, *keys, "time", "parameters", "state"]
    if by not in known:
        raise GraphGPTError(f"--sort: there is no '{by}' to sort by. {nearest(by, known)}")

    def of_run(one: Run) -> Any:
        if by in comparison.scores:
            return one.scores.get(by)
        facts = {"time": one.seconds, "parameters": one.parameters, "state": one.state}
        return facts[by] if by in facts else one.settings.get(keys[by])

    def of_group(group: Group) -> Any:
        return group.means.get(by) if by in comparison.scores else of_run(group.runs[0])

    down = (by in comparison.scores and not comparison.declared[by].less_is_better) != reverse
    return Comparison(
        runs=_sorted(comparison.runs, of_run, down),
        keys=comparison.keys,
        scores=comparison.scores,
        groups=_sorted(comparison.groups, of_group, down),
    )


def _sorted(items: Sequence[Any], value: Any, down: bool) -> list[Any]:
    there = [item for item in items if value(item) is not None]
    numbers = all(_number(value(item)) is not None for item in there)
    there.sort(key=lambda item: value(item) if numbers else str(value(item)), reverse=down)
    return [*there, *(item for item in items if value(item) is None)]
