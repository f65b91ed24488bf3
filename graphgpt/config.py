"""The root of the configuration: its schema, its checks, and how a command line becomes one."""

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

from graphgpt.ablations import Ablation
from graphgpt.baselines import Baseline
from graphgpt.checkpoints.folder import checkpoint_experiment, checkpoint_problems, hand_over_problems, read_experiment
from graphgpt.errors import CheckpointError, ConfigError, GraphGPTError, first_line, nearest
from graphgpt.registry import DATASETS, MODELS, RUNNERS, TASKS, load_plugins
from graphgpt.schema import MISSING, Accelerator, Registered, configclass, parse
from graphgpt.task import Split

CONFIG_DIR = Path(__file__).with_name("configs")

#: The value of ``resume`` that looks for the run to go on in.
AUTO = "auto"

C = TypeVar("C", "ExperimentConfig", "EvaluationConfig")


@configclass
class ExperimentConfig:
    """One training run."""

    name: str
    """Short name; part of the run folder's name."""
    seed: int = Field(default=0, ge=0)
    """Same seed, same run."""
    model: Annotated[Any, Registered(MODELS, "model")]
    """Language model, tower, projector, LoRA, template."""
    dataset: Annotated[Any, Registered(DATASETS, "dataset")]
    """The graph."""
    task: Annotated[Any, Registered(TASKS, "task")]
    """What is asked about it."""
    runner: Annotated[Any, Registered(RUNNERS, "runner")]
    """How it is trained."""
    stage1: str | None = None
    """Run or checkpoint folder to start from."""
    resume: str | None = None
    """Run folder to go on in; ``auto`` finds the newest interrupted run with the same settings, or starts anew."""
    plugins: list[str] = Field(default_factory=list)
    """Modules that register more classes."""


def _some_of(literal: Any, words: dict[Any, tuple[str, ...]]) -> BeforeValidator:
    """A list of names may be given as one name, or as a word for several of them."""
    names = get_args(literal)

    def listed(value: Any) -> Any:
        if isinstance(value, str | bool | None):
            if value in words:
                return words[value]
            if value not in names:
                known = [*names, *(str(word).lower() for word in words if word is not None)]
                raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{name}'" for name in dict.fromkeys(known))})
            return (value,)
        return value

    return BeforeValidator(listed)


ABLATIONS: tuple[Ablation, ...] = tuple(name for name in get_args(Ablation) if name != "none")
#: The plain language model costs a pass over all prompts, so it must be asked for.
BASELINES: tuple[Baseline, ...] = tuple(name for name in get_args(Baseline) if name != "llm")


