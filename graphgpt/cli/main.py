"""``graphgpt``: what there is, what fits, what is installed."""

import argparse
import importlib.metadata
import os
import runpy
import shutil
import sys
from pathlib import Path

from omegaconf import OmegaConf

from graphgpt import __version__
from graphgpt.cli.chat import add_parser as add_chat_parser
from graphgpt.cli.data import add_parser as add_data_parser
from graphgpt.cli.runs import add_parser as add_runs_parser
from graphgpt.cli.sweep import add_parser as add_sweep_parser
from graphgpt.cli.weights import add_parser as add_weights_parser
from graphgpt.config.command_line import read_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.config.grammar import with_latest
from graphgpt.errors import GraphGPTError, nearest
from graphgpt.files.configs import (
    CONFIG_DIR,
    OWN,
    PACKAGES,
    add_config_dir_option,
    config_groups,
    describe,
    is_own,
    own_plugins,
    read_config_file,
    with_folders,
)
from graphgpt.launch.outermost import user_errors
from graphgpt.registry import REGISTRIES, add_plugins_option, load_plugins
from graphgpt.schema import flat, shown

#: What a run is made by; their arguments are Hydra's.
PROGRAMS = {
    "train": "train: experiment=stage1 [key=value ...], -m for a sweep, --help for what there is",
    "evaluate": "evaluate a checkpoint: checkpoint=RUN_FOLDER [key=value ...]",
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command; a user's mistake ends in its sentence and exit code 2."""
    parser = argparse.ArgumentParser(prog="graphgpt", description="A language model learns to read graphs through graph tokens.")
    parser.add_argument("--version", action="version", version=f"graphgpt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in PROGRAMS.items():
        commands.add_parser(name, help=about)
    ls = commands.add_parser("ls", help="list config options, all or of one kind; the settings of one option or at a key")
    ls.add_argument("kind", nargs="?", help="such as tower (or model/tower), experiment; tower/gat; runner.checkpoint")
    commands.add_parser("reference", help="print every setting there is, as docs/reference.md")
    cache = commands.add_parser("cache", help="list what is kept for the next time, or clear it")
    cache.add_argument("--clear", nargs="*", metavar="NAME", help="remove these entries; all without a name")
    cp = commands.add_parser("cp", help="copy a shipped config file, to change it")
    cp.add_argument("source", help="such as experiment/stage1")
    cp.add_argument("target", type=Path, nargs="?", help=f"file to write, its name alone, or nothing for {OWN}/SOURCE; never overwrites")
    check = commands.add_parser("check", help="pre-flight: everything that can be seen before training")
    check.add_argument("overrides", nargs="*", help="as for graphgpt train, such as experiment=stage1")
    for parser_of_configs in (ls, check):
        add_config_dir_option(parser_of_configs)
    join = commands.add_parser("gather", help="join the shards of an evaluation into one run folder")
    join.add_argument("folders", nargs="+", type=Path, help="run folders of graphgpt evaluate shard=1/n, shard=2/n, ...")
    join.add_argument("--out", type=Path, help="folder to make; a dated one beside the first unless given")
    add_plugins_option(join)
    add_data_parser(commands)
    add_weights_parser(commands)
    add_chat_parser(commands)
    add_runs_parser(commands)
    add_sweep_parser(commands)
    push = commands.add_parser("push", help="upload a checkpoint to a model hub")
    push.add_argument("checkpoint", type=Path, help="run or checkpoint folder")
    push.add_argument("repository", help="OWNER/NAME")
    push.add_argument("--private", action="store_true", help="seen by its owner alone, if the repository is made now")
    pull = commands.add_parser("pull", help="download a checkpoint from a model hub")
    pull.add_argument("repository", help="OWNER/NAME")
    pull.add_argument("--out", type=Path, required=True, help="folder to make")
    pull.add_argument("--revision", help="branch, tag or commit; the newest unless given")
    commands.add_parser("env", help="versions, for a bug report")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in PROGRAMS:
        start(*arguments)
        return
    options = parser.parse_args(arguments)
    with user_errors(), with_folders(getattr(options, "config_dir", [])):
        if plugins := getattr(options, "plugins", None):
            load_plugins(plugins)
        if options.command == "ls":
            list_options(options.kind)
        elif options.command == "reference":
            from graphgpt.cli.reference import reference

            print(reference(), end="")
        elif options.command == "cache":
            from graphgpt.files.cache import clear, show

            show() if options.clear is None else clear(options.clear)
        elif options.command == "cp":
            copy_config(options.source, options.target)
        elif options.command == "check":
            from graphgpt.cli.preflight import preflight

            line = read_command_line(ExperimentConfig, "train", with_latest(options.overrides))
            line.tell()
            sys.exit(0 if preflight(line.configs[0]) else 2)
        elif options.command in ("data", "weights", "chat", "runs", "sweep"):
            options.run(options)
        elif options.command == "push":
            from graphgpt.cli import hub

            print(f"Pushed to {hub.push(options.checkpoint, options.repository, private=options.private)}")
        elif options.command == "pull":
            from graphgpt.cli import hub

            print(f"Pulled to {hub.pull(options.repository, options.out, revision=options.revision)}")
        elif options.command == "gather":
            from graphgpt.evaluation.gather import gather

            gather(options.folders, options.out)
        else:
            show_environment()


def start(program: str, *arguments: str) -> None:
    """Become ``python -m graphgpt.cli.train`` or ``graphgpt.cli.evaluate``: what starts more processes of a run starts that again."""
    sys.argv[1:] = arguments
    runpy.run_module(f"graphgpt.cli.{program}", run_name="__main__", alter_sys=True)


def list_options(kind: str | None) -> None:
    """Print the config groups with their options, the settings of one option, or those at a key.

    Args:
        kind: A group such as ``model/tower`` or its last part, an option such as ``tower/gat``, a key such as ``runner.checkpoint``; None
            lists all groups.

    Raises:
        GraphGPTError: there is none of these.
    """
    groups = config_groups()
    wanted = {g: files for g, files in groups.items() if kind is None or kind in (g, g.rsplit("/", 1)[-1]) or g.startswith(f"{kind}/")}
    for group, files in wanted.items():
        _show(
            group, ["option", "what it is"], [[path.stem, f"yours: {describe(path)}" if is_own(path) else describe(path)] for path in files]
        )
    if kind is None or kind in REGISTRIES:
        _list_plugins(kind)
    alone = kind in wanted and len(wanted[kind]) == 1
    chosen = [
        (group, path)
        for group, files in groups.items()
        for path in files
        if (alone and group == kind) or (kind is not None and kind in (f"{group}/{path.stem}", f"{group.rsplit('/', 1)[-1]}/{path.stem}"))
    ]
    for group, path in chosen:
        _show_option(group, path)
    if wanted or chosen or kind is None:
        return
    from graphgpt.cli.reference import keys, settings_at

    if not (found := settings_at(kind)):
        known = {g.rsplit("/", 1)[-1] for g in groups} | set(groups)
        if "/" in kind:
            known = {f"{group.rsplit('/', 1)[-1]}/{path.stem}" for group, files in groups.items() for path in files} | known
        raise GraphGPTError(f"There is no kind '{kind}'. {nearest(kind, keys() if '.' in kind else known)}")
    _show(kind, ["key", "takes", "default", "what it is"], [[one.key, one.type, one.default, one.about] for one in found])


def _show_option(group: str, path: Path) -> None:
    """An option's settings with what its file makes of them; the file itself where it sets things all over the configuration."""
    from graphgpt.cli.reference import classes_at, settings

    _, content = read_config_file(path)
    classes = {} if group.partition("/")[0] in PACKAGES else classes_at(group.replace("/", "."))
    cls = classes.get(str(content.get("name")), classes.get(""))
    title = f"{group}/{path.stem}: {describe(path)}"
    if cls is None:
        print(f"{title}\n\n{path.read_text(encoding='utf-8-sig')}")
        return
    values = flat({key: value for key, value in OmegaConf.to_container(content).items() if key != "defaults"})  # type: ignore[union-attr]
    rows = [[one.key, one.type, one.default, shown(values[one.key]) if one.key in values else "", one.about] for one in settings(cls)]
    _show(title, ["key", "takes", "default", "here", "what it is"], rows)


def _list_plugins(kind: str | None) -> None:
    """Classes of the user's own: of installed plugins, and of the modules that their config files name."""
    if not (modules := own_plugins()) and not importlib.metadata.entry_points(group="graphgpt.plugins"):
        return
    try:
        load_plugins(modules)
    except GraphGPTError as error:
        print(f"{error}\n")
    found = [
        [f"{registry.kind}/{name}", f"yours: {(cls.__doc__ or '').strip().partition(chr(10))[0]} ({cls.__module__})"]
        for registry in REGISTRIES.values()
        for name, cls in registry.registered().items()
        if kind in (None, registry.kind) and not cls.__module__.startswith("graphgpt.")
    ]
    if found:
        _show("plugins", ["name", "what it is"], found)


def _show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table; whole lines where no terminal limits them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell.replace("``", "")) for cell in row))
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(highlight=False, width=None if narrow else 1000).print(table, "")


