"""A GPU: training steps of a model of 7 billion random weights in bfloat16, against a plain loop and against the card's own matrix rate.

    python benchmarks/gpu.py

The model has Llama 2's sizes; samples are those of train_step.py. A frozen base costs four operations per weight and token: two
forward, two for the gradient of its input. What of that a step does per second, only real tokens counted, is compared with what the card
reaches in a product of two large matrices in the same run.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
from common import Row, run
from setting import RANDOM, build, compose, training_examples
from train_step import CASES, steps_of, ways

# Words that SmolLM2's tokenizer makes; the rest is Llama 2 7B (arXiv:2307.09288).
SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "vocab_size": 32000,
}
TOLERANCE = 0.05  # of a loss of about ten, in bfloat16


def matrix_rate(device: str, size: int) -> float:
    """Operations per second of a product in bfloat16."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(5):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(10):
            a @ b
        synchronize(device)
        best = max(best, 10 * 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(options: argparse.Namespace) -> Iterator[Row]:
    device = "cpu" if options.small else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu: this machine has no CUDA device.")
    # Few processors have units for 16 bits.
    sizes, dtype = ({}, "float32") if options.small else (SIZES, "bfloat16")
    shape = [f"+model.llm.config_overrides.{name}={value}" for name, value in sizes.items()]
    rate = matrix_rate(device, 256 if options.small else 8192)
    for case, (overrides, _) in CASES.items():
        experiment = compose(*overrides, *RANDOM, *shape, f"model.llm.dtype={dtype}", small=options.small)
        model, task = build(experiment)
        model.to(device)
        steps = steps_of(training_examples(model, task, 8 if options.small else options.samples))
        seconds: list[float] = []
        losses: list[Any] = []
        for way in ways(model):
            way(steps[0])
            synchronize(device)
            start = time.perf_counter()
            losses.append([way(step) for step in steps])
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        pairs = zip(*losses, strict=True)
        difference = max(abs(mine[key] - other[key]) for mine, other in pairs for key in mine.keys() | other.keys())
        if difference > TOLERANCE:
            raise SystemExit(f"gpu: {case}: the two ways differ by {difference:.2f} in the loss of a sample.")
        rates = [sum(map(len, steps)) / time for time in seconds]
        same = f"losses, to {difference:.0e}"
        name = f"gpu: {case}"
        yield Row(benchmark=name, what="samples/s", ours=rates[0], reference=rates[1], measured=rates[0] / rates[1], target=2, same=same)
        base = model.llm.get_base_model() if hasattr(model.llm, "get_base_model") else model.llm
        weights = sum(p.numel() for layer in base.model.layers for p in layer.parameters() if not p.requires_grad)
        tokens = sum(len(example.ids) for step in steps for example in step)
        reached = 4 * weights * tokens / seconds[0]
        yield Row(
            benchmark=name,
            what="TFLOP/s, of a matrix product's",
            ours=reached / 1e12,
            reference=rate / 1e12,
            measured=reached / rate,
            target=0.5,
            same=same,
        )
        del model
        torch.cuda.empty_cache()


if __name__ == "__main__":
    run(measure, __doc__, samples=128)
