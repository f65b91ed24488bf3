"""What a model says about questions; shared by evaluation and the assistant, and quick to import."""

from collections.abc import Sequence
from typing import Any

from graphgpt.models.graph_llm import GraphLLM
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.processor import Modality, Processor
from graphgpt.registry import TEMPLATES
from graphgpt.runners.data import chunks
from graphgpt.runners.progress import progress_bar
from graphgpt.task import Prediction, Task


def make_processor(model: GraphLLM) -> Processor:
    """The processor that fits a model."""
    template = TEMPLATES.build(model.config.template, model.tokenizer)
    modality = Modality(last_only=model.config.compat.last_input_only)
    return Processor(model.tokenizer, template, model.config.max_length, modality)


def predict(
    model: GraphLLM, task: Task, processor: Processor, instructions: Sequence[Instruction], config: Any, description: str
) -> list[Prediction]:
    """The model's prediction for every instruction: candidates scored where the task has them, greedy answers where not or asked for."""
    prompts = [processor.prompt(instruction) for instruction in instructions]
    candidates = [processor.answer(name) for name in task.candidates or ()]
    writes = config.generate or not candidates
    # Prompts of like length together waste no padding; the order of the results is the caller's.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    prefix = model.prefix(prompts) if candidates else None
    found: dict[int, Prediction] = {}
    bar = progress_bar()
    with bar:
        work = bar.add_task(description, total=len(prompts), figures="")
        for chunk in chunks(order, config.batch_size):
            batch = [prompts[i] for i in chunk]
            scores = model.score(batch, candidates, prefix).tolist() if candidates else [None] * len(batch)
            texts = model.generate(batch, config.max_new_tokens) if writes else [None] * len(batch)
            for i, score, text in zip(chunk, scores, texts, strict=True):
                found[i] = Prediction(
                    id=instructions[i].id,
                    prompt_tokens=len(prompts[i].ids),
                    truth=instructions[i].truth,
                    scores=score,
                    expected=instructions[i].messages[-1].content,
                    text=text,
                )
            seconds = max(1e-9, bar.tasks[work].elapsed or 0)
            bar.update(work, advance=len(batch), figures=f"{len(found) / seconds:.1f} samples/s")
    if not bar.console.is_terminal:
        bar.console.print(f"{description}: {len(found)} samples", highlight=False)
    return [found[i] for i in range(len(prompts))]