@configclass
class EvaluationConfig:
    """One evaluation of a checkpoint."""

    @property
    def part(self) -> tuple[int, int]:
        """Number of the shard, from 1, and how many there are."""
        place, _, whole = (self.shard or "1/1").partition("/")
        return int(place), int(whole)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that are evaluated, one after the other."""
        return list(range(self.seed, self.seed + self.seeds))

    name: str
    """Short name; part of the run folder's name."""
    checkpoint: str
    """Run or checkpoint folder."""
    dataset: Annotated[Any, Registered(DATASETS, "dataset")] | None = None
    """Another graph than the checkpoint's; null takes that one."""
    task: Annotated[Any, Registered(TASKS, "task")] | None = None
    """Another task than the checkpoint's; null takes that one."""
    split: Split = "test"
    """Which items."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many of them; null takes all."""
    devices: int = Field(default=1, ge=1)
    """So many processes, each on a GPU of its own (or sharing the processor), take a shard each and are joined at the end."""
    shard: str | None = None
    """Such as ``2/4``: every fourth item, from the second on; null takes all. ``graphgpt gather`` joins the shards."""
    seed: int = Field(default=0, ge=0)
    """Draws the items, their neighbours and the bootstrap."""
    seeds: int = Field(default=1, ge=1)
    """Repeat with so many seeds, from ``seed`` on, and report mean and standard deviation."""
    wordings: Literal["all"] | None = None
    """``all``: also every other wording of the task, to see how much depends on it."""
    batch_size: int = Field(default=4, ge=1)
    """Prompts per forward pass."""
    ablation: Annotated[tuple[Ablation, ...], _some_of(Ablation, {"all": ABLATIONS, None: ()})] = ("no_graph",)
    """Also the same model with a part of each question taken away: one, a list, ``all`` or ``none``."""
    generate: bool = False
    """Where candidates are scored, also write an answer and read it: how often it is right, and how often it is none of them."""
    baselines: Annotated[tuple[Baseline, ...], _some_of(Baseline, {True: BASELINES, False: (), None: ()})] = BASELINES
    """Also simple methods on the same items: ``true`` is all but ``llm``, the language model without graph and adapters."""
    compare: dict[str, str] = Field(default_factory=dict)
    """Also other models on the same items: run folders of their evaluations, by the name that the table shows."""
    max_edges: int = Field(default=2_000_000, ge=0)
    """GCN and GraphSAGE train on the whole graph at once, and are left out where it has more edges."""
    leakage: Literal["report", "error", "off"] = "report"
    """What to do when a prompt gives its answer away."""
    samples: int = Field(default=6, ge=0)
    """Items shown in full in the report."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Length of greedy answers."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamples for the intervals; 0 makes none."""
    threads: int | None = Field(default=None, ge=1)
    """Processor threads; null takes all."""
    accelerator: Accelerator = "auto"
    """Where to run."""
    resume: str | None = None
    """Unused here; the run folder's name is made by one rule for both programs."""
    plugins: list[str] = Field(default_factory=list)
    """Modules that register more classes."""


def read_config(cls: type[C], data: dict[str, Any]) -> C:
    """A typed configuration from plain data, e.g. from a checkpoint's ``config.yaml``. Data only: nothing is instantiated.

    Raises:
        ConfigError: all problems at once, each in one sentence with the nearest right thing.
    """
    problems: list[str] = []
    if isinstance(plugins := data.get("plugins"), list):
        load_plugins(module for module in plugins if isinstance(module, str))
    config = parse(cls, data, problems)
    for key in ("stage1", "checkpoint"):
        if isinstance(folder := data.get(key), str) and folder != MISSING:
            problems += checkpoint_problems(folder, key)
    if isinstance(config, ExperimentConfig) and not problems:
        problems += TASKS.get(config.task.name).data_problems(config.task, config.dataset)
    if isinstance(config, ExperimentConfig) and config.stage1 is not None and not problems:
        problems += hand_over_problems(config.stage1, config.model)
    if isinstance(config, EvaluationConfig) and config.shard and not re.fullmatch(r"[1-9]\d*/[1-9]\d*", config.shard):
        problems.append(f"shard: '{config.shard}' is no part of a whole; expected i/n, such as 2/4.")
    elif isinstance(config, EvaluationConfig) and config.part[0] > config.part[1]:
        problems.append(f"shard: '{config.shard}' does not exist; the last of {config.part[1]} is {config.part[1]}/{config.part[1]}.")
    elif isinstance(config, EvaluationConfig) and config.shard and config.devices > 1:
        problems.append(f"devices={config.devices}: makes shards by itself; leave shard={config.shard} out, or use devices=1.")
    if isinstance(config, EvaluationConfig):
        for name, folder in config.compare.items():
            if not any(Path(folder).glob("**/predictions.jsonl")):
                problems.append(f"compare.{name}: {folder} is no run folder of evaluate.py: it has no predictions.jsonl.")
    if config is None or problems:
        raise ConfigError(problems)
    return config


