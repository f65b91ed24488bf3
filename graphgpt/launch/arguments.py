"""The arguments of a program, sorted, and what its help says."""

import argparse
import dataclasses
import re
from collections.abc import Callable, Sequence

from omegaconf import OmegaConf

from graphgpt.config.composition import compose_unchecked
from graphgpt.errors import ConfigError
from graphgpt.files.configs import OWN, config_groups
from graphgpt.machine.installation import typed

MULTIRUN = ("-m", "--multirun")


HELP = ("-h", "--help")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line, sorted."""

    overrides: list[str]
    flags: list[str]
    folders: list[str]
    """Of ``--config-dir``."""
    shows: str | None
    """What Hydra or we are to show instead of running."""


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Sort the arguments of a program.

    Raises:
        ConfigError: there is no such flag.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flags in (HELP, MULTIRUN, ("--resolve",)):
        parser.add_argument(*flags, action="append_const", const=flags[-1], dest="flags")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    # Hydra's own, which it gets as they are.
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?", const="all")
    parser.add_argument("--hydra-help", action="store_const", const="help")
    parser.add_argument("--shell-completion", "-sc", action="store_const", const="completion")
    try:
        known, others = parser.parse_known_args([*arguments])
    except argparse.ArgumentError as error:
        raise ConfigError([f"{error}."]) from error
    if unknown := [other for other in others if other.startswith("-")]:
        raise ConfigError([_unknown_flag(flag) for flag in unknown])
    shows = "hydra" if known.package else known.cfg or known.info or known.hydra_help or known.shell_completion
    return Arguments(others, known.flags or [], known.config_dir, shows)


def _unknown_flag(flag: str) -> str:
    name, equals, value = flag.lstrip("-").partition("=")
    if name in ("config-path", "config-name", "cp", "cn"):
        return f"{flag}: config files of your own lie in {OWN}/ beside you, or in a folder named by --config-dir."
    if flag.startswith("--") and re.match(r"[a-z]", name):
        return f"{flag}: is no flag; settings are written without dashes, {name.replace('-', '_')}={value if equals else '...'}."
    return f"{flag}: is no flag; there are -m, --help, --cfg job, --config-dir DIR, and Hydra's (--hydra-help)."


def help_text(program: Callable[[], None], config_name: str, overrides: Sequence[str]) -> str:
    """What ``--help`` shows. Hydra's own shows the same in three times the time: it copies every schema once per group of configs."""
    groups = "\n".join(f"{group}: {', '.join(path.stem for path in files)}" for group, files in sorted(config_groups().items()))
    return f"""{program.__doc__}

    {typed(config_name)} [group=option ...] [key=value ...]

Choose from these groups of configs (group=option); graphgpt ls GROUP says what each option is:

{groups}

Override any value of what this command line makes (foo.bar=value):

{OmegaConf.to_yaml(compose_unchecked(config_name, overrides))}
-m tries several values in turn (seed=0,1,2), --cfg job shows the values alone, --info defaults their files, --hydra-help all flags."""
