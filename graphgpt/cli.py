"""``graphgpt``: what there is, what fits, what is installed."""

import argparse
import runpy
import shutil
import sys
from pathlib import Path

from graphgpt import __version__
from graphgpt.chat import add_parser as add_chat_parser
from graphgpt.command_line import check_command_line
from graphgpt.config import ExperimentConfig
from graphgpt.config_files import CONFIG_DIR, OWN, PACKAGES, add_config_dir_option, config_groups, describe, is_own, with_folders
from graphgpt.data_cli import add_parser as add_data_parser
from graphgpt.errors import GraphGPTError, nearest
from graphgpt.outermost import user_errors
from graphgpt.registry import add_plugins_option, load_plugins
from graphgpt.runs_cli import add_parser as add_runs_parser
from graphgpt.sweep_cli import add_parser as add_sweep_parser
from graphgpt.weights_cli import add_parser as add_weights_parser

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
    ls = commands.add_parser("ls", help="list config options, all or of one kind (experiment, tower, llm, dataset, ...)")
    ls.add_argument("kind", nargs="?", help="a config group such as model/tower, or its last part")
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
        elif options.command == "cp":
            copy_config(options.source, options.target)
        elif options.command == "check":
            from graphgpt.preflight import preflight

            config = check_command_line(ExperimentConfig, "train", options.overrides)
            sys.exit(0 if preflight(config) else 2)
        elif options.command in ("data", "weights", "chat", "runs", "sweep"):
            options.run(options)
        elif options.command == "push":
            from graphgpt import hub

            print(f"Pushed to {hub.push(options.checkpoint, options.repository, private=options.private)}")
        elif options.command == "pull":
            from graphgpt import hub

            print(f"Pulled to {hub.pull(options.repository, options.out, revision=options.revision)}")
        elif options.command == "gather":
            from graphgpt.gather import gather

            gather(options.folders, options.out)
        else:
            show_environment()


def start(program: str, *arguments: str) -> None:
    """Become ``python -m graphgpt.train`` or ``graphgpt.evaluate``: what starts more processes of a run starts that again."""
    sys.argv[1:] = arguments
    runpy.run_module(f"graphgpt.{program}", run_name="__main__", alter_sys=True)


def list_options(kind: str | None) -> None:
    """Print the config groups with their options, each with the first line of its comment.

    Raises:
        GraphGPTError: there is no such group.
    """
    from rich.console import Console
    from rich.table import Table

    groups = config_groups()
    wanted = {g: files for g, files in groups.items() if kind is None or kind in (g, g.rsplit("/", 1)[-1]) or g.startswith(f"{kind}/")}
    if not wanted:
        raise GraphGPTError(f"There is no kind '{kind}'. {nearest(kind or '', {g.rsplit('/', 1)[-1] for g in groups} | set(groups))}")
    for group, files in wanted.items():
        table = Table("option", "what it is", title=group, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for path in files:
            table.add_row(path.stem, f"yours: {describe(path)}" if is_own(path) else describe(path))
        Console().print(table, "")


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
    import os

    import torch

    from graphgpt.checkpoints.folder import environment

    facts = {key: value for key, value in environment().items() if value is not None}
    facts["processors"] = os.cpu_count()
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    for name, value in facts.items():
        print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
