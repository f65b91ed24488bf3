"""How a command line becomes a configuration: composed by Hydra, completed from runs that it names, checked as a whole."""

import contextlib
import dataclasses
import itertools
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graphgpt.checkpoints.folder import (
    LATEST,
    checkpoint_experiment,
    checkpoint_problems,
    find_checkpoint,
    named_checkpoint,
    read_experiment,
)
from graphgpt.checkpoints.hand_over import TAKEN, handed_over
from graphgpt.config.experiment import C, EvaluationConfig, ExperimentConfig, plain_settings, read_config
from graphgpt.errors import CheckpointError, ConfigError, GraphGPTError, amount, first_line, nearest
from graphgpt.files.atomic import RUNS, new_folder
from graphgpt.files.configs import CONFIG_DIR, config_groups, is_group, keys_of, options, own_file, respelled
from graphgpt.files.untrusted import leads_out
from graphgpt.registry import check_plugins, load_plugins
from graphgpt.runs.runs import FINISHED, run_state
from graphgpt.schema import MISSING, flat, leaves, parse, shown

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

#: The value of ``resume`` that looks for the run to go on in.
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class CommandLine(Generic[C]):
    """A command line that was checked."""

    configs: list[C]
    """One for each run that it asks for: of a sweep, one per combination of values."""
    arguments: list[str]
    """The overrides in Hydra's grammar."""
    swept: list[str]
    """Those of them that a sweep is written in, and what a file sweeps over."""
    notes: list[str]
    """What it does not say and its runs do all the same, for the terminal."""
    hydra: DictConfig
    """Hydra's own settings, as the first run has them: launcher, sweeper, where a sweep goes."""

    def tell(self) -> None:
        """Print the notes, a line each."""
        for note in self.notes:
            print(note)


#: Of a larger sweep not every combination is composed before it starts, but every value, beside the first ones of the other keys.
MOST_COMBINATIONS = 64

#: Bytes of a run's name: file systems take 255, and what a run makes adds to it.
LONGEST_NAME = 100

