"""``graphgpt data distill``: every finished call is kept, none is repeated. Against a real server."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, Respond, Response, completion, refusal
from helpers import CLASS_NAMES, csv_overrides, make_task

from graphgpt.cli.main import main
from graphgpt.distil.distil import RecordsFile, distil, outcome, summary
from graphgpt.distil.teacher import Teacher
from graphgpt.errors import DataError, GraphGPTError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.tasks.chain_of_thought import ChainOfThought, read_records

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """To this machine without a proxy, and without anybody's key."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def task(graph: TextAttributedGraph) -> Any:
    return make_task("chain_of_thought", graph, top_k=2)


@pytest.fixture
def nodes(task: ChainOfThought) -> list[int]:
    """Nodes 0 to 11: four of each class."""
    return list(range(12))


def node_of(prompt: str) -> int:
    """The toy graph's titles end in the node's number."""
    found = re.search(r"^Title: .*?(\d+)$", prompt, re.MULTILINE)
    assert found is not None
    return int(found[1])


def knowing(prompt: str, asked: int) -> Response:
    """Says the truth second."""
    truth = node_of(prompt) % 3
    return completion(f"{CLASS_NAMES[truth - 1]}, {CLASS_NAMES[truth]}\n\nBecause of its words.")


def run(task: Any, items: list[int], endpoint: FakeEndpoint, path: Path, **options: Any) -> str | None:
    teacher = Teacher(**({"endpoint": endpoint.url, "model": "large", "backoff": 0.01, "timeout": 5.0} | options.pop("teacher", {})))
    with RecordsFile(path) as file:
        return asyncio.run(distil(task, items, teacher, file, **options))


def records(path: Path) -> list[Any]:
    return [record for _, record in read_records(path)]


