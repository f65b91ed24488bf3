"""How a command line becomes a configuration: composed by Hydra, completed from runs that it names, checked as a whole."""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from omegaconf import DictConfig, OmegaConf

from graphgpt.config.experiment import C, EvaluationConfig, ExperimentConfig, read_config
from graphgpt.errors import ConfigError, first_line
from graphgpt.files.configs import keys_of, own_file
from graphgpt.registry import load_plugins
from graphgpt.schema import leaves

if TYPE_CHECKING:
    pass
from graphgpt.config.composition import composed_by_hydra, hydra_ready, plain, readable_arguments, resolving, without_hydra
from graphgpt.config.grammar import addable, given_keys, in_shell, misplaced, parsed, respelled_by_hydra, swept_values
from graphgpt.config.other_runs import AUTO, begun, completed, interrupted, resumed


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
    with hydra_ready() as loader:
        arguments = readable_arguments(config_name, arguments, problems)

        def read(argument: str) -> None:
            override = parsed(argument)
            override.config_loader = loader  # knows what a glob finds
            try:
                found = swept_values(override) if override.is_sweep_override() else None
            except HydraException as unreadable:
                problems.append(f"'{argument}': cannot be read ({first_line(unreadable)}).")
                return
            if problem := misplaced(argument, override):
                problems.append(problem)
            elif found is not None and not found:
                problems.append(f"'{argument}': gives no value at all.")
            else:
                element = override.get_key_element()
                values.pop(element.lstrip("+~"), None)  # the last one counts, in its place
                spelled[element.lstrip("+~")] = respelled_by_hydra(override)
                values[element.lstrip("+~")] = [addable(argument)] if found is None else [addable(f"{element}={value}") for value in found]
                swept.extend([argument] if found is not None else [])

        for argument in arguments:
            read(argument)
        start = [choices[0] for choices in values.values()]
        first = composed_by_hydra(config_name, start, problems)
        for argument in arguments:
            if (key := argument.partition("=")[0]) in ("hydra.run.dir", "hydra.sweep.dir"):
                with resolving(first):
                    OmegaConf.select(first, key)
        for key, text in (first.hydra.sweeper.get("params") or {}).items():
            if key not in values:  # what a file sweeps over, unless the command line says otherwise
                read(f"{key}={text}")
        runs = [
            (chosen, first if chosen == start else composed_by_hydra(config_name, chosen, problems))
            for chosen in _combinations([*values.values()])
        ]
    configs: list[C] = []
    notes: list[str] = []
    for chosen, composed in runs:
        try:
            config = read_composed(cls, without_hydra(composed), chosen, notes)
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


def _misread_numbers(config: Any, spelled: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A sentence for every text that became another when it was read as a number (a name ``1_000``), and for what only YAML reads so."""
    for leaf in leaves(config):
        several = isinstance(leaf.value, list | tuple)
        for value in leaf.value if several else [leaf.value]:
            if (typed := spelled.get(leaf.key, {}).get(str(value))) is None:
                continue
            if isinstance(value, str):
                literal = f"['{typed}', ...]" if several else f"'{typed}'"
                yield f"{leaf.key}: {typed} is read as the number {value}; put quotes around it, {leaf.key}={in_shell(literal)}."
            elif typed.lstrip("+-")[:1].isdigit() and (":" in typed or re.match(r"[+-]?0\d", typed)):
                counted = "sixties" if ":" in typed else "eights"
                yield f"{leaf.key}: {typed} is {value} in YAML, which counts {counted} there; write {value}."


def _name_problems(name: str) -> list[str]:
    """What keeps a run's name from being a folder's."""
    if not name.strip() or name in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", name):
        return [f"name: {name!r} is to be part of the run folder's name; leave slashes and control characters out, such as name=mine."]
    if (length := len(os.fsencode(name))) > LONGEST_NAME:
        return [f"name: '{name[:20]}...' has {length} bytes, but names the run's folder; expected at most {LONGEST_NAME}."]
    return []


def _combinations(choices: list[list[str]]) -> Iterable[list[str]]:
    if math.prod(map(len, choices)) <= MOST_COMBINATIONS:
        yield from map(list, itertools.product(*choices))
        return
    base = [values[0] for values in choices]
    yield base
    for place, values in enumerate(choices):
        yield from ([*base[:place], value, *base[place + 1 :]] for value in values[1:])


def read_composed(cls: type[C], composed: DictConfig, overrides: Sequence[str] = (), notes: list[str] | None = None) -> C:
    """A typed configuration from what Hydra composed.

    Args:
        cls: Schema of the root.
        composed: Hydra's.
        overrides: The command line. ``resume`` takes the settings of the run that it names, and these change them; ``start_from`` takes
            of its run what they and an experiment leave open.
        notes: What was taken so is appended here.
    """
    data = plain(composed)
    if isinstance(plugins := data.get("plugins"), list):
        load_plugins(module for module in plugins if isinstance(module, str))
    if cls is ExperimentConfig and data.get("resume") in (None, AUTO):
        data = begun(data, overrides, [] if notes is None else notes)
    if cls is ExperimentConfig and data.get("resume") == AUTO:
        data |= {"resume": interrupted(data)}
    elif cls is ExperimentConfig and data.get("resume"):
        data = resumed(data["resume"], overrides)
    if cls is EvaluationConfig:
        data = completed(data)
    return read_config(cls, data, given_keys(overrides))