def read_composed(cls: type[C], composed: DictConfig, overrides: Sequence[str] = ()) -> C:
    """A typed configuration from what Hydra composed.

    Args:
        cls: Schema of the root.
        composed: Hydra's.
        overrides: The command line. ``resume`` takes the settings of the run that it names, and these change them.
    """
    data = _plain(composed)
    if cls is ExperimentConfig and data.get("resume") == AUTO:
        data |= {"resume": _interrupted(data)}
    elif cls is ExperimentConfig and data.get("resume"):
        data = _resumed(data["resume"], overrides)
    if cls is EvaluationConfig:
        data = _completed(data)
    return read_config(cls, data)


def plain_settings(config: Any) -> dict[str, Any]:
    """A configuration as a ``config.yaml`` gives it back: plain containers, tuples as lists."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return settings


def evaluated_experiment(config: EvaluationConfig) -> ExperimentConfig:
    """The checkpoint's experiment, on the task and the dataset that the evaluation asks for.

    Raises:
        ConfigError: they do not fit together.
    """
    asked = {key: value for key in ("dataset", "task") if (value := getattr(config, key)) is not None}
    return read_config(ExperimentConfig, checkpoint_experiment(config.checkpoint) | asked)


def _completed(data: dict[str, Any]) -> dict[str, Any]:
    """Settings such as ``task.wording=2`` that name no task change the checkpoint's own; likewise ``dataset``."""
    partial = {key: node for key in ("dataset", "task") if isinstance(node := data.get(key), dict) and "name" not in node}
    if not partial or checkpoint_problems(str(data.get("checkpoint")), "checkpoint"):
        return data
    own = checkpoint_experiment(data["checkpoint"])
    merged = {key: OmegaConf.to_container(OmegaConf.merge(own[key], node)) for key, node in partial.items()}
    return data | merged


def _plain(composed: DictConfig) -> dict[str, Any]:
    data = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items() if key != "hydra"}


def _interrupted(data: dict[str, Any]) -> str | None:
    """The newest run with exactly these settings that was stopped after its first resumable checkpoint and before its end."""
    wanted = plain_settings(read_config(ExperimentConfig, {**data, "resume": None}))
    for folder in sorted((Path("runs") / wanted["name"]).glob("*"), reverse=True):
        if (folder / "checkpoint").exists() or not any((folder / "resume").glob("*.ckpt")):
            continue
        with contextlib.suppress(CheckpointError):
            if read_experiment(folder / "config.yaml") == wanted:
                return str(folder)
    return None


