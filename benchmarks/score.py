"""All classes of a node scored as an evaluation does, against a pass per candidate, and against letting the model write its answer.

    python benchmarks/score.py [--nodes 100] [--device cuda]

The first plain way is that of an evaluation loop over (prompt, candidate) pairs: one sequence at a time, logits at every position. It
sees a few of the nodes only, seconds are per node. The second is Hugging Face's ``generate`` for one node at a time. An untrained model
writes all the tokens that it may; a trained one ends after a class's name, as in the last row, where its answer has that length.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from common import Row, alternate, faster, run
from generate import plain_answer, prepare
from setting import embedded
from torch import Tensor

from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import AnswerSettings
from graphgpt.prompts.processor import Example
from graphgpt.runners.training.prediction import predict

TOLERANCE = 1e-4
NEW_TOKENS = 16


@torch.inference_mode()
def plain_score(model: MultimodalLLM, prompt: Example, candidate: Sequence[int]) -> Tensor:
    """Log-likelihood of one candidate: the whole sequence in a pass of its own."""
    rows = embedded(model, prompt.ids + tuple(candidate), prompt.inputs)
    log_probability = model.llm(inputs_embeds=rows, use_cache=False).logits[0].float().log_softmax(dim=-1)
    answer = torch.tensor(candidate, device=model.device)
    found: Tensor = log_probability[-len(answer) - 1 : -1].gather(1, answer[:, None]).sum()
    return found


def measure(options: argparse.Namespace) -> Iterator[Row]:
    model, task, processor, parts = prepare(options)
    per_part = len(parts[0])
    # Of each part, the plain ways see the first nodes.
    paired, writing = min(options.paired, per_part), min(options.written, per_part)
    candidates = [processor.answer(name) for name in task.candidates or ()]
    size = options.batch_size or AnswerSettings.batch_size
    settings = AnswerSettings(batch_size=size)
    scores: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {}

    def ours(part: Sequence[Instruction]) -> None:
        scores.update((found.id, found.scores or []) for found in predict(model, task.candidates, part, settings, "score"))

    def pairs(part: Sequence[Instruction]) -> None:
        for question in part[:paired]:
            prompt = processor.prompt(question)
            alone[prompt.id] = [float(plain_score(model, prompt, candidate)) for candidate in candidates]

    def writes(part: Sequence[Instruction], to_the_end: bool) -> None:
        for question in part[:writing]:
            length = len(processor.answer(question.messages[-1].text)) if to_the_end else NEW_TOKENS
            plain_answer(model, processor.prompt(question), min(length, NEW_TOKENS))

    turns = [iter(parts) for _ in range(4)]
    seconds = alternate(
        lambda: ours(next(turns[0])),
        lambda: pairs(next(turns[1])),
        lambda: writes(next(turns[2]), to_the_end=False),
        lambda: writes(next(turns[3]), to_the_end=True),
        rounds=len(parts) - 1,
    )
    found, expected = (torch.tensor([each[name] for name in alone]) for each in (scores, alone))
    difference = float(((found - expected).abs() / expected.abs()).max())
    if difference > TOLERANCE or not torch.equal(found.argmax(dim=1), expected.argmax(dim=1)):
        raise SystemExit(f"score: log-likelihoods differ by {difference:.1e} of their size from those of passes of their own.")
    same = f"log-likelihoods of {len(alone)} nodes to {difference:.0e} of their size, and the choice"
    each = [[taken / nodes for taken in times] for times, nodes in zip(seconds, (per_part, paired, writing, writing), strict=True)]
    on_gpu = options.device == "cuda"
    ways = (
        (f"a pass per candidate, {len(candidates)} of them", 15.0, same),
        (f"an answer written, {NEW_TOKENS} tokens", 8.0 if on_gpu else 2.5, "two ways to a class"),
        ("an answer written, as long as the true one", 1.0, "two ways to a class"),
    )
    for (what, target, how), plain in zip(ways, each[1:], strict=True):
        yield Row(
            benchmark="score",
            what=f"nodes/s against {what}",
            ours=1 / min(each[0]),
            reference=1 / min(plain),
            measured=faster(each[0], plain),
            target=target,
            same=how,
        )


if __name__ == "__main__":
    run(measure, __doc__, nodes=100, paired=1, written=2, batch_size=0, device="cpu")
