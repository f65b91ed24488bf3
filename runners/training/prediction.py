"""What a model says about questions, with a progress bar; shared by evaluation and the assistant, and quick to import."""

from collections.abc import Sequence

from graphgpt.errors import amount
from graphgpt.models.model import Model
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import AnswerSettings, Prediction
from graphgpt.runners.training.progress import progress_bar


def predict(
    model: Model, candidates: Sequence[str] | None, instructions: Sequence[Instruction], settings: AnswerSettings, description: str
) -> list[Prediction]:
    """The model's prediction for every instruction; arguments as for ``Model.predictions``."""
    found: list[Prediction] = []
    bar = progress_bar()
    with bar:
        work = bar.add_task(description, total=len(instructions), figures="")
        for prediction in model.predictions(candidates, instructions, settings):
            found.append(prediction)
            seconds = max(1e-9, bar.tasks[work].elapsed or 0)
            bar.update(work, advance=1, figures=f"{len(found) / seconds:.1f} samples/s")
    if not bar.console.is_terminal:
        bar.console.print(f"{description}: {amount(len(found), 'sample')}", highlight=False, soft_wrap=True)
    return found
