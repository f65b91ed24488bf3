"""``graphgpt runs``: runs beside each other."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add ``runs`` to the sub-commands; the parsed options hold what to call as ``run(options)``."""
    runs = commands.add_parser("runs", help="compare runs: what differs, scores over seeds, time; as a table, CSV, Markdown or a page")
    runs.add_argument("folder", type=Path, help="with run folders in it, at any depth, such as runs/stage2 or a sweep's")
    runs.add_argument("--sort", metavar="KEY", help="a score (the best first), a setting that differs, seed, time, parameters or state")
    runs.add_argument("--reverse", action="store_true", help="the other way round")
    runs.add_argument("--csv", metavar="FILE", type=Path, help="write one line per run")
    runs.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables with all scores")
    runs.add_argument("--html", metavar="FILE", type=Path, help="write a page with a picture; it opens offline")
    runs.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """``graphgpt runs``."""
    from graphgpt.errors import GraphGPTError
    from graphgpt.runs.page import show, write_csv, write_markdown, write_page
    from graphgpt.runs.runs import compare, find_runs, sort

    runs = find_runs(options.folder)
    if not runs:
        raise GraphGPTError(f"{options.folder} holds no run: there is no config.yaml of a training or an evaluation in it.")
    if options.reverse and not options.sort:
        raise GraphGPTError("--reverse: turns an order round; name one with --sort.")
    comparison = compare(runs)
    if options.sort:
        comparison = sort(comparison, options.sort, reverse=options.reverse)
    show(runs, options.folder, comparison)
    drawn = options.sort if options.sort in comparison.scores else None
    if options.csv:
        write_csv(comparison, options.csv)
    if options.markdown:
        write_markdown(comparison, options.folder, options.markdown)
    if options.html:
        write_page(comparison, options.folder, options.html, score=drawn)
    for file in filter(None, (options.csv, options.markdown, options.html)):
        print(f"Wrote {file}")
