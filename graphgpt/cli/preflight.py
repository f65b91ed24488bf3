"""Everything about an experiment that can be seen before training: data, tokens, sizes, memory."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.errors import GraphGPTError, amount
from graphgpt.models.llm import weight_dtype
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.models.quantization import weight_bytes
from graphgpt.prompts.processor import Processor
from graphgpt.registry import MODELS
from graphgpt.runners.training.data import Examples
from graphgpt.runners.training.task_data import check_answers, look_at_lengths, training_items
from graphgpt.tasks.task import Task


def preflight(experiment: Any) -> bool:
    """Run and print the checks, numbered; the first that fails ends them.

    Returns:
        Whether all passed.
    """
    console = Console(highlight=False, soft_wrap=True)
    number = 0
    try:
        for number, result in enumerate(_checks(experiment), start=1):
            console.print(f"{number}. [green]ok[/] {escape(result)}")
    except GraphGPTError as error:
        console.print(f"{number + 1}. [red]failed[/] {escape(str(error))}")
        return False
    return True


def _checks(experiment: Any) -> Iterator[str]:
    build_runner(experiment)
    yield "configuration: every key known, every file there, nothing contradicts itself"
    task = build_task(experiment)
    counts = {split: len(task.items(split)) for split in ("train", "val", "test")}
    yield f"data: {task.summary}; " + ", ".join(f"{count:,} {split}" for split, count in counts.items())
    if not issubclass(MODELS.get(experiment.model.name), MultimodalLLM):
        yield from _small_model(experiment, task)
        return
    with torch.device("meta"):
        model = build_model(experiment, task)
    check_answers(task)
    yield _round_trip(task, model.processor)
    yield f"sizes: {', '.join(_sizes(model, task))}"

    reader, runner, seed = model.reader(), experiment.runner, experiment.seed
    items = training_items(task, getattr(runner, "train_samples", None), seed)
    yield f"lengths: {look_at_lengths(task, reader, runner, seed)}"

    first = Examples(task, reader, seed, training=True, instead=items.sort().values if model.processor.too_long == "skip" else None)
    examples: list[Any] = first.__getitems__([(0, item) for item in items[: runner.samples_per_pass].tolist()])
    batch = reader.collate(examples)
    unshared = sum(len(example.ids) for example in examples)
    yield f"batch: {amount(len(batch.ids), 'sample')} in {amount(batch.num_tokens, 'token')} ({unshared:,} without sharing)"

    modules = {"llm": model.llm, **model.parts}
    parts, trained = _counts(modules)
    yield _parameters(parts, trained)
    yield _memory(experiment, modules, parts, trained, batch.num_tokens)


def _sizes(model: MultimodalLLM, task: Task) -> Iterator[str]:
    """What each modality makes of its inputs."""
    hidden = model.llm.get_input_embeddings().weight.shape[1]
    for name, modality in model.each_modality.items():
        width = f"{task.facts.widths[name]} -> " if name in task.facts.widths else ""
        yield f"{name} tower {width}{modality.tower.output_dim}, projector -> {hidden}"
    yield f"the language model's hidden size {hidden}"


def _small_model(experiment: Any, task: Task) -> Iterator[str]:
    """A model without a language model costs so little that it is simply built."""
    model = build_model(experiment, task)
    reader, items = model.reader(), task.items("train")[: experiment.runner.samples_per_pass].tolist()
    batch = reader.collate(reader.read([task.instruction(item, seed=item, training=True) for item in items]))
    yield f"batch: {amount(len(batch.ids), 'sample')} in {amount(batch.num_tokens, 'token')}"
    yield _parameters(*_counts(model.parts))


def _counts(modules: Mapping[str, nn.Module]) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters of each module, and those of them that train."""
    parts = {name: _count(module.parameters()) for name, module in modules.items()}
    return parts, {name: _count(p for p in module.parameters() if p.requires_grad) for name, module in modules.items()}


def _parameters(parts: dict[str, int], trained: dict[str, int]) -> str:
    return "parameters: " + ", ".join(
        f"{name} {count:,}" + (f" ({trained[name]:,} trained)" if trained[name] else "") for name, count in parts.items()
    )


def _round_trip(task: Task, processor: Processor) -> str:
    """Every input arrives, with as many tokens as its modality makes of it; the text comes back as it went in."""
    instruction = task.instruction(int(task.items("train")[0]), seed=0, training=False)
    [example] = processor.whole([instruction])
    wanted = sum(len(processor.readers[item.modality].ids(item)) for item in instruction.inputs)
    if (found := sum(token < 0 for token in example.ids)) != wanted:
        raise GraphGPTError(f"tokenizer: {wanted} tokens of inputs went in and {found} came out.")
    decoded = processor.tokenizer.decode([token for token in example.ids if token >= 0])
    answer = instruction.messages[-1].text
    if answer not in decoded:
        raise GraphGPTError(f"tokenizer: the answer {answer!r} does not come back from its tokens.")
    inputs = f"{amount(len(instruction.inputs), 'input')} of {amount(wanted, 'token')}" if wanted else "no input"
    return f"tokens: {inputs}, answer {answer[:40]!r} comes back from its tokens"


def _memory(experiment: Any, modules: Mapping[str, Any], parts: dict[str, int], trained: dict[str, int], tokens: int) -> str:
    """Weights, gradients with two moments, and activations: about 34 hidden-size numbers per token and layer, or one where they are
    computed again."""
    model, llm = experiment.model, modules["llm"]
    dtype = weight_dtype(model.llm)
    weights = weight_bytes(llm, model.quantization, dtype)
    weights += 4 * (trained["llm"] + sum(count for name, count in parts.items() if name != "llm"))
    moments = 2 if "8bit" in experiment.runner.optimizer["_target_"] else 8
    optimizer = sum(trained.values()) * (4 + moments)
    layers = llm.config.num_hidden_layers
    numbers = layers + 34 if model.gradient_checkpointing else 34 * layers
    activations = numbers * tokens * llm.config.hidden_size * dtype.itemsize
    return (
        f"memory, estimated: {_gib(weights + optimizer + activations)} (weights {_gib(weights)}, "
        f"gradients and moments {_gib(optimizer)}, activations {_gib(activations)}), besides Python and its libraries"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)
