"""``graphgpt data ...``: make a graph folder of one's own data, look at it, check it."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from graphgpt.cli.distil import add_parser as add_distill_parser
from graphgpt.errors import DataError, GraphGPTError
from graphgpt.machine.installation import typed

#: Options that say where the data come from, with the dataset that reads them.
SOURCES = {"nodes": "csv", "edges": "csv", "pyg": "pyg", "ogb": "ogb"}
#: Options that only one source has.
OPTIONS_OF = {"texts": "ogb", "normalize": "nodes", "unknown_nodes": "nodes"}


def add_parser(commands: Any) -> None:
    """Add ``data`` to the sub-commands; the parsed options hold what to call as ``run(options)``."""
    data = commands.add_parser("data", help="a graph of your own: build, show, check").add_subparsers(dest="data_command", required=True)

    build = data.add_parser("build", help="make a graph folder of tables, of a PyG file or of an OGB folder")
    build.add_argument("--nodes", metavar="FILE", help="CSV, Parquet or Excel: id, title, body, label, split")
    build.add_argument("--edges", metavar="FILE", help="CSV, Parquet or Excel: source, target")
    build.add_argument("--pyg", metavar="FILE", help="a torch_geometric Data with its texts, saved by torch.save")
    build.add_argument("--ogb", metavar="FOLDER", help="an unpacked node-property dataset of the Open Graph Benchmark")
    build.add_argument("--out", metavar="FOLDER", type=_path, required=True, help="graph folder to make")
    build.add_argument("--force", action="store_true", help="replace an older graph folder")
    build.add_argument("--name", help="what reports call the graph; the folder's name unless given")
    build.add_argument("--domain", help='what prompts call the graph, as in "citation"')
    build.add_argument("--node", help='what prompts call a node, as in "paper"')
    build.add_argument("--relation", help='what prompts call an edge, as in "cites"')
    build.add_argument("--category", help='what prompts call a class, as in "research topic"')
    build.add_argument("--classes", nargs="+", metavar="NAME", help="class names in their order")
    build.add_argument("--features", metavar="FILE", help=".npy, a row per node; otherwise a text encoder makes the features")
    build.add_argument("--normalize", action="store_true", default=None, help="labels that differ only in case and spaces are one class")
    build.add_argument("--unknown-nodes", choices=("raise", "skip"), help="skip: leave out edges to nodes that are not there")
    build.add_argument("--texts", metavar="FILE", help="with --ogb: id, title and text separated by tabs")
    build.set_defaults(run=run_build)

    show = data.add_parser("show", help="what is in a graph: counts, degrees, texts, classes, splits, warnings")
    show.add_argument("folder", type=_path, help="graph folder")
    show.set_defaults(run=run_show)

    check = data.add_parser("check", help="whether a graph folder is sound; exit code 2 where it is not")
    check.add_argument("folder", type=_path, help="graph folder")
    check.set_defaults(run=run_check)

    add_distill_parser(data)


def _path(name: str) -> Path:
    return Path(name).expanduser()


def run_build(options: argparse.Namespace) -> None:
    """``graphgpt data build``.

    Raises:
        GraphGPTError: the options do not name one source, or ``--out`` is taken.
        DataError: the data cannot be used.
    """
    from graphgpt.graphs.dataset import WORDS
    from graphgpt.graphs.graph import TextAttributedGraph
    from graphgpt.registry import DATASETS
    from graphgpt.schema import parse

    given = [name for name in SOURCES if getattr(options, name) is not None]
    if given not in (["nodes", "edges"], ["pyg"], ["ogb"]):
        found = " and ".join(f"--{name}" for name in given) or "none"
        raise GraphGPTError(f"graphgpt data build needs one source: --nodes with --edges, --pyg or --ogb; found {found}.")
    for name, source in OPTIONS_OF.items():
        if getattr(options, name) is not None and source not in given:
            raise GraphGPTError(f"--{name.replace('_', '-')} goes with --{source} alone.")
    refuse_taken(options.out, options.force)

    dataset = DATASETS.get(SOURCES[given[0]])
    words = {word: value for word in WORDS if (value := getattr(options, word)) is not None}
    files = {name: getattr(options, name) for name in given} if given == ["nodes", "edges"] else {"path": getattr(options, given[0])}
    rest = {name: value for name in ("classes", "features", *OPTIONS_OF) if (value := getattr(options, name)) is not None}
    # The encoder is for training; here none runs.
    problems: list[str] = []
    config = parse(dataset.Config, {"name": SOURCES[given[0]], "text_encoder": {"name": "tfidf_svd"}, **files, **rest}, problems, "dataset")
    problems += [] if problems else dataset.problems(config)
    if problems:
        raise GraphGPTError("\n".join(as_options(problem, given[0]) for problem in problems))
    try:
        dataset(config).write(options.out, card={"name": options.name or options.out.absolute().name, "words": words})
    except DataError as error:
        raise DataError(as_options(str(error), given[0])) from error

    graph = TextAttributedGraph.open(options.out)
    counts = {"node": graph.num_nodes, "edge": graph.num_edges, "class": len(graph.class_names)}
    more = {"class": "classes"}
    print(
        f"Wrote {options.out}: "
        + ", ".join(f"{count:,} {what if count == 1 else more.get(what, what + 's')}" for what, count in counts.items())
        + ".\n"
        + "".join(f"! {note}\n" for note in graph.card.get("notes", []))
        + f"Look at it:    graphgpt data show {options.out}\n"
        f"Train on it:   {typed('train', 'dataset=folder', f'dataset.path={options.out}')} ..."
    )


def as_options(sentence: str, source: str) -> str:
    """A sentence about config keys, with the options that stand for them here."""
    keys = {"path": source}
    names = "|".join(("nodes", "edges", "path", "classes", "features", *OPTIONS_OF))
    return re.sub(rf"(?<![\w./\\-])dataset\.({names})\b", lambda match: f"--{keys.get(match[1], match[1]).replace('_', '-')}", sentence)


def refuse_taken(folder: Path, force: bool) -> None:
    """Say so where a folder is there already; only a graph folder may be replaced, and only when asked for.

    Raises:
        GraphGPTError: it may not.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / "card.json").is_file():
        raise GraphGPTError(f"{folder} exists already and is no graph folder; choose another name.")
    if not force:
        raise GraphGPTError(f"{folder} exists already; choose another name, or replace it with --force.")


def run_show(options: argparse.Namespace) -> None:
    """``graphgpt data show``."""
    from graphgpt.graphs.graph import TextAttributedGraph
    from graphgpt.graphs.inspection import show

    show(TextAttributedGraph.open(options.folder))


def run_check(options: argparse.Namespace) -> None:
    """``graphgpt data check``; leaves with exit code 2 where a check fails."""
    from rich.console import Console
    from rich.markup import escape

    from graphgpt.graphs.inspection import check

    console = Console(highlight=False, soft_wrap=True)
    sound = True
    for number, (result, passed) in enumerate(check(options.folder), start=1):
        sound = sound and passed
        console.print(f"{number}. {'[green]ok[/]' if passed else '[red]failed[/]'} {escape(result)}")
    if not sound:
        sys.exit(2)
