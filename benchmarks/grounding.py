"""What a grounded tower is worth: stages 1 and 2 with a frozen graph transformer that stage 0 has grounded, and with one as it was drawn.

    python benchmarks/grounding.py [--seeds 3] [--out runs/grounding] [OVERRIDES OF THE DATASET ...]

Prints a table of means and standard deviations over the seeds: recall@10 before and after stage 0, the validation loss of stage 1
and the test accuracy of stage 2, everything but the tower's weights alike. What is there already is not run again.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARMS = ("grounded", "untrained")


def finished(program: str, folder: Path, *overrides: str) -> Path:
    """The folder of a run, made unless it is there."""
    done = folder / ("checkpoint/manifest.json" if program == "train" else "metrics.json")
    if not done.is_file():
        print(f"{folder} ...", flush=True)
        log = folder.parent / f"{folder.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            command = [sys.executable, str(ROOT / f"{program}.py"), *overrides, f"hydra.run.dir={folder}"]
            subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)
    return folder


def curve(folder: Path, key: str) -> list[float]:
    """A metric over a run."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Every figure, by name, a value per seed."""
    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        place, common = options.out / f"seed{seed}", [f"seed={seed}", *options.overrides]
        stage0 = finished("train", place / "stage0", "experiment=stage0", *common)
        recall = curve(stage0, "val/recall@10")
        found.setdefault("stage 0: recall@10 untrained", []).append(recall[0])
        found.setdefault("stage 0: recall@10 grounded", []).append(recall[-1])
        for arm in ARMS:
            tower = ["model/tower=graph_transformer", *([f"model.tower.init_from={stage0}"] if arm == "grounded" else [])]
            stage1 = finished("train", place / arm / "stage1", "experiment=stage1", *common, *tower, f"runner.max_steps={options.stage1}")
            stage2 = finished(
                "train", place / arm / "stage2", "experiment=stage2/node_classification", f"start_from={stage1}",
                *common, *tower, f"runner.max_steps={options.stage2}", "task.max_chars=60",
            )  # fmt: skip
            scored = finished(
                "evaluate", place / arm / "scored", f"checkpoint={stage2}", f"limit={options.nodes}", f"seed={seed}",
                "baselines=false", "ablation=none", "samples=0", "leakage=off",
            )  # fmt: skip
            found.setdefault(f"stage 1: validation loss, {arm}", []).append(curve(stage1, "val/loss")[-1])
            rows = json.loads((scored / "metrics.json").read_text())["rows"]
            found.setdefault(f"stage 2: accuracy, {arm}", []).append(rows[0]["metrics"]["accuracy"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of every stage, such as dataset=csv dataset.nodes=... dataset.edges=...")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--stage1", type=int, default=28, help="steps of four samples; default: %(default)s")
    parser.add_argument("--stage2", type=int, default=280, help="steps of four samples; default: %(default)s")
    parser.add_argument("--nodes", type=int, default=150, help="test nodes; default: %(default)s")
    parser.add_argument(
        "--out", type=lambda text: Path(text).absolute(), default=Path("runs/grounding").absolute(), help="folder of the runs"
    )
    options = parser.parse_args()
    print("| | mean | standard deviation | each seed |\n|---|---|---|---|")
    for name, values in sorted(measure(options).items()):
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"| {name} | {statistics.mean(values):.3f} | {spread:.3f} | {', '.join(f'{value:.3f}' for value in values)} |")


if __name__ == "__main__":
    main()
