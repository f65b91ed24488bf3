"""Greedy answers to many prompts as an evaluation writes them, against Hugging Face's ``generate`` for one prompt after the other.

    python benchmarks/generate.py [--nodes 64] [--tokens 32] [--device cuda]

The questions are the shipped ones about a node's class. The model is not trained, so answers are as long as they may be: no batch
shrinks before its end.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from common import Row, alternate, faster, run
from setting import build, compose, embedded

from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import AnswerSettings
from graphgpt.prompts.processor import Example, Processor
from graphgpt.runners.training.data import chunks, mix
from graphgpt.runners.training.prediction import predict
from graphgpt.tasks.task import Task

QUESTION = ("task=node_classification", "task.wording=constant_first")


def prepare(options: argparse.Namespace) -> tuple[MultimodalLLM, Task, Processor, list[Sequence[Instruction]]]:
    """A model in eval mode, and questions about the first nodes of the test split, with neighbours drawn as ``evaluate.py`` does.

    In parts: the first for what is made once, then one for each round.
    """
    model, task = build(compose(*QUESTION, small=options.small))
    model.eval().to(options.device)
    parts = 2 if options.small else 4
    per_part = 4 if options.small else -(-options.nodes // parts)
    items = task.items("test")[: parts * per_part].tolist()
    questions = [task.instruction(item, seed=mix(0, item), training=False) for item in items]
    return model, task, model.processor, [*chunks(questions, per_part)]


@torch.inference_mode()
def plain_answer(model: MultimodalLLM, prompt: Example, max_new_tokens: int) -> tuple[str, int]:
    """By transformers alone, with its cache of keys and values; the text, and of how many tokens it is, its end included."""
    output = model.llm.generate(
        inputs_embeds=embedded(model, prompt.ids, prompt.inputs),
        attention_mask=torch.ones(1, len(prompt.ids), dtype=torch.int64, device=model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=model.tokenizer.eos_token_id,
        eos_token_id=[*model.processor.ends],
    )
    return model.tokenizer.decode(output[0], skip_special_tokens=True).strip(), output.shape[1]


def measure(options: argparse.Namespace) -> Iterator[Row]:
    model, _, processor, parts = prepare(options)
    tokens = 4 if options.small else options.tokens
    size = options.writing_batch_size or AnswerSettings.writing_batch_size
    settings = AnswerSettings(max_new_tokens=tokens, writing_batch_size=size)
    written: list[str | None] = []
    alone: list[tuple[str, int]] = []

    def ours(part: Sequence[Instruction]) -> None:
        # A task without candidates: scoring is measured elsewhere.
        written.extend(found.text for found in predict(model, None, part, settings, "generate"))

    def plain(part: Sequence[Instruction]) -> None:
        alone.extend(plain_answer(model, processor.prompt(question), tokens) for question in part)

    mine, its = iter(parts), iter(parts)
    seconds = alternate(lambda: ours(next(mine)), lambda: plain(next(its)), rounds=len(parts) - 1)
    different = sum(text != other for text, (other, _) in zip(written, alone, strict=True))
    if different:
        raise SystemExit(f"generate: {different} of {len(alone)} texts differ from those that are written alone.")
    early = sum(length < tokens for _, length in alone)
    yield Row(
        benchmark="generate",
        what=f"answers/s of {tokens} tokens at most, {size} at once",
        ours=len(parts[0]) / min(seconds[0]),
        reference=len(parts[0]) / min(seconds[1]),
        measured=faster(*seconds),
        target=8.0 if options.device == "cuda" else 2.0,
        same=f"all {len(alone)} texts, {early} of them shorter",
    )


if __name__ == "__main__":
    run(
        measure,
        __doc__,
        nodes=64,
        tokens=AnswerSettings.max_new_tokens,
        writing_batch_size=0,
        device="cpu",
    )