def test_a_line_for_every_answer(task: Any, nodes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    with FakeEndpoint(knowing) as endpoint:
        assert run(task, nodes, endpoint, path) is None
    assert sorted(endpoint.prompts) == sorted(task.teacher_prompt(node) for node in nodes)
    found = {record.id: record for record in records(path)}
    assert sorted(found) == sorted(f"n{node}" for node in nodes)
    for node in nodes:
        truth = CLASS_NAMES[node % 3]
        record = found[f"n{node}"]
        assert (record.truth, record.kept, record.model, record.requests, record.finish) == (truth, True, "large", 1, "stop")
        assert record.ranking == [CLASS_NAMES[node % 3 - 1], truth]
        assert record.answer.endswith("\n\nBecause of its words.")
        assert record.usage == {"prompt_tokens": 100, "completion_tokens": 20}


def test_what_was_written_trains(graph: TextAttributedGraph, tmp_path: Path) -> None:
    plain = make_task("chain_of_thought", graph)
    train = make_task("node_classification", graph).items("train").tolist()
    with FakeEndpoint(knowing) as endpoint:
        run(plain, train[:5], endpoint, tmp_path / "a.jsonl")
    task = make_task("chain_of_thought", graph, records=str(tmp_path / "a.jsonl"))
    assert task.items("train").tolist() == train[:5]
    assert task.instruction(train[0], seed=0, training=True).messages[-1].text.endswith("Because of its words.")


def test_what_is_kept(task: Any, tmp_path: Path) -> None:
    answers = {
        0: completion("Art, Biology"),
        1: completion("Art, Biochemistry, Biology"),  # third of two
        2: completion("It is hard to say."),
        3: completion("Art, because", finish="length"),
        4: completion(None),
        5: completion("<think>Art?</think>Biochemistry"),
    }
    path = tmp_path / "a.jsonl"
    with FakeEndpoint(lambda prompt, asked: answers[node_of(prompt)]) as endpoint, RecordsFile(path) as file:
        before = file.counts.copy()
        asyncio.run(distil(task, list(answers), Teacher(endpoint=endpoint.url, model="large"), file))
        said = summary(file, before, 2)
    outcomes = {record.id: outcome(record) for record in records(path)}
    assert outcomes == {"n0": "kept", "n1": "dropped", "n2": "invalid", "n3": "cut", "n4": "invalid", "n5": "kept"}
    assert said == (
        "6 new answers: 2 kept, 1 dropped (the truth is not among the first 2), 2 invalid (no class named), 1 cut short; "
        f"720 tokens in 6 requests.\n{path} holds 6 answers, 2 of them kept: train with task=chain_of_thought task.records={path}"
    )


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_at_a_time(task: Any, nodes: list[int], tmp_path: Path, concurrency: int) -> None:
    with FakeEndpoint(knowing, delay=0.05) as endpoint:
        run(task, nodes, endpoint, tmp_path / "a.jsonl", concurrency=concurrency)
    assert endpoint.peak == concurrency


def test_nothing_is_asked_twice(task: Any, nodes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with FakeEndpoint(knowing) as endpoint:
        run(task, nodes[:5], endpoint, path)
        first = path.read_bytes()
        run(task, nodes, endpoint, path)
        assert path.read_bytes().startswith(first)
        run(task, nodes, endpoint, path)
        assert Counter(endpoint.prompts) == Counter(task.teacher_prompt(node) for node in nodes)
        # Another model is another teacher.
        run(task, nodes, endpoint, path, teacher={"model": "larger"})
    assert len(endpoint.prompts) == 24
    assert len(records(path)) == 24


def test_another_prompt_is_another_call(graph: TextAttributedGraph, nodes: list[int], tmp_path: Path) -> None:
    with FakeEndpoint(knowing) as endpoint:
        for top_k in (2, 3, 2):
            run(make_task("chain_of_thought", graph, top_k=top_k), nodes[:4], endpoint, tmp_path / "a.jsonl")
    assert len(endpoint.prompts) == 8


@pytest.mark.parametrize("end", [b"", b'{"id": "n3", "tru', b'{"id": "n3"}', b"\x00\x00"])
def test_a_last_line_that_a_crash_cut_short(task: Any, nodes: list[int], tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "a.jsonl"
    with FakeEndpoint(knowing) as endpoint:
        run(task, nodes[:3], endpoint, path)
        whole = path.read_bytes()
        path.write_bytes(whole + end)
        run(task, nodes, endpoint, path)
    assert path.read_bytes().startswith(whole)
    assert len(records(path)) == 12
    assert len(endpoint.prompts) == 12


def test_failures_that_pass(task: Any, nodes: list[int], tmp_path: Path) -> None:
    """Every call fails twice, each in another way."""
    ways = [refusal(429, "slow down", Retry_After="0.05"), refusal(500, "oh no"), refusal(502, "gateway"), (200, {}, b"{")]

    def respond(prompt: str, asked: int) -> Response:
        return ways[(node_of(prompt) + asked) % len(ways)] if asked < 2 else knowing(prompt, asked)

    with FakeEndpoint(respond) as endpoint:
        assert run(task, nodes, endpoint, tmp_path / "a.jsonl") is None
    assert all(record.requests == 3 and record.kept for record in records(tmp_path / "a.jsonl"))


def test_a_call_that_is_refused_does_not_stop_the_others(
    task: Any, nodes: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    bad = {2: refusal(400, "content filter"), 7: refusal(413, "too long")}
    with FakeEndpoint(lambda prompt, asked: bad.get(node_of(prompt)) or knowing(prompt, asked), models=["large"]) as endpoint:
        assert run(task, nodes, endpoint, path, concurrency=1) is None
        assert (
            "2 calls failed and will be tried again by the same command; the last: node 'n7': the endpoint answered 413: too long."
            in caplog.text
        )
        assert sorted(record.id for record in records(path)) == sorted(f"n{node}" for node in nodes if node not in bad)
        bad.clear()
        run(task, nodes, endpoint, path)
    assert len(records(path)) == 12
    assert len(endpoint.prompts) == 14


def test_an_endpoint_that_stops_working(task: Any, nodes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    count = iter(range(1000))
    with FakeEndpoint(lambda prompt, asked: knowing(prompt, asked) if next(count) < 3 else refusal(500, "oh no")) as endpoint:
        with pytest.raises(GraphGPTError) as caught:
            run(task, nodes, endpoint, path, concurrency=1, teacher={"retries": 1})
        expected = r"5 calls in a row failed, the last one for node 'n7': the endpoint answered 500: oh no \(2 times\)\. "
        assert re.fullmatch(expected + rf"{path} has 3 answers; the same command goes on\.", str(caught.value))
        assert len(endpoint.prompts) == 3 + 5 * 2
    assert len(records(path)) == 3


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (refusal(401, f"Incorrect API key {KEY}"), "--endpoint: {url} refuses the API key: it answered 401: Incorrect API key ***."),
        (refusal(404, "no such model"), "--model: {url} has no 'large'. Did you mean 'larger'?"),
        (refusal(400, "no such model"), "--model: {url} has no 'large'. Did you mean 'larger'?"),
    ],
)
def test_what_cannot_work_ends_at_once(task: Any, nodes: list[int], tmp_path: Path, response: Response, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    with FakeEndpoint(lambda prompt, asked: response, models=["larger", "small"]) as endpoint:
        with pytest.raises(GraphGPTError) as caught:
            run(task, nodes, endpoint, path, concurrency=1, teacher={"api_key": KEY})
        assert str(caught.value) == expected.format(url=endpoint.url)
        assert len(endpoint.prompts) == 1
    assert not path.exists()


def test_nobody_is_there(task: Any, nodes: list[int], tmp_path: Path) -> None:
    with FakeEndpoint(knowing) as endpoint:
        pass
    began = time.monotonic()
    with pytest.raises(GraphGPTError, match=rf"^--endpoint: {endpoint.url} cannot be reached \("):
        run(task, nodes, endpoint, tmp_path / "a.jsonl")
    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == []


def test_the_budget_of_requests(task: Any, nodes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with FakeEndpoint(knowing) as endpoint:
        assert run(task, nodes, endpoint, path, max_requests=5) == "the budget of 5 requests is spent (--max-requests)"
        assert len(endpoint.prompts) == len(records(path)) == 5
        # The same command again spends nothing more.
        assert run(task, nodes, endpoint, path, max_requests=5) is not None
        assert len(endpoint.prompts) == 5
        assert run(task, nodes, endpoint, path, max_requests=12) is None
    assert len(endpoint.prompts) == len(records(path)) == 12


def test_the_budget_of_tokens(task: Any, nodes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with FakeEndpoint(knowing) as endpoint:
        for _ in range(2):
            why = run(task, nodes, endpoint, path, max_tokens=1000, teacher={"answer_tokens": 50})
            assert why is not None and why.startswith(
                f"{120 * len(records(path))} of the budget of 1,000 tokens are used, and the next call "
            )
    used = sum(sum(record.usage.values()) for record in records(path))
    assert 480 <= used <= 1000
    assert used == 120 * len(endpoint.prompts)


def test_two_at_once_on_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    expected = f"^--out: another process is writing {path}; wait for it, or choose another file\\.$"
    with RecordsFile(path), pytest.raises(GraphGPTError, match=expected), RecordsFile(path):
        pass


def test_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("precious\n")
    with pytest.raises(DataError, match=f"^{path}, line 1: Invalid JSON"), RecordsFile(path):
        pass
    assert path.read_text() == "precious\n"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(GraphGPTError, match=f"^--out: {tmp_path} cannot be written: "), RecordsFile(tmp_path):
        pass


# The command

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """``command(endpoint, *arguments)`` on 42 nodes in three classes: exit code, output, errors."""
    data = csv_overrides(tmp_path)

    def command(endpoint: FakeEndpoint | str, *arguments: str) -> tuple[int, str, str]:
        url = endpoint if isinstance(endpoint, str) else endpoint.url
        code = 0
        try:
            main(["data", "distill", *data, "--endpoint", url, "--model", "large", "--out", str(tmp_path / "a.jsonl"), *arguments])
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def colours(prompt: str, asked: int) -> Response:
    truth = re.search(r"^Title: (\w+)", prompt, re.MULTILINE)
    assert truth is not None
    return completion(f"{truth[1]}, Red\n\nBecause.")


def test_the_command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with FakeEndpoint(colours) as endpoint:
        code, out, err = command(endpoint, "--limit", "10", "--top-k", "1", "--temperature", "0", "--api-key-env", "MY_KEY")
        assert code == 0
        assert out.startswith("10 new answers: 10 kept, 0 dropped")
        chosen = {record.id for record in records(tmp_path / "a.jsonl")}
        # All of the training split, what is there already among it.
        code, out, _ = command(endpoint, "--top-k", "1", "--api-key-env", "MY_KEY", "--concurrency", "2")
        assert out.startswith("15 new answers: ")
        assert chosen <= {record.id for record in records(tmp_path / "a.jsonl")}
    assert len(endpoint.prompts) == 25
    assert endpoint.bodies[0]["temperature"] == 0
    assert "the 1 likeliest" in endpoint.prompts[0]
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in endpoint.headers)
    assert KEY not in out + err + (tmp_path / "a.jsonl").read_text()


def test_the_command_stops_at_its_budget(command: Command) -> None:
    with FakeEndpoint(colours) as endpoint:
        code, out, err = command(endpoint, "--max-requests", "4", "--split", "test")
    assert code == 0
    assert out.startswith("4 new answers: ")
    assert "Stopped before the end, since the budget of 4 requests is spent (--max-requests): 4 of 8 nodes are left; " in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--endpoint", "localhost:8000"],
            "--endpoint: 'localhost:8000' is not a URL. Expected a base URL, such as http://localhost:8000/v1.",
        ),
        (["--endpoint", "http://"], "--endpoint: 'http://' is not a URL. Expected a base URL, such as http://localhost:8000/v1."),
        (["--api-key-env", "NOT_THERE"], "--api-key-env: there is no environment variable NOT_THERE, or it is empty."),
        (["--concurrency", "0"], "argument --concurrency: 0 is less than 1"),
        (["--limit", "many"], "argument --limit: invalid number value: 'many'"),
        (["--body", "[1]"], "argument --body: not a JSON object"),
        (["--body", "{"], "argument --body: not JSON"),
    ],
)
def test_options_that_cannot_work(command: Command, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    code, out, err = command("http://127.0.0.1:9", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert not (tmp_path / "a.jsonl").exists()


def test_another_task_learns_from_no_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["task=node_classification", "--endpoint", "http://127.0.0.1:9", "--model", "large", "--out", str(tmp_path / "a.jsonl")]
    with pytest.raises(SystemExit):
        main(["data", "distill", *csv_overrides(tmp_path), *arguments])
    assert capsys.readouterr().err == "task: 'node_classification' learns from no teacher; use task=chain_of_thought.\n"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[FakeEndpoint], subprocess.Popen[str]]]:
    """Starts the command in a process of its own, and waits until it has written three answers."""
    processes = []

    def start(endpoint: FakeEndpoint) -> subprocess.Popen[str]:
        arguments = ["--endpoint", endpoint.url, "--model", "large", "--out", str(tmp_path / "a.jsonl"), "--concurrency", "2"]
        process = subprocess.Popen(
            [sys.executable, "-m", "graphgpt.cli.main", "data", "distill", *csv_overrides(tmp_path), *arguments],
            env=os.environ | {"GRAPHGPT_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        until = time.monotonic() + 120
        while len(endpoint.answered) < 3 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def slow(prompt: str, asked: int) -> Response:
    time.sleep(0.3)
    return colours(prompt, asked)


Started = Callable[[FakeEndpoint], subprocess.Popen[str]]


def test_a_run_that_is_killed_goes_on(started: Started, command: Command, tmp_path: Path) -> None:
    respond: Respond = slow
    with FakeEndpoint(lambda prompt, asked: respond(prompt, asked)) as endpoint:
        process = started(endpoint)
        process.kill()
        process.communicate()
        written = {record.prompt for record in records(tmp_path / "a.jsonl")}
        assert 1 <= len(written) < 25
        before = len(endpoint.prompts)
        respond = colours
        code, out, _ = command(endpoint)
        assert code == 0
    assert out.startswith(f"{25 - len(written)} new answers: ")
    assert len(endpoint.prompts) - before == 25 - len(written)
    assert len({record.id for record in records(tmp_path / "a.jsonl")}) == len(records(tmp_path / "a.jsonl")) == 25


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c(command: Command, tmp_path: Path, presses: int) -> None:
    """Once: what is paid for is kept. Twice: nobody waits."""
    count = itertools.count(1)

    def respond(prompt: str, asked: int) -> Response:
        if next(count) == 4:
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
        time.sleep(0.2)
        return colours(prompt, asked)

    with FakeEndpoint(respond) as endpoint:
        code, out, err = command(endpoint, "--concurrency", "2")
    assert code == 130
    assert err.count("Waiting for the calls under way; Ctrl-C again drops them.") == 1
    found = records(tmp_path / "a.jsonl")
    # Every call that reached the endpoint is in the file.
    assert len(found) in ([len(endpoint.prompts)] if presses == 1 else [2, 3])
    assert len(endpoint.prompts) in (4, 5)
    assert f"{len(found)} new answers: " in out
    assert f"Stopped before the end, since it was interrupted: {25 - len(found)} of 25 nodes are left; the same command goes on." in err


def test_records_are_plain_json(task: Any, nodes: list[int], tmp_path: Path) -> None:
    with FakeEndpoint(knowing) as endpoint:
        run(task, nodes[:1], endpoint, tmp_path / "a.jsonl")
    [line] = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    expected = ["id", "truth", "answer", "kept", "ranking", "finish", "prompt", "model", "usage", "requests"]
    assert list(json.loads(line)) == expected
