"""``graphgpt data distill``: options, and what is said at the end."""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from graphgpt.distil.teacher import Teacher
from graphgpt.errors import GraphGPTError, amount
from graphgpt.schema import SPLITS

KEY_VARIABLE = "OPENAI_API_KEY"


def add_parser(commands: Any) -> None:
    """Add ``distill`` to the sub-commands of ``graphgpt data``."""
    parser = commands.add_parser("distill", help="ask a larger model for its reasoning about the training nodes, to learn from")
    parser.add_argument("overrides", nargs="*", help="as for graphgpt train, such as dataset=csv dataset.nodes=... task.top_k=3")
    parser.add_argument("--endpoint", required=True, help="base URL of an OpenAI-compatible API, such as http://localhost:8000/v1")
    parser.add_argument("--model", required=True, help="the model's name there")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file; one that exists is continued")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which nodes (%(default)s)")
    parser.add_argument(
        "--limit", type=_number(1), help="only so many of them, drawn with the seed; a larger number adds to a smaller one's"
    )
    parser.add_argument("--concurrency", type=_number(1), default=8, help="requests under way at a time (%(default)s)")
    parser.add_argument("--max-requests", type=_number(1), help="budget: HTTP requests in all, repeated ones too")
    parser.add_argument("--max-tokens", type=_number(1), help="budget: tokens in all, of prompts and answers")
    parser.add_argument("--answer-tokens", type=_number(1), default=Teacher.answer_tokens, help="longest answer (%(default)s)")
    parser.add_argument("--top-k", type=_number(1), help="classes to rank; the same as task.top_k")
    parser.add_argument("--temperature", type=_number(0, float), default=Teacher.temperature, help="of sampling (%(default)s)")
    parser.add_argument("--timeout", type=_number(0.1, float), default=Teacher.timeout, help="seconds to wait for an answer (%(default)s)")
    parser.add_argument("--retries", type=_number(0), default=Teacher.retries, help="repetitions of a call that fails (%(default)s)")
    parser.add_argument(
        "--api-key-env", help=f"environment variable with the API key ({KEY_VARIABLE}, where it is set; an endpoint of your own needs none)"
    )
    parser.add_argument(
        "--body", type=_json_object, default={}, help="more fields of the request as JSON, such as '{\"seed\": 1}'; null removes one"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """``graphgpt data distill``.

    Raises:
        GraphGPTError: the configuration, the data, the endpoint or the output cannot be used.
    """
    import numpy as np
    from rich.console import Console

    from graphgpt.assembly import build_task
    from graphgpt.config.command_line import check_command_line
    from graphgpt.config.experiment import ExperimentConfig
    from graphgpt.config.grammar import with_latest
    from graphgpt.distil.distil import INTERRUPTED, RecordsFile, call_key, distil, summary
    from graphgpt.runners.training.progress import progress_bar
    from graphgpt.tasks.chain_of_thought import ChainOfThought

    if not _is_url(options.endpoint):
        raise GraphGPTError(f"--endpoint: '{options.endpoint}' is not a URL. Expected a base URL, such as http://localhost:8000/v1.")
    overrides = with_latest(options.overrides)
    if not any(override.startswith(("task=", "experiment=")) for override in overrides):
        overrides.insert(0, "task=chain_of_thought")
    if options.top_k:
        overrides.append(f"task.top_k={options.top_k}")
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    task = build_task(experiment)
    if not isinstance(task, ChainOfThought):
        raise GraphGPTError(f"task: '{experiment.task.name}' learns from no teacher; use task=chain_of_thought.")
    # The labelled nodes of the split; the task's own items are those that have records already.
    items = (task.split == SPLITS.index(options.split)).nonzero().flatten().numpy()
    order = np.random.RandomState(experiment.seed).permutation(items)[: options.limit].tolist()
    teacher = Teacher(
        api_key=_api_key(options.api_key_env),
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(Teacher) if hasattr(options, field.name)},
    )
    console = Console(stderr=True)
    with RecordsFile(options.out) as file, progress_bar(console) as progress:
        before = file.counts.copy()
        why = None
        try:
            why = asyncio.run(
                distil(
                    task,
                    order,
                    teacher,
                    file,
                    concurrency=options.concurrency,
                    max_requests=options.max_requests,
                    max_tokens=options.max_tokens,
                    progress=progress,
                )
            )
        except (KeyboardInterrupt, asyncio.CancelledError):
            why = INTERRUPTED
        finally:
            progress.stop()
            if file.done:
                Console(highlight=False, markup=False, soft_wrap=True).print(summary(file, before, task.config.top_k))
    if why:
        left = len(order) - sum(call_key(task, item, teacher.model) in file.done for item in order)
        are = f"{left} of {amount(len(order), 'node')} {'is' if left == 1 else 'are'} left"
        print(f"Stopped before the end, since {why}: {are}; the same command goes on.", file=sys.stderr)
    if why == INTERRUPTED:
        sys.exit(130)


def _api_key(variable: str | None) -> str | None:
    key = os.environ.get(variable or KEY_VARIABLE)
    if variable and not key:
        raise GraphGPTError(f"--api-key-env: there is no environment variable {variable}, or it is empty.")
    return key or None


def _is_url(text: str) -> bool:
    with contextlib.suppress(httpx2.InvalidURL):
        url = httpx2.URL(text)
        return url.scheme in ("http", "https") and bool(url.host)
    return False


def _number(least: float, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """A number of at least so much, for argparse."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return number


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value
