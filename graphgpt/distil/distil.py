"""Distillation: a larger model's reasoning about the nodes of a graph, as records for ``chain_of_thought``.

Any endpoint that speaks OpenAI's ``/chat/completions`` will do. Every finished call is one line of the output file, written at
once; the same command asks only what is not there yet.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
from rich.progress import Progress, TaskID

from graphgpt.distil.teacher import Budget, CallError, Client, Reply, Stopped, Teacher
from graphgpt.errors import GraphGPTError, amount
from graphgpt.files.atomic import fingerprint
from graphgpt.tasks.chain_of_thought import ChainOfThought, Record, read_records

log = logging.getLogger(__name__)

#: So many calls that fail one after the other, none succeeding in between, end the run.
FAILURES_IN_A_ROW = 5

INTERRUPTED = "it was interrupted"


Key = tuple[str, str, str]
"""Node, fingerprint of the prompt, model: what is never asked twice."""


class RecordsFile:
    """The append-only output. Opening drops a last line that a crash cut short, and keeps other processes out.

    Args:
        path: Made when it is not there; removed again when nothing was written.

    Raises:
        GraphGPTError: another process writes it.
        DataError: a line is not a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[Key] = set()
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> "RecordsFile":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise GraphGPTError(f"--out: {self.path} cannot be written: {error.strerror}.") from error
        try:
            self._lock()
            self._repair()
            for _, record in read_records(self.path):
                self._count(record)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if not self._file.tell():
            self.path.unlink()
        self._file.close()

    def append(self, record: Record) -> None:
        """Write a line; it is on the disk when this returns."""
        self._file.write(json.dumps(dataclasses.asdict(record), ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._count(record)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GraphGPTError(f"--out: another process is writing {self.path}; wait for it, or choose another file.") from error

    def _repair(self) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if line.endswith(b"\n"):
                whole += len(line)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def _count(self, record: Record) -> None:
        self.done.add((record.id, record.prompt, record.model))
        self.counts[outcome(record)] += 1
        self.counts["requests"] += record.requests
        self.counts["tokens"] += sum(record.usage.values()) if record.usage else 0


def outcome(record: Record) -> str:
    """``kept``, or why not: ``cut`` short, ``invalid`` (no class named), ``dropped`` (the truth is not in the ranking)."""
    return "kept" if record.kept else "cut" if record.finish == "length" else "dropped" if record.ranking else "invalid"


async def distil(
    task: ChainOfThought,
    items: list[int],
    teacher: Teacher,
    file: RecordsFile,
    *,
    concurrency: int = 8,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> str | None:
    """Ask a teacher about nodes and write what it says.

    Args:
        task: Makes the prompts and reads the answers.
        items: Nodes, in the order in which they are asked about.
        teacher: Whom to ask.
        file: Open; what is in it is not asked again, and counts towards the budget.
        concurrency: Requests under way at a time.
        max_requests: Of all runs into this file that finished their calls, and of this run.
        max_tokens: Likewise.
        progress: Where to show how far it is.

    Returns:
        Why it ended before all was asked, None when it did not.

    Raises:
        GraphGPTError: the endpoint cannot be used; what was answered until then is in the file.
    """
    budget = Budget(max_requests, max_tokens, file.counts["requests"], file.counts["tokens"])
    headers = {"Authorization": f"Bearer {teacher.api_key}"} if teacher.api_key else {}
    pending = [item for item in items if call_key(task, item, teacher.model) not in file.done]
    bar = progress.add_task("Distilling", total=len(items), completed=len(items) - len(pending), figures="") if progress else None
    limits = httpx2.Limits(max_connections=concurrency)
    async with httpx2.AsyncClient(headers=headers, timeout=teacher.timeout, limits=limits) as http:
        run = _Run(task, Client(teacher, budget, http), file, progress, bar)
        with _interruptible(run):
            # One iterator for all: each item is taken once.
            waiting = iter(pending)
            await asyncio.gather(*(run.work(waiting) for _ in range(min(concurrency, len(pending)))))
    if run.fatal:
        raise GraphGPTError(
            run.fatal + (f" {file.path} has {amount(len(file.done), 'answer')}; the same command goes on." if file.done else "")
        )
    if run.failures:
        calls = amount(run.failures, "call")
        log.warning("%s failed and will be tried again by the same command; the last: %s.", calls, run.last_failure)
    return INTERRUPTED if run.interrupted else budget.spent


class _Run:
    """What the workers of one run share."""

    def __init__(self, task: ChainOfThought, client: Client, file: RecordsFile, progress: Progress | None, bar: TaskID | None) -> None:
        self.task = task
        self.client = client
        self.file = file
        self.progress = progress
        self.bar = bar
        self.fatal: str | None = None
        self.interrupted = False
        self.failures = 0
        self.last_failure = ""
        self._in_a_row = 0

    def interrupt(self) -> None:
        self.interrupted = True
        self.client.budget.stop()

    async def work(self, items: Iterator[int]) -> None:
        for item in items:
            prompt = self.task.teacher_prompt(item)
            try:
                reply = await self.client.ask(prompt)
            except Stopped:
                return
            except CallError as error:
                await self._failed(item, error)
                continue
            self._in_a_row = 0
            self.file.append(self._record(item, prompt, reply))
            self._show()

    async def _failed(self, item: int, error: CallError) -> None:
        """One failure may be about one text; a sure sign that all will fail, or several in a row, end the run."""
        self.failures += 1
        self._in_a_row += 1
        self.last_failure = f"node '{self.task.graph.ids[item].as_py()}': the endpoint {error}"
        certain = error.status in (401, 403, 404) or (error.status is None and not self.client.answered)
        if certain or self._in_a_row >= FAILURES_IN_A_ROW or (error.status == 400 and self._in_a_row == self.failures == 1):
            problem = await self.client.problem(error)
            if problem is None and self._in_a_row >= FAILURES_IN_A_ROW:
                problem = f"{self._in_a_row} calls in a row failed, the last one for {self.last_failure}."
            if problem is not None:
                self.fatal = self.fatal or problem
                self.client.budget.stop()

    def _record(self, item: int, prompt: str, reply: Reply) -> Record:
        names, truth = self.task.graph.class_names, int(self.task.graph.y[item])
        ranking = self.task.read(reply.text).ranking[: self.task.config.top_k]
        return Record(
            id=str(self.task.graph.ids[item].as_py()),
            truth=names[truth],
            answer=reply.text,
            kept=truth in ranking and reply.finish != "length",
            ranking=[names[i] for i in ranking],
            finish=reply.finish,
            prompt=fingerprint(prompt),
            model=self.client.teacher.model,
            usage=reply.usage,
            requests=reply.requests,
        )

    def _show(self) -> None:
        if self.progress is not None and self.bar is not None:
            counts = self.file.counts
            figures = f"{counts['kept']} kept, {self.client.budget.tokens:,} tokens"
            self.progress.update(self.bar, advance=1, figures=figures)


@contextlib.contextmanager
def _interruptible(run: _Run) -> Iterator[None]:
    """The first Ctrl-C lets the calls under way finish, for they are paid for; the second does not wait."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None

    def interrupt() -> None:
        if run.interrupted:
            main.cancel()
            return
        print("\nWaiting for the calls under way; Ctrl-C again drops them.", file=sys.stderr)
        run.interrupt()

    try:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except (ValueError, RuntimeError):  # Not the main thread: whoever started it handles signals.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def call_key(task: ChainOfThought, item: int, model: str) -> Key:
    """What identifies a call to a model about a node."""
    return str(task.graph.ids[item].as_py()), fingerprint(task.teacher_prompt(item)), model


def summary(file: RecordsFile, before: Counter[str], top_k: int) -> str:
    """What a run did, and what its file holds now."""
    new, counts = file.counts - before, file.counts
    answers = sum(new[name] for name in ("kept", "dropped", "invalid", "cut"))
    held = f"{file.path} holds {amount(len(file.done), 'answer')}, {counts['kept']} of them kept"
    return (
        f"{answers} new answers: {new['kept']} kept, {new['dropped']} dropped (the truth is not among the first {top_k}), "
        f"{new['invalid']} invalid (no class named), {new['cut']} cut short; {new['tokens']:,} tokens "
        f"in {amount(new['requests'], 'request')}.\n"
        f"{held}: train with task=chain_of_thought task.records={file.path}"
    )
