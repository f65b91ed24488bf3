"""Stage 0 on a graph of 1,000,000 nodes and five million edges: what is resident while it trains, and that it does not grow.

    python benchmarks/large_graph.py [--nodes 1000000] [--steps 300] [--text transformer]

Texts in Arrow and 128 features per node, both mapped from disk; train.py runs in a process of its own whose memory is looked at
twice a second: all that is resident, pages of mapped files included, and what of it no file holds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from open import write_folder

ROOT = Path(__file__).parents[1]

#: What the text side reads.
TEXTS = {
    "transformer": ["model/text=transformer", "task.text_encoder=null"],
    "embeddings": [],
}


def lines(folder: Path) -> int:
    """Steps that were logged."""
    file = folder / "metrics.jsonl"
    return file.read_text().count("train/loss") if file.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--text", choices=TEXTS, default="embeddings", help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "graph", options.nodes)
        command = [
            *(sys.executable, str(ROOT / "train.py"), "experiment=stage0", "dataset=folder", f"dataset.path={folder}/graph"),
            *TEXTS[options.text],
            *("dataset.split={name: random, train: 0.9, val: 0.05, seed: 0}", "logger=none", "runner.log_every=1"),
            *(f"runner.max_steps={options.steps}", f"runner.val_every={options.steps // 3}", f"hydra.run.dir={folder}/run"),
        ]
        found: list[tuple[int, int, int]] = []
        with subprocess.Popen(command, env=os.environ | {"GRAPHGPT_CACHE": str(folder / "cache")}) as process:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                try:
                    memory = watched.memory_full_info()
                except psutil.Error:
                    break
                found.append((lines(folder / "run"), memory.rss >> 20, (memory.rss - memory.shared) >> 20))
                time.sleep(0.5)
        if process.returncode:
            sys.exit(process.returncode)
        print("| steps | MiB resident | of them of no file |\n|---|---|---|")
        parts = 4
        for part in range(parts):
            first, last = options.steps * part // parts, options.steps * (part + 1) // parts
            rows = [row for row in found if first < row[0] <= last]
            if rows:
                resident, own = (max(row[column] for row in rows) for column in (1, 2))
                print(f"| {first + 1} to {last} | {resident:,} | {own:,} |")
        median = statistics.median(row[1] for row in found if row[0])
        before = max(row[1] for row in found if row[0] == 0)
        print(f"Before the first step {before:,} MiB at most; median while training {median:,.0f}.")


if __name__ == "__main__":
    main()