def _resumed(folder: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a run that goes on, with single values changed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ConfigError([f"resume: {folder} is not a run folder: it has no config.yaml."])
    try:
        settings = OmegaConf.create(read_experiment(path))
    except CheckpointError as error:
        raise ConfigError([f"resume: {error}"]) from error
    for override in OverridesParser.create().parse_overrides([*overrides]):
        key = override.key_or_group
        if key == "resume" or key.startswith("hydra"):
            continue
        if _is_group(key) or override.is_delete():
            raise ConfigError(
                [f"resume: goes on with the choices of {folder}; drop {override.input_line}. Values such as runner.threads=1 may change."]
            )
        OmegaConf.update(settings, key, override.value(), force_add=True)
    data = OmegaConf.to_container(settings)
    assert isinstance(data, dict)
    return {**data, "resume": folder}


def check_command_line(cls: type[C], config_name: str, arguments: Sequence[str]) -> C:
    """Compose and check a command line's overrides as a whole, before Hydra runs the program.

    Hydra stops at the first choice that does not exist. Here each such choice is noted and left out, so that the report
    names everything that is wrong.

    Args:
        cls: Schema of the root.
        config_name: ``train`` or ``evaluate``.
        arguments: Overrides; of a sweep, its first value is checked.

    Raises:
        ConfigError: all problems at once.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, MissingConfigException

    register_resolvers()
    problems: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as unreadable:
            problems.append(f"'{argument}': cannot be read as key=value ({first_line(unreadable)}).")
            continue
        key = override.key_or_group
        value = next(override.sweep_string_iterator()) if override.is_sweep_override() else None
        if not key or (_is_group(key) and value is None and not isinstance(override.value(), str | None)):
            problems.append(f"'{argument}': cannot be read as key=value or group=option.")
            continue
        if "/" in key and not key.startswith("hydra/") and key not in (groups := config_groups()):
            problems.append(f"{key}: there is no such group of configs. {nearest(key, groups)}")
            continue
        overrides.append(addable(argument if value is None else f"{key}={value}"))

    with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3"):
        while True:
            try:
                composed = compose(config_name, overrides)
                break
            except MissingConfigException as error:
                missing = error.missing_cfg_file or ""
                culprit = next((o for o in overrides if o.lstrip("+~").replace("=", "/", 1) == missing), None)
                group, name = culprit.split("=", 1) if culprit else missing.rsplit("/", 1)
                problems.append(f"{group}: there is no '{name}'. {nearest(name, _options(group))}")
                if culprit is None:
                    raise ConfigError(problems) from error
                overrides.remove(culprit)
            except (HydraException, ValueError) as refusal:
                raise ConfigError([*problems, " ".join(str(refusal).split())]) from refusal
    try:
        config = read_composed(cls, composed, overrides)
    except ConfigError as more:
        raise ConfigError([*problems, *more.problems]) from more  # type: ignore[has-type]  # mypy defers this type for ever
    if problems:
        raise ConfigError(problems)
    return config


def addable(override: str) -> str:
    """An override of a value so that Hydra takes it even where no file spells the key; whether it exists, the schema says."""
    key = override.partition("=")[0]
    return override if key.startswith(("+", "~", "hydra.")) or _is_group(key) else f"++{override}"


def _is_group(key: str) -> bool:
    return "/" in key or "@" in key or (CONFIG_DIR / key).is_dir()


def config_groups() -> dict[str, list[Path]]:
    """The groups that a command line can choose from, such as ``model/tower``, each with its files."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        group = path.parent.relative_to(CONFIG_DIR).as_posix()
        if group not in (".", "hydra"):
            groups.setdefault(group, []).append(path)
    return groups


def _options(group: str) -> list[str]:
    """Names of a config group's files, with their sub-folders."""
    folder = CONFIG_DIR / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def register_resolvers() -> None:
    """The interpolations that our config files use."""
    OmegaConf.register_new_resolver("graphgpt.run_dir", _run_dir, replace=True)
    # OmegaConf's own ??? does not override a value that is there; this does.
    OmegaConf.register_new_resolver("graphgpt.must_be_given", lambda: MISSING, replace=True)


def launch(program: Callable[[], None], cls: type[Any], config_name: str) -> None:
    """Run a Hydra program after its command line was checked; a user's mistake ends in exit code 2 and no traceback.

    Hydra's own flags (``--help``, ``--cfg``, ``--info``, another config folder) go to Hydra unchecked.
    """
    register_resolvers()
    flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    with user_errors():
        if set(flags) <= {"-m", "--multirun"}:
            config = check_command_line(cls, config_name, overrides)
            if flags and isinstance(config, ExperimentConfig) and config.runner.processes > 1:
                raise ConfigError(
                    [
                        f"runner.devices: a sweep (-m) cannot start {config.runner.processes} processes per run, since each of them would "
                        "run the whole sweep; use runner.devices=1, or start the runs one by one."
                    ]
                )
            if f"resume={AUTO}" in overrides and isinstance(config, ExperimentConfig):
                print(f"resume={AUTO}: " + (f"going on with {config.resume}" if config.resume else "nothing to go on with, a new run"))
                others = [override for override in overrides if override != f"resume={AUTO}"]
                overrides = [f"resume={config.resume}"] if config.resume else others
            sys.argv[1:] = [*flags, *map(addable, overrides)]
        program()


def _run_dir(resume: str | None, default: str) -> str:
    return os.environ.get("GRAPHGPT_RUN_DIR") or resume or default


class user_errors(contextlib.ContextDecorator):
    """Shows a user's mistake as its sentence and leaves with exit code 2. Also a decorator."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, GraphGPTError):
            print(error, file=sys.stderr)
            sys.exit(2)
