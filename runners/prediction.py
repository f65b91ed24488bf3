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
    prefix = model.prefix(prompts)
    found: list[Prediction] = []
    bar = progress_bar()
    with bar:
        work = bar.add_task(description, total=len(prompts), figures="")
        for batch in chunks([*zip(instructions, prompts, strict=True)], config.writing_batch_size if writes else config.batch_size):
            asked = [prompt for _, prompt in batch]
            scores: list[list[float] | None] = [None] * len(batch)
            texts: list[str | None] = [None] * len(batch)
            if candidates:
                scores = [row for part in chunks(asked, config.batch_size) for row in model.score(part, candidates, prefix).tolist()]
            if writes:
                texts = [*model.generate(asked, config.max_new_tokens, prefix)]
            for (instruction, prompt), score, text in zip(batch, scores, texts, strict=True):
                prediction = Prediction(
                    id=instruction.id,
                    prompt_tokens=len(prompt.ids),
                    truth=instruction.truth,
                    scores=score,
                    expected=instruction.messages[-1].content,
                    text=text,
                )
                found.append(prediction)
            seconds = max(1e-9, bar.tasks[work].elapsed or 0)
            bar.update(work, advance=len(batch), figures=f"{len(found) / seconds:.1f} samples/s")
    if not bar.console.is_terminal:
        bar.console.print(f"{description}: {len(found)} samples", highlight=False)
    return found
