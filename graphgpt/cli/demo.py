"""``make demo`` and ``make demo-image``: stage 1, stage 2 and the evaluation, as the three commands that a user would type."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from graphgpt.checkpoints.folder import read_settings
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, plain_settings
from graphgpt.launch.outermost import user_errors
from graphgpt.machine.installation import CHECKOUT, program, typed
from graphgpt.runs.runs import read_result

#: Where its runs go.
ROOT = CHECKOUT or Path.cwd()

#: The experiments of both stages, by what is shown.
STAGES = {"graph": ("stage1", "stage2/node_classification"), "image": ("image/stage1", "image/stage2")}


@user_errors()
def main() -> None:
    """Run the three commands, or show what an earlier demo left where nothing has changed since."""
    parser = argparse.ArgumentParser(prog="python -m graphgpt.cli.demo", description=main.__doc__)
    parser.add_argument("what", nargs="?", choices=STAGES, default="graph", help="what is shown (default: %(default)s)")
    first, second = STAGES[parser.parse_args().what]
    began = time.monotonic()
    stage1 = train([f"experiment={first}"])
    stage2 = train([f"experiment={second}", f"start_from={stage1}"])
    evaluate(stage2)
    print(f"\nThe demo took {(time.monotonic() - began) / 60:.1f} minutes.")


def train(overrides: Sequence[str]) -> Path:
    """The run folder of a training run with these settings: a finished one, an interrupted one resumed, or a new one."""
    config = check_command_line(ExperimentConfig, "train", overrides)
    wanted = plain_settings(config)
    runs = ROOT / "runs" / config.name
    alike = [path.parent for path in sorted(runs.glob("*/config.yaml")) if read_settings(path) == wanted]
    finished = [folder for folder in alike if (folder / "checkpoint" / "manifest.json").is_file()]
    if finished:
        folder = finished[-1].relative_to(ROOT)
        say(typed("train", *overrides), f"done already: {folder}")
        return folder
    interrupted = [folder for folder in alike if any((folder / "resume").glob("*.ckpt"))]
    if interrupted:
        folder = interrupted[-1].relative_to(ROOT)
        run("train", [f"resume={folder}"])
        return folder
    before = set(runs.glob("*"))
    run("train", overrides)
    return max(set(runs.glob("*")) - before, key=lambda folder: folder.stat().st_mtime).relative_to(ROOT)


def evaluate(stage2: Path) -> None:
    """Evaluate the trained model, or show the evaluation that there is."""
    wanted = plain_settings(check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={stage2}"]))
    for path in sorted((ROOT / "runs" / "evaluate").glob("*/metrics.json"), reverse=True):
        result, settings = read_result(path.parent), read_settings(path.parent / "config.yaml")
        if settings == wanted and (path.parent / "report.html").is_file():
            from graphgpt.evaluation.account import show

            say(typed("evaluate", f"checkpoint={stage2}"), f"done already: {path.parent.relative_to(ROOT)}")
            show(result, path.parent)
            return
    run("evaluate", [f"checkpoint={stage2}"])


def run(name: str, overrides: Sequence[str]) -> None:
    """Show a command and run it; if it fails, leave with its exit code."""
    say(typed(name, *overrides))
    code = subprocess.run([*program(name), *overrides], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def say(command: str, note: str = "") -> None:
    """A command, so that the user learns it."""
    print(f"\n$ {command}" + (f"\n({note})" if note else ""), flush=True)


if __name__ == "__main__":
    main()