def copy_config(source: str, target: Path | None) -> None:
    """Copy a shipped config file.

    Args:
        source: Such as ``experiment/stage1``.
        target: File to write; a name alone, or None, stands for one beside the user that every command finds.

    Raises:
        GraphGPTError: there is no such file, or the target exists.
    """
    source = source.removesuffix(".yaml")
    path = CONFIG_DIR / f"{source}.yaml"
    if not path.is_file():
        known = [str(file.relative_to(CONFIG_DIR).with_suffix("")) for file in CONFIG_DIR.rglob("*.yaml")]
        raise GraphGPTError(f"There is no config '{source}'. {nearest(source, known)}")
    group, _, name = source.rpartition("/")
    if target is None or target.parent == Path():
        target = Path(OWN) / group / (target or Path(name)).with_suffix(".yaml")
    if target.exists():
        raise GraphGPTError(f"{target} exists already; choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    if target.parent == Path(OWN) / group:
        print(f"Wrote {target}, which is found from here: {choice(group, target.stem)}")
    else:
        print(f"Wrote {target}. Put it into {OWN}/{group}/, or DIR/{group}/ and say --config-dir DIR: {choice(group, target.stem)}")


def choice(group: str, name: str) -> str:
    """What chooses a config file on a command line: of ``experiment`` the folders below are part of the name."""
    first, _, below = group.partition("/")
    return f"{first}={below}/{name}" if first in PACKAGES and below else f"{group}={name}"


def show_environment() -> None:
    """Print versions and hardware."""
    import torch

    from graphgpt.checkpoints.folder import environment

    facts = {key: value for key, value in environment().items() if value is not None}
    facts["processors"] = os.cpu_count()
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    for name, value in facts.items():
        print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