#: Hydra's plugins that we know, with the extra that installs each.
PLUGIN_EXTRAS = {
    "hydra/launcher": {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"},
    "hydra/sweeper": {"optuna": "optuna-sweeper"},
}


def check_command_line(cls: type[C], config_name: str, arguments: Sequence[str]) -> C:
    """Compose and check a command line's overrides as a whole; of a sweep, all of its values.

    Returns:
        The configuration; of a sweep, its first.

    Raises:
        ConfigError: all problems at once.
    """
    return read_command_line(cls, config_name, arguments).configs[0]


def read_command_line(cls: type[C], config_name: str, arguments: Sequence[str]) -> CommandLine[C]:
    """Compose and check a command line's overrides as a whole, before Hydra runs the program.

    Hydra stops at the first choice that does not exist. Here each such choice is noted and left out, so that the report
    names everything that is wrong.

    Args:
        cls: Schema of the root.
        config_name: ``train`` or ``evaluate``.
        arguments: Overrides as the user types them, also with several values (``seed=0,1``, ``range(1, 4)``, ``interval(0, 1)``).

    Raises:
        ConfigError: all problems at once.
    """
    from hydra.errors import HydraException

    problems: list[str] = []
    values: dict[str, list[str]] = {}
    spelled: dict[str, dict[str, str]] = {}
    swept: list[str] = []
    with _hydra() as loader:
        arguments = _readable(config_name, arguments, problems)

        def read(argument: str) -> None:
            override = _parsed(argument)
            override.config_loader = loader  # knows what a glob finds
            try:
                found = _swept_values(override) if override.is_sweep_override() else None
            except HydraException as unreadable:
                problems.append(f"'{argument}': cannot be read ({first_line(unreadable)}).")
                return
            if problem := _misplaced(argument, override):
                problems.append(problem)
            elif found is not None and not found:
                problems.append(f"'{argument}': gives no value at all.")
            else:
                element = override.get_key_element()
                values.pop(element.lstrip("+~"), None)  # the last one counts, in its place
                spelled[element.lstrip("+~")] = _respelled(override)
                values[element.lstrip("+~")] = [addable(argument)] if found is None else [addable(f"{element}={value}") for value in found]
                swept.extend([argument] if found is not None else [])

        for argument in arguments:
            read(argument)
        start = [choices[0] for choices in values.values()]
        first = _compose(config_name, start, problems)
        for argument in arguments:
            if (key := argument.partition("=")[0]) in ("hydra.run.dir", "hydra.sweep.dir"):
                with resolving(first):
                    OmegaConf.select(first, key)
        for key, text in (first.hydra.sweeper.get("params") or {}).items():
            if key not in values:  # what a file sweeps over, unless the command line says otherwise
                read(f"{key}={text}")
        runs = [
            (chosen, first if chosen == start else _compose(config_name, chosen, problems)) for chosen in _combinations([*values.values()])
        ]
    configs: list[C] = []
    notes: list[str] = []
    for chosen, composed in runs:
        try:
            config = read_composed(cls, _without_hydra(composed), chosen, notes)
            problems += _name_problems(config.name)
            problems += _misread_numbers(config, {**_spelled_in_files(composed), **spelled})
            configs.append(config)
        except ConfigError as more:
            problems += more.problems
    if problems:
        raise ConfigError(_with_own_files(dict.fromkeys(problems), [composed for _, composed in runs], given_keys(arguments)))
    return CommandLine(configs, [*arguments], swept, [*dict.fromkeys(notes)], first.hydra)


def _with_own_files(problems: Iterable[str], runs: Iterable[DictConfig], given: Sequence[str]) -> list[str]:
    """Problems, with the file of the user's own that has the value, where one has and the command line has not."""
    files = dict.fromkeys(file for run in runs for file in _own_files(run))
    found = []
    for problem in problems:
        key = re.split(r"[:=]", problem, maxsplit=1)[0]
        where = [path for group, path in files if key not in given and key in keys_of(group, path)]
        found.append(f"{problem} It stands in {where[-1]}." if where else problem)
    return found


def _own_files(run: DictConfig) -> list[tuple[str, Path]]:
    """The files of the user's own that a run takes, each with its group."""
    choices = sorted((group, option) for group, option in run.hydra.runtime.choices.items() if isinstance(option, str))
    return [(group, path) for group, option in choices if (path := own_file(group, option)) is not None]


def _spelled_in_files(run: DictConfig) -> dict[str, dict[str, str]]:
    return {key: typed for group, path in _own_files(run) for key, typed in keys_of(group, path).items()}


def _respelled(override: "Override") -> dict[str, str]:
    """What an argument holds that looks like a number and that we spell otherwise."""
    typed = (override.input_line or "").partition("=")[2].strip()
    value = getattr(override.value(), "list", override.value())  # of a sweep, its choices
    return respelled(value, re.sub(r"^\w*[\[(]|[\])]$", "", typed).split(",") if isinstance(value, list) else [typed])


def _misread_numbers(config: Any, spelled: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A sentence for every text that became another when it was read as a number (a name ``1_000``), and for what only YAML reads so."""
    for leaf in leaves(config):
        several = isinstance(leaf.value, list | tuple)
        for value in leaf.value if several else [leaf.value]:
            if (typed := spelled.get(leaf.key, {}).get(str(value))) is None:
                continue
            if isinstance(value, str):
                literal = f"['{typed}', ...]" if several else f"'{typed}'"
                yield f"{leaf.key}: {typed} is read as the number {value}; put quotes around it, {leaf.key}={_in_shell(literal)}."
            elif typed.lstrip("+-")[:1].isdigit() and (":" in typed or re.match(r"[+-]?0\d", typed)):
                counted = "sixties" if ":" in typed else "eights"
                yield f"{leaf.key}: {typed} is {value} in YAML, which counts {counted} there; write {value}."


def compose_unchecked(config_name: str, arguments: Sequence[str]) -> DictConfig:
    """What a command line's overrides make of the config files; imports nothing that the settings name.

    Raises:
        ConfigError: a choice does not exist, or Hydra cannot read an argument.
    """
    problems: list[str] = []
    with _hydra():
        composed = _compose(config_name, [*map(addable, _readable(config_name, arguments, problems))], problems)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return _without_hydra(composed)


def _name_problems(name: str) -> list[str]:
    """What keeps a run's name from being a folder's."""
    if not name.strip() or name in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", name):
        return [f"name: {name!r} is to be part of the run folder's name; leave slashes and control characters out, such as name=mine."]
    if (length := len(os.fsencode(name))) > LONGEST_NAME:
        return [f"name: '{name[:20]}...' has {length} bytes, but names the run's folder; expected at most {LONGEST_NAME}."]
    return []


@contextlib.contextmanager
def _hydra() -> "Iterator[ConfigLoader]":
    """Hydra, ready to compose our config files and the user's."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    state = GlobalHydra.instance()
    around, state.hydra = state.hydra, None  # of the program, if this is one of Hydra's jobs
    try:
        with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3"):
            yield state.config_loader()
    finally:
        state.hydra = around


# One argument


def _parsed(argument: str) -> "Override":
    """Hydra's reading of an argument.

    Raises:
        HydraException: it is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(argument)


def _readable(config_name: str, arguments: Sequence[str], problems: list[str]) -> list[str]:
    """The arguments in Hydra's grammar, those left out that cannot be read: of each, ``problems`` gets to know why.

    ``experiment=null`` is left out as well, with what chose an experiment before it: Hydra has no word for no choice.
    """
    defaults = OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml").defaults
    optional = {group for entry in defaults if isinstance(entry, DictConfig) for group, chosen in entry.items() if chosen is None}
    found: list[str] = []
    for argument in arguments:
        try:
            readable = in_grammar(argument)
        except ConfigError as unreadable:
            problems += unreadable.problems
            continue
        group, _, value = readable.partition("=")
        if group in optional and value == "null":
            found = [other for other in found if other.partition("=")[0] != group]
        else:
            found.append(readable)
    return found


#: Keys of folders that are looked at before a configuration is typed.
FOLDERS = ("resume", "start_from", "checkpoint", "hydra.run.dir", "hydra.sweep.dir")


def expanded(folder: str) -> str:
    """A path without the ``~`` that stands for the user's home; as it is where there is no such user."""
    return os.path.expanduser(folder)  # noqa: PTH111  # pathlib's raises instead


def with_latest(overrides: Sequence[str]) -> list[str]:
    """A command line in which folders stand where the user said ``latest``; it is said which.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    found = []
    for override in overrides:
        key, _, value = override.partition("=")
        values = value.split(",")
        if key.lstrip("+") in ("start_from", "checkpoint") and LATEST in values:
            override = f"{key}={','.join(quoted(str(named_checkpoint(one))) if one == LATEST else one for one in values)}"
        found.append(override)
    return found


#: A value that begins so is meant for Hydra: a list, a mapping, a text in quotes, a function.
_STRUCTURED = re.compile(
    r"""\s*(?:[\[{'"]|(?:choice|range|interval|glob|sort|shuffle|tag|extend_list|json_str|int|float|str|bool)\()|.*(?<!\\)\$\{"""
)


def in_grammar(argument: str) -> str:
    """An argument in Hydra's grammar, which wants quotes around much that is plain to people: ``dataset.category=thème``.

    What Hydra reads is left as it is, but for Python's word ``None``, which is null.

    Raises:
        ConfigError: it cannot be read; the message says what to type.
    """
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if value == "None":
        return f"{key}={'none' if 'none' in options(key.lstrip('+')) else 'null'}"
    if key.lstrip("+") in FOLDERS and "~" in value:
        value = ",".join(expanded(folder) for folder in value.split(","))
        argument = f"{key}={value}"
    try:
        _parsed(argument)
        return argument
    except HydraException as error:
        refusal = first_line(error)
    if not equals or not re.fullmatch(r"[\w.@/+~-]+", key, re.ASCII):
        raise ConfigError([f"'{argument}': cannot be read as key=value ({refusal})."])
    text = f"{key}={quoted(value)}"
    if _STRUCTURED.match(value):
        raise ConfigError([f"'{argument}': cannot be read as key=value ({refusal}); if it is all one text, type {_in_shell(text)}"])
    if "," in value:
        several = f"{key}={','.join(quoted(part) for part in value.split(','))}"
        choice = f"type {_in_shell(text)} for one text, {_in_shell(several)} for several"
        raise ConfigError([f"'{argument}': a comma stands between values of a sweep; {choice}."])
    try:
        _parsed(text)
    except HydraException:  # what is wrong is the key, such as runner.0x
        raise ConfigError([f"'{argument}': cannot be read as key=value ({refusal})."]) from None
    return text


def quoted(value: str) -> str:
    """A text as a value of Hydra's command line, whatever is in it."""
    if re.fullmatch(r"[\w./-]+", value, re.ASCII):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)  # only those backslashes are special that stand before a quote
    trailing = escaped[len(escaped.rstrip("\\")) :]
    return f"'{escaped}{trailing}'"


def _in_shell(argument: str) -> str:
    """An argument as it is typed into a shell."""
    return f'"{argument}"' if not re.search(r"[\"$`\\!]", argument) else shlex.quote(argument)


def _misplaced(argument: str, override: "Override") -> str | None:
    """What is wrong with where an argument puts its value: a group that is none, a choice that is written as a value, ..."""
    key, value = override.key_or_group, override.value()
    groups = config_groups()
    if not key or (is_group(key) and not override.is_sweep_override() and not _is_choice(value)):
        return f"'{argument}': cannot be read as key=value or group=option."
    if "/" in key and not key.startswith("hydra/") and key not in groups and not override.is_delete():
        return f"{key}: there is no such group of configs. {nearest(key, groups)}"
    if is_group(key) and isinstance(value, str) and "${" in value:
        return f"{key}: '{value}' is no option. Known: {', '.join(options(key))}."
    path = key.replace(".", "/")
    if path in groups and "." in key and isinstance(value, str):
        return f"{key}: is chosen with a slash, {path}={value}."
    if value is None and key in groups and key not in ("logger", "callbacks") and not override.is_delete():
        return f"{key}: needs one of {', '.join(path.stem for path in groups[key])}; null is none of them."
    return None


def _swept_values(override: "Override") -> list[str]:
    """The values of a sweep, of an interval its ends, as the command line would give each alone."""
    from hydra.core.override_parser.types import IntervalSweep

    if isinstance(interval := override.value(), IntervalSweep):
        return [str(interval.start), str(interval.end)]
    return list(override.sweep_string_iterator())


def read_sweeps(arguments: Sequence[str]) -> "list[Override]":
    """Hydra's reading of arguments that sweep, also of a glob, which asks what files there are."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with _hydra() as loader:
        return OverridesParser.create(loader).parse_overrides([*arguments])


def _combinations(choices: list[list[str]]) -> Iterable[list[str]]:
    if math.prod(map(len, choices)) <= MOST_COMBINATIONS:
        yield from map(list, itertools.product(*choices))
        return
    base = [values[0] for values in choices]
    yield base
    for place, values in enumerate(choices):
        yield from ([*base[:place], value, *base[place + 1 :]] for value in values[1:])


def _compose(config_name: str, overrides: Sequence[str], problems: list[str]) -> DictConfig:
    """What Hydra composes of single-valued overrides, with its own settings; a choice that does not exist is noted and left out."""
    from hydra import compose
    from hydra.errors import HydraException, MissingConfigException

    overrides = [*overrides]
    while True:
        try:
            return compose(config_name, overrides, return_hydra_config=True)
        except MissingConfigException as error:
            missing = error.missing_cfg_file or ""
            place, group, name = _choice_of(missing, overrides)
            plugins = PLUGIN_EXTRAS.get(group, {})
            if name in plugins:
                problems.append(f"{group}: '{name}' is not installed: pip install 'graphgpt[{plugins[name]}]'.")
            else:
                below = [option for option in options(group) if option.startswith(f"{name}/")]
                hint = f"It is a folder of them: {', '.join(below)}." if below else nearest(name, [*options(group), *plugins])
                problems.append(f"{group}: there is no '{name}'. {hint}")
            if place is None:
                raise ConfigError(dict.fromkeys(problems)) from error
            others = [other for other in _choices(overrides[place]) if other != name]
            overrides[place : place + 1] = [f"{group}=[{','.join(others)}]"] if others else []
        except (HydraException, ValueError) as refusal:
            raise ConfigError(dict.fromkeys([*problems, " ".join(str(refusal).split())])) from refusal


def _choice_of(option: str, overrides: Sequence[str]) -> tuple[int | None, str, str]:
    """Which override chooses an option such as ``model/tower/sgc`` (None: no override does), and the option as group and name."""
    for place, override in enumerate(overrides):
        group = override.lstrip("+~").partition("=")[0]
        if option.startswith(f"{group}/") and option.removeprefix(f"{group}/") in _choices(override):
            return place, group, option.removeprefix(f"{group}/")
    group, _, name = option.rpartition("/")
    return None, group, name


def _choices(override: str) -> list[str]:
    """The options that an override such as ``logger=[csv,wandb]`` chooses."""
    return [name.strip() for name in override.partition("=")[2].strip("[]").split(",")]


def _is_choice(value: Any) -> bool:
    """Whether a value can choose from a group: an option, none, or a list of options where several go together."""
    return isinstance(value, str | None) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])  # type: ignore[misc]


def addable(override: str) -> str:
    """An override of a value so that Hydra takes it even where no file spells the key; whether it exists, the schema says."""
    key, _, value = override.partition("=")
    if key in ("logger", "callbacks") and value == "null":
        return f"{key}=[]"  # Hydra reads no null where several can be chosen
    return override if key.startswith(("+", "~", "hydra.")) or is_group(key) else f"++{override}"


def given_keys(overrides: Iterable[str]) -> list[str]:
    """The keys whose values a command line sets, without those that choose a file."""
    keys = [override.lstrip("+").partition("=")[0] for override in overrides if not override.startswith("~")]
    return [key for key in keys if not is_group(key)]


def read_composed(cls: type[C], composed: DictConfig, overrides: Sequence[str] = (), notes: list[str] | None = None) -> C:
    """A typed configuration from what Hydra composed.

    Args:
        cls: Schema of the root.
        composed: Hydra's.
        overrides: The command line. ``resume`` takes the settings of the run that it names, and these change them; ``start_from`` takes
            of its run what they and an experiment leave open.
        notes: What was taken so is appended here.
    """
    data = _plain(composed)
    if isinstance(plugins := data.get("plugins"), list):
        load_plugins(module for module in plugins if isinstance(module, str))
    if cls is ExperimentConfig and data.get("resume") in (None, AUTO):
        data = _begun(data, overrides, [] if notes is None else notes)
    if cls is ExperimentConfig and data.get("resume") == AUTO:
        data |= {"resume": _interrupted(data)}
    elif cls is ExperimentConfig and data.get("resume"):
        data = _resumed(data["resume"], overrides)
    if cls is EvaluationConfig:
        data = _completed(data)
    return read_config(cls, data, given_keys(overrides))


def _begun(data: dict[str, Any], overrides: Sequence[str], notes: list[str]) -> dict[str, Any]:
    """Settings of a run that may start where another ended: what nobody has chosen is as it was there.

    Raises:
        ConfigError: that run's config cannot be used.
    """
    folder = data.get("start_from")
    if not isinstance(folder, str) or folder == MISSING or checkpoint_problems(folder, "start_from"):
        return data
    chosen = {override.lstrip("+~").partition("=")[0].replace("/", ".") for override in overrides}
    problems: list[str] = []
    try:
        found = handed_over(folder, data, _plain(compose_unchecked("train", [])), chosen)
        after = parse(ExperimentConfig, found, problems)
        if problems:  # perhaps for want of a class of the user's own
            check_plugins(read_experiment(find_checkpoint(folder) / "config.yaml"), folder)
    except GraphGPTError as error:
        raise ConfigError([f"start_from: {error}"]) from error
    before = parse(ExperimentConfig, data, problems)
    if found != data and not problems and (taken := _taken(plain_settings(before), plain_settings(after))):
        listed = " and ".join(filter(None, [", ".join(taken[:-1]), taken[-1]]))
        notes.append(f"start_from: takes {listed} from {folder}")
    return found


def _taken(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a hand-over changed, as it would be typed: a choice, or single values where the choice is the same."""
    found = []
    for key in TAKEN:
        ours, theirs = ({**settings, **settings["model"]}[key.rpartition(".")[2]] for settings in (before, after))
        if ours.get("name") != theirs.get("name"):
            found.append(f"{key.replace('.', '/')}={theirs['name']}")
        else:
            values = flat(ours)
            found += [f"{key}.{name}={shown(value)}" for name, value in flat(theirs).items() if values.get(name, MISSING) != value]
    return found


def _completed(data: dict[str, Any]) -> dict[str, Any]:
    """Settings such as ``task.wording=2`` that name no task change the checkpoint's own; likewise ``dataset``."""
    partial = {key: node for key in ("dataset", "task") if isinstance(node := data.get(key), dict) and "name" not in node}
    if not partial or checkpoint_problems(str(data.get("checkpoint")), "checkpoint"):
        return data
    own = checkpoint_experiment(data["checkpoint"])
    merged = {key: OmegaConf.to_container(OmegaConf.merge(own[key], node)) for key, node in partial.items()}
    return data | merged


def _plain(composed: DictConfig) -> dict[str, Any]:
    with resolving(composed):
        data = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items() if key != "hydra"}


@contextlib.contextmanager
def resolving(composed: DictConfig) -> Iterator[None]:
    """Within the block, a value that refers to what is not there is told in a sentence, and what the system refuses as such.

    Raises:
        ConfigError: there is such a value.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        raise ConfigError([_unresolved(composed, error)]) from error


def _unresolved(composed: DictConfig, error: OmegaConfBaseException) -> str:
    """The sentence about a value such as ``${foo.bar}`` that refers to nothing."""
    found: Any = OmegaConf.to_container(composed, resolve=False)
    key = error.full_key or ""
    for part in re.findall(r"[^.\[\]]+", key.removeprefix("hydra.") if "hydra" not in found else key):
        found = found[int(part) if isinstance(found, list) else part]
    literal = f"{key}={str(found).replace('${', chr(92) + '${')}"
    return (
        f"{key}: in '{found}', ${{...}} stands for the value of another key, and that cannot be found ({first_line(error)}); "
        f"for the characters themselves, type {shlex.quote(literal)}"
    )


def _interrupted(data: dict[str, Any]) -> str | None:
    """The newest run with exactly these settings that was stopped after its first resumable checkpoint and before its end."""
    wanted = plain_settings(read_config(ExperimentConfig, {**data, "resume": None}))
    for folder in sorted((RUNS / wanted["name"]).glob("*"), reverse=True):
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
        interrupted = f"resume={AUTO} finds the newest that was interrupted"
        raise ConfigError([f"resume: {folder} is not a run folder: it has no config.yaml ({interrupted})."])
    try:
        own = read_experiment(path)
        check_plugins(own, folder)
    except GraphGPTError as error:
        raise ConfigError([f"resume: {error}"]) from error
    settings = OmegaConf.create(own)
    before, epochs = (OmegaConf.select(settings, f"runner.{name}") for name in ("max_steps", "epochs"))
    given = OverridesParser.create().parse_overrides([*overrides])
    if found := leads_out(own.get("runner"), "runner", {override.key_or_group for override in given}):
        raise ConfigError(
            f"resume: {folder} has {key}={value}, which leads out of the run folder; if that is meant, say it here too: {key}={value}"
            for key, value in found
        )
    for override in given:
        key = override.key_or_group
        if key == "resume" or key.startswith("hydra"):
            continue
        if is_group(key) or override.is_delete():
            raise ConfigError(
                [f"resume: goes on with the choices of {folder}; drop {override.input_line}. Values such as runner.threads=1 may change."]
            )
        OmegaConf.update(settings, key, override.value(), force_add=True)
    if run_state(path.parent) == FINISHED:
        now, wanted = (OmegaConf.select(settings, f"runner.{name}") for name in ("max_steps", "epochs"))
        if wanted and epochs:
            now = round(before * wanted / epochs)
        _can_be_longer(path.parent, before, now)
    data = OmegaConf.to_container(settings)
    assert isinstance(data, dict)
    return {**data, "resume": folder}


def _can_be_longer(folder: Path, before: Any, now: Any) -> None:
    """Refuse to go on in a finished run unless more steps are asked for and there is a state to begin with.

    Raises:
        ConfigError: there is nothing to do, or nothing to go on from; its checkpoint and scores stay as they are.
    """
    done = f"resume: {folder} is finished, its {amount(before, 'step')} {'is' if before == 1 else 'are'} trained"
    if not (isinstance(before, int) and isinstance(now, int) and now > before):
        raise ConfigError([f"{done}: nothing is left to do. More of them are asked for by runner.max_steps, above {before}."])
    if not any((folder / "resume").glob("*.ckpt")):
        raise ConfigError(
            [
                f"{done}, and it kept no state to go on from (runner.checkpoint.every_n_steps); "
                f"train {amount(now, 'step')} in a new run instead, without resume."
            ]
        )


def register_resolvers() -> None:
    """Tell Hydra about our config files, and OmegaConf about the interpolations in them."""
    from graphgpt.files.config_source import register

    register()
    # Cached by the configuration that asks: what it makes is made once.
    OmegaConf.register_new_resolver("graphgpt.run_dir", _run_dir, replace=True, use_cache=True)
    # OmegaConf's own ??? does not override a value that is there; this does.
    OmegaConf.register_new_resolver("graphgpt.must_be_given", lambda: MISSING, replace=True)


def _run_dir(resume: str | None, default: str) -> str:
    return os.environ.get("GRAPHGPT_RUN_DIR") or resume or _common(default)


def _common(folder: str) -> str:
    """A new folder, one for all processes of a run, of which each has looked at the clock itself."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # torchrun's own, at which its processes meet.
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        key = f"graphgpt/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        if os.environ["RANK"] == "0":
            store.set(key, str(new_folder(Path(folder))))
        return str(store.get(key).decode())
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return str(Path(folder).with_name(f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', 0)}"))
    return str(new_folder(Path(folder)))
