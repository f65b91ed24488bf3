"""Training steps against a plain loop over padded batches: forward, backward and optimizer, on real samples of mixed length.

    python benchmarks/train_step.py [--samples 8]

Eight samples of each case take six minutes on two cores, 128 an hour.

The plain loop is how a training script of this kind is usually written: random batches of eight padded to the longest, the
tower once per graph, embeddings put together sample by sample, logits at every position. Ours is what the runner does with the
same eight samples. Both step an optimizer with a learning rate of zero, so that they stay the same model.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from common import Row, peak_bytes, run, step_by_step
from setting import build, compose, training_examples
from torch import Tensor
from torch.nn import functional

from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.processor import IGNORE, Example
from graphgpt.prompts.tokens import Token, token_id
from graphgpt.runners.training.data import MicroBatches

# Texts as long as they are, and none hidden: samples differ in length as papers do.
STAGE_2 = ("task=node_classification", "task.text_dropout=0", "task.max_chars=1000", "model/lora=default")
#: Overrides, and the speed to reach.
CASES = {
    "stage 2, released wording": ((*STAGE_2, "task.wording=released"), 1.6),
    "stage 2, our wording": ((*STAGE_2, "task.wording=constant_first"), 2.5),
    "stage 1": (("task=graph_matching", "task.wording=released", "task.max_chars=1000", "dataset.sampler.max_tokens=24"), 1.6),
}
BATCH = 8
TOLERANCE = 1e-4

Losses = dict[str, float]
Way = Callable[[Sequence[Example]], Losses]


def plain_losses(model: MultimodalLLM, examples: Sequence[Example]) -> Tensor:
    """Loss per sample, shape ``[b]``: pad, splice, all logits."""
    device = model.device
    table = model.llm.get_input_embeddings()
    graph = model.each_modality["graph"]
    reader = graph.tower.reader()
    width = max(len(example.ids) for example in examples)
    rows, labels = [], []
    for example in examples:
        ids = torch.tensor(example.ids, device=device)
        row = table(ids.clamp(min=0))
        for place, token in enumerate((Token.START, Token.END)):
            row = torch.where((ids == token_id(0, token))[:, None], graph.fusion.weight[place].to(row.dtype), row)
        places = (ids == token_id(0, Token.PATCH)).nonzero().flatten()
        for item in example.inputs:
            with torch.no_grad():
                states = graph.tower(reader.collate([item]).to(device))
            start, places = int(places[0]), places[len(states) :]
            row = torch.cat([row[:start], graph.projector(states, (len(states),)).to(row.dtype), row[start + len(states) :]])
        rows.append(functional.pad(row, (0, 0, 0, width - len(ids))))
        labels.append(functional.pad(torch.tensor(example.labels, device=device), (0, width - len(ids)), value=IGNORE))
    mask = torch.tensor([[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in examples], device=device)
    logits = model.llm(inputs_embeds=torch.stack(rows), attention_mask=mask, use_cache=False).logits
    target = torch.stack(labels)[:, 1:]
    flat = functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view_as(target).sum(dim=1) / (target != IGNORE).sum(dim=1)


@contextlib.contextmanager
def left_to_peft(model: MultimodalLLM) -> Iterator[None]:
    """peft's own layers, as a plain script has them."""
    ours = [
        (module, vars(module).pop("forward")) for module in model.llm.modules() if "lora_A" in module._modules and "forward" in vars(module)
    ]
    yield
    for module, forward in ours:
        module.forward = forward


def ways(model: MultimodalLLM) -> tuple[Way, Way]:
    """Ours and the plain one: a training step each, which returns the losses of its samples."""
    optimizer = torch.optim.AdamW(model.trainable_state().values(), lr=0.0, weight_decay=0.0)
    micro_batches = MicroBatches(model.reader())

    def ours(step: Sequence[Example]) -> Losses:
        optimizer.zero_grad()
        found: Losses = {}
        for micro in micro_batches(step):
            losses = model.losses(micro.to(model.device))
            (losses.sum() / len(step)).backward()
            found |= dict(zip(micro.ids, losses.detach().tolist(), strict=True))
        optimizer.step()
        return found

    def plain(step: Sequence[Example]) -> Losses:
        optimizer.zero_grad()
        with left_to_peft(model):
            losses = plain_losses(model, step)
            losses.mean().backward()
        optimizer.step()
        return dict(zip((example.id for example in step), losses.detach().tolist(), strict=True))

    return ours, plain


def steps_of(examples: Sequence[Example]) -> list[list[Example]]:
    """Random batches, as a loader draws them."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    return [[examples[i] for i in order[first : first + BATCH]] for first in range(0, len(order), BATCH)]


def measure(options: argparse.Namespace) -> Iterator[Row]:
    for case, (overrides, target) in CASES.items():
        if options.case not in ("", case):
            continue
        model, task = build(compose(*overrides, small=options.small))
        steps = steps_of(training_examples(model, task, 8 if options.small else options.samples))
        name = f"train_step: {case}"
        ours, plain = ways(model)
        *seconds, losses = step_by_step(ours, plain, steps)
        difference = max(abs(mine[key] - other[key]) for mine, other in losses for key in mine.keys() | other.keys())
        if difference > TOLERANCE:
            raise SystemExit(f"{name}: the two ways differ by {difference:.1e} in the loss of a sample.")
        same = f"losses, to {difference:.0e}"
        taken = [sum(times) for times in seconds]
        rates = [sum(map(len, steps)) / time for time in taken]
        yield Row(
            benchmark=name, what="samples/s", ours=rates[0], reference=rates[1], measured=rates[0] / rates[1], target=target, same=same
        )
        some = steps[0][: BATCH // 2]
        peaks = [peak_bytes(lambda way=way, step=some: way(step)) / 2**20 for way in (ours, plain)]
        yield Row(
            benchmark=name,
            what="MiB of a step",
            ours=peaks[0],
            reference=peaks[1],
            measured=peaks[0] / peaks[1],
            target=0.7,
            at_most=True,
            same=same,
        )


if __name__ == "__main__":
    run(measure, __doc__, samples=8, case="")
