"""``graphgpt sweep``: the best settings looked for, a fresh process per run."""

import argparse
from pathlib import Path
from typing import Any

from graphgpt.files.configs import add_config_dir_option
from graphgpt.registry import add_plugins_option


def add_parser(commands: Any) -> None:
    """Add ``sweep`` to the sub-commands; the parsed options hold what to call as ``run(options)``."""
    sweep = commands.add_parser("sweep", help="look for the best settings: graphgpt train again and again, prunable, parallel, resumable")
    sweep.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for graphgpt train; swept over are a,b or choice(a, b), range(1, 9, 2), interval(0, 1), tag(log, interval(1e-4, 1e-2)), "
        "int(interval(4, 64)); each setting is trained with every seed of seed=0,1",
    )
    sweep.add_argument("--metric", help="as in metrics.jsonl; its last value counts, the mean over seeds (default: val/loss)")
    sweep.add_argument("--direction", choices=("minimize", "maximize"), help="default: minimize a loss, maximize anything else")
    sweep.add_argument("--trials", metavar="N", type=int, help="settings to try; without it, every combination of listed values once")
    sweep.add_argument("--sampler", choices=("tpe", "random"), help="how they are chosen (default: tpe, which learns from earlier ones)")
    sweep.add_argument("--parallel", metavar="N", type=int, help="runs at once (default: 1)")
    sweep.add_argument(
        "--prune",
        metavar="N",
        nargs="?",
        const=5,
        type=int,
        help="once N settings (default: 5) are through, stop a run whose metric is worse than the median of theirs at that step",
    )
    sweep.add_argument("--out", metavar="FOLDER", type=Path, help="folder to make (default: a dated one in multirun/)")
    sweep.add_argument("--resume", metavar="FOLDER", type=Path, help="go on with an interrupted sweep, or add trials to a finished one")
    add_plugins_option(sweep)
    add_config_dir_option(sweep)
    sweep.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """``graphgpt sweep``."""
    from graphgpt.config.grammar import with_latest
    from graphgpt.sweeps.sweep import sweep

    names = ("metric", "direction", "trials", "sampler", "parallel", "prune")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.config_dir and options.resume is None:
        given["folders"] = options.config_dir
    sweep(with_latest(options.overrides), given, out=options.out, resume=options.resume)
