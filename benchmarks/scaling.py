"""Whether cost grows in proportion: samples per second and memory against the number of samples and the length of prompts, as a plot.

    python benchmarks/scaling.py [--plot benchmarks/scaling.png]

Training steps of stage 2 on SmolLM2: of eight short samples each for the first, of two prompts of a given length for the second. Memory of
a step is what its tensors take at most beside the weights.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from common import Row, peak_bytes, run
from setting import build, compose, training_examples
from train_step import STAGE_2, steps_of, ways

from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.prompts.processor import Example

SAMPLES = (8, 32, 128)
LENGTHS = (128, 512, 2048)
PROMPTS = 2


def measure(options: argparse.Namespace) -> Iterator[Row]:
    samples, lengths = ((8, 16), (128, 256)) if options.small else (SAMPLES, LENGTHS)
    model, task = build(compose(*STAGE_2, "task.wording=title_only", "model.max_length=65536", small=options.small))
    step, _ = ways(model)
    rates, peaks = [], []
    for count in samples:
        steps = steps_of(training_examples(model, task, count))
        step(steps[0])
        start = time.perf_counter()
        for examples in steps:
            step(examples)
        rates.append(count / (time.perf_counter() - start))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
    tokens, memory = [], []
    processor = model.processor
    for length in lengths:
        examples = [text_of(length, number, processor) for number in range(PROMPTS)]
        start = time.perf_counter()
        step(examples)
        tokens.append(sum(len(example.ids) for example in examples) / (time.perf_counter() - start))
        memory.append(peak_bytes(lambda examples=examples: step(examples)) / 2**20 / PROMPTS / length)
    more, longer = f"{samples[-1] // samples[0]}x the samples", f"{lengths[-1]} tokens a prompt"
    for what, figures, target, at_most in (
        (f"samples/s at {more}", rates, 0.8, False),
        (f"MiB of the process at {more}", peaks, 1.5, True),
        (f"tokens/s at {longer}", tokens, 0.5, False),
        (f"MiB per token at {longer}", memory, 1.5, True),
    ):
        least, most = figures[0], figures[-1]
        yield Row(benchmark="scaling", what=what, ours=most, reference=least, measured=most / least, target=target, at_most=at_most)
    if options.plot:
        draw(
            Path(options.plot),
            samples,
            lengths,
            {"samples/s": rates, "MiB of the process": peaks, "tokens/s": tokens, "MiB per token": memory},
        )


def text_of(length: int, number: int, processor: object) -> Example:
    """A prompt of about so many tokens, unlike the others from its first word on."""
    words = " ".join(f"word{number} {place}" for place in range(length))
    text = processor(Instruction(id=str(number), messages=(Message("user", words), Message("assistant", "Yes"))))  # type: ignore[operator]
    cut = len(text.ids) - length
    return Example(id=text.id, ids=text.ids[cut:], labels=text.labels[cut:], inputs=(), spans=())


def draw(file: Path, samples: tuple[int, ...], lengths: tuple[int, ...], figures: dict[str, list[float]]) -> None:
    """A panel per figure, axes from zero."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    for panel, (name, values) in zip(panels, figures.items(), strict=True):
        places = samples if name in ("samples/s", "MiB of the process") else lengths
        panel.plot(range(len(places)), values, marker="o", color="#2b6cb0")
        panel.set_xticks(range(len(places)), [str(place) for place in places])
        panel.set_ylim(0, max(values) * 1.15)
        panel.set(xlabel="samples in all" if places is samples else f"tokens of a prompt, {PROMPTS} prompts a step", title=name)
        panel.grid(axis="y", alpha=0.3)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    run(measure, __doc__, plot="")
