"""Where the time of a training step and of an evaluation batch goes: the operations that take most, as text.

python benchmarks/profile_text.py [--out benchmarks/profile.txt]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from setting import build, compose, training_examples
from torch.profiler import ProfilerActivity, profile
from train_step import BATCH, STAGE_2, ways

from graphgpt.models.answering import score
from graphgpt.models.decoding import prefix_of

TOP = 12


def top_operations(name: str, work: Callable[[], Any]) -> str:
    """A table of an operation's own share of the time."""
    work()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        work()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [f"{name}: {total / 1e6:.2f} s", f"{'share':>6}  {'calls':>6}  operation"]
    lines += [f"{event.self_cpu_time_total / total:>6.1%}  {event.count:>6}  {event.key}" for event in events[:TOP]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--small", action="store_true", help="only see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)  # several would wait for each other, and the waiting would count
    model, task = build(compose(*STAGE_2, "task.wording=constant_first", small=options.small))
    examples = training_examples(model, task, BATCH)
    ours, _ = ways(model)
    texts = [top_operations(f"Training step, {BATCH} samples, stage 2", lambda: ours(examples))]
    model.eval()
    processor = model.processor
    prompts = [processor.prompt(task.instruction(item, seed=0, training=False)) for item in task.items("test")[:BATCH].tolist()]
    candidates = [processor.answer(name) for name in task.candidates or ()]
    prefix = prefix_of(model, prompts)
    name = f"Evaluation batch, {BATCH} nodes x {len(candidates)} candidates"
    texts.append(top_operations(name, lambda: score(model, prompts, candidates, prefix)))
    text = "\n\n".join(texts) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
