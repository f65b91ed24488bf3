"""``graphgpt weights ...``: checkpoints looked at, brought in from elsewhere, taken elsewhere."""

import argparse
from pathlib import Path
from typing import Any

from graphgpt.registry import add_plugins_option

#: What a checkpoint can be exported to.
TARGETS = ("graphgpt_projector", "graphgpt_tower", "graphgpt_full", "hf_merged")


def add_parser(commands: Any) -> None:
    """Add ``weights`` to the sub-commands; the parsed options hold what to call as ``run(options)``."""
    weights = commands.add_parser("weights", help="checkpoints: show, import, export, differences")
    weights = weights.add_subparsers(dest="weights_command", required=True)

    show = weights.add_parser("show", help="lineage, sizes, fingerprints, scores")
    show.add_argument("folder", type=Path, help="run folder, checkpoint folder or folder of tower weights")
    show.set_defaults(run=run_show)

    bring = weights.add_parser("import", help="a released tower, a projector, a full GraphGPT model, a Lightning checkpoint")
    bring.add_argument("source", type=Path, help="file, index or folder; what it is, its content says")
    bring.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to make")
    bring.add_argument("--set", metavar="KEY=VALUE", nargs="+", default=[], help="settings of the checkpoint, as for graphgpt train")
    bring.add_argument("--llm", help="language model: a shipped config's name, a folder or a hub id (default: GraphGPT's, Vicuna 7B)")
    bring.add_argument("--tower", help="where the source has none: a released or imported tower, or one without weights such as identity")
    bring.add_argument("--base", metavar="FOLDER", type=Path, help="also write a full model's language model as a plain folder")
    bring.add_argument("--compat", action="store_true", help="do as the original: see docs/weights.md")
    bring.set_defaults(run=run_import)

    export = weights.add_parser("export", help="a checkpoint in the original's layouts, or merged into a plain language model")
    export.add_argument("folder", type=Path, help="run or checkpoint folder")
    export.add_argument("--to", choices=TARGETS, required=True, help="layout")
    export.add_argument("--out", metavar="PATH", type=Path, required=True, help="file or folder to make")
    export.set_defaults(run=run_export)

    merge = weights.add_parser("merge-lora", help="the same as export --to hf_merged")
    merge.add_argument("folder", type=Path, help="run or checkpoint folder")
    merge.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to make")
    merge.set_defaults(run=run_export, to="hf_merged")

    make = weights.add_parser("make-delta", help="the difference of two model folders")
    make.add_argument("base", type=Path, help="model folder")
    make.add_argument("target", type=Path, help="folder of a model trained from it")
    make.set_defaults(run=run_make_delta)

    apply = weights.add_parser("apply-delta", help="a model folder from a base and a difference")
    apply.add_argument("base", type=Path, help="model folder")
    apply.add_argument("delta", type=Path, help="folder of make-delta, or one released elsewhere")
    apply.set_defaults(run=run_apply_delta)
    for parser in (make, apply):
        parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to make")
    for parser in (show, export, merge):
        add_plugins_option(parser)
    for parser in (bring, export, merge, make, apply):
        parser.add_argument("--shard-size", metavar="SIZE", default="512MB", help="largest file of a model folder; memory follows it")


def run_show(options: argparse.Namespace) -> None:
    """``graphgpt weights show``."""
    from graphgpt.checkpoints.folder import named_checkpoint
    from graphgpt.weights.lineage import show

    show(named_checkpoint(options.folder))


def run_import(options: argparse.Namespace) -> None:
    """``graphgpt weights import``."""
    from graphgpt.files.tensors import parse_size
    from graphgpt.weights.importing import import_weights

    import_weights(
        options.source,
        options.out,
        llm=options.llm,
        tower=options.tower,
        base=options.base,
        compat=options.compat,
        overrides=options.set,
        shard=parse_size(options.shard_size),
    )


def run_export(options: argparse.Namespace) -> None:
    """``graphgpt weights export`` and ``merge-lora``."""
    from graphgpt.checkpoints.folder import named_checkpoint
    from graphgpt.files.tensors import parse_size
    from graphgpt.weights.exporting import export_weights

    export_weights(named_checkpoint(options.folder), options.to, options.out, shard=parse_size(options.shard_size))


def run_make_delta(options: argparse.Namespace) -> None:
    """``graphgpt weights make-delta``."""
    from graphgpt.files.tensors import parse_size
    from graphgpt.weights.delta import make_delta

    make_delta(options.base, options.target, options.out, shard=parse_size(options.shard_size))


def run_apply_delta(options: argparse.Namespace) -> None:
    """``graphgpt weights apply-delta``."""
    from graphgpt.files.tensors import parse_size
    from graphgpt.weights.delta import apply_delta

    apply_delta(options.base, options.delta, options.out, shard=parse_size(options.shard_size))
