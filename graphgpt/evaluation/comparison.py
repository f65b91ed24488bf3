"""Other models in the same table: what earlier evaluations found on the same items."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from graphgpt.errors import DataError, amount
from graphgpt.files.records import read_lines
from graphgpt.report.page import Row
from graphgpt.runs.runs import PredictionLine, read_result
from graphgpt.tasks.task import Task


def compared_rows(task: Task, config: Any, items: Collection[int]) -> Iterator[Row]:
    """The plain answers of the evaluations in ``config.compare``, one row each; none for a shard, which is not the whole.

    Args:
        task: What was asked here.
        config: The ``EvaluationConfig``.
        items: That were asked about here.

    Raises:
        DataError: an evaluation asked something else, about another graph, or about other items.
    """
    if config.shard:
        return
    for name, folder in config.compare.items():
        if not (Path(folder) / "metrics.json").is_file():
            raise DataError(f"compare.{name}: {folder} holds no evaluation of '{task.config.name}'.")
        result = read_result(Path(folder))
        ours = {"task": task.config.name, "fingerprint": task.data["fingerprint"], "split": config.split, "seeds": config.all_seeds}
        for key, value in ours.items():
            if result.get(key) != value:
                raise DataError(f"compare.{name}: {folder} has {key}={result.get(key)!r}, expected {value!r} as here.")
        theirs = _items(Path(folder) / "predictions.jsonl", config.seed)
        if theirs != set(items):
            raise DataError(
                f"compare.{name}: {folder} asked about {amount(len(theirs), 'item')}, {len(theirs & set(items))} of them "
                f"among the {len(items)} of this evaluation; give both the same limit, seed and split "
                "(what either checkpoint was trained on is left out)."
            )
        yield Row(**{**result["rows"][0], "name": name, "note": f"evaluated in {folder}", "is_model": False})


def _items(file: Path, seed: int) -> set[int]:
    """Items of the plain pass of a seed."""
    records = read_lines(file, PredictionLine, "predictions")
    return {record["item"] for record in records if (record["variant"], record["wording"], record["seed"]) == ("none", None, seed)}
