"""Kill a training run at random moments, again and again, and compare what it ends with to a run that was left alone.

    python benchmarks/kills.py [--kills 50] [--steps 1500]

A tiny random language model on a small random graph, a resumable checkpoint at every step; SIGKILL hits a step or a save.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from graphgpt.runners.lightning import newest_resumable
from graphgpt.runs.runs import read_metrics

TRAIN = str(Path(__file__).parents[1] / "train.py")


def write_graph(folder: Path) -> list[str]:
    """Eighty nodes in four classes on a ring; the overrides that read them."""
    nodes = ["id,title,body,label", *(f"n{i},title {i},about topic {i % 4} and {i},class {i % 4}" for i in range(80))]
    edges = ["source,target", *(f"n{i},n{(i + step) % 80}" for i in range(80) for step in (1, 4))]
    (folder / "nodes.csv").write_text("\n".join(nodes) + "\n")
    (folder / "edges.csv").write_text("\n".join(edges) + "\n")
    return ["dataset=csv", f"dataset.nodes={folder}/nodes.csv", f"dataset.edges={folder}/edges.csv", "dataset.text_encoder.dim=8"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's checkpoint."""
    files = sorted((run / "checkpoint").rglob("*.safetensors"))
    return {f"{file.stem}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = [
            *write_graph(folder),
            *("task=node_classification", "model/llm=tiny_random", "model/lora=default", "model.lora.dropout=0.1"),
            *("runner.threads=1", "runner.accelerator=cpu", "runner.global_batch_size=2", "runner.micro_batch_size=2"),
            *(f"runner.max_steps={options.steps}", "runner.checkpoint.every_n_steps=1", "logger=none"),
        ]
        whole, killed = folder / "whole", folder / "killed"
        subprocess.run([sys.executable, TRAIN, *overrides, f"hydra.run.dir={whole}"], check=True, capture_output=True, cwd=folder)
        during_save = 0
        for kill in range(options.kills):
            command = [f"resume={killed}"] if kill else [*overrides, f"hydra.run.dir={killed}"]
            process = subprocess.Popen(
                [sys.executable, TRAIN, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            before = len(read_metrics(killed))
            while process.poll() is None and len(read_metrics(killed)) in (0, before):
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.3))
            if process.poll() is not None:
                raise SystemExit(f"The run ended before kill {kill + 1}: {process.communicate()[1]}")
            process.send_signal(signal.SIGKILL)
            process.communicate()
            during_save += any((killed / "resume").glob("*.tmp"))
            print(f"kill {kill + 1}: {newest_resumable(killed)}", flush=True)
        subprocess.run([sys.executable, TRAIN, f"resume={killed}"], check=True, capture_output=True, cwd=folder)
        ours, theirs = weights(killed), weights(whole)
        assert ours.keys() == theirs.keys()
        apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
        print(f"{options.kills} kills, {during_save} during a save; largest difference of a final weight: {apart}")


if __name__ == "__main__":
    main()
