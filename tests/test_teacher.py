"""Asking a language model behind an endpoint: patience, budgets, and errors in words. Against a real server."""

import asyncio
import email.utils
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from fake_endpoint import FakeEndpoint, Response, completion, refusal

from graphgpt.distil.teacher import Budget, CallError, Client, Reply, Stopped, Teacher

KEY = "sk-secret-0123456789"


def ask(url: str, *prompts: str, budget: Callable[[], Budget] | None = None, **fields: Any) -> list[Any]:
    """Replies to prompts asked at once, or what was raised."""

    async def run() -> list[Any]:
        teacher = Teacher(**({"endpoint": url, "model": "large", "backoff": 0.01, "timeout": 5.0} | fields))
        headers = {"Authorization": f"Bearer {teacher.api_key}"} if teacher.api_key else {}
        async with httpx2.AsyncClient(headers=headers, timeout=teacher.timeout, trust_env=False) as http:
            client = Client(teacher, budget() if budget else Budget(None, None), http)
            return await asyncio.gather(*(client.ask(prompt) for prompt in prompts), return_exceptions=True)

    return asyncio.run(run())


def problem(url: str, **fields: Any) -> str | None:
    """What a client says about a first call that failed."""

    async def run() -> str | None:
        teacher = Teacher(**({"endpoint": url, "model": "large", "backoff": 0.01, "timeout": 5.0, "retries": 1} | fields))
        async with httpx2.AsyncClient(timeout=teacher.timeout, trust_env=False) as http:
            client = Client(teacher, Budget(None, None), http)
            with pytest.raises(CallError) as caught:
                await client.ask("Hello?")
            return await client.problem(caught.value)

    return asyncio.run(run())


def first(*failures: Response) -> Callable[[str, int], Response]:
    """Fails in these ways, then answers."""
    return lambda prompt, asked: failures[asked] if asked < len(failures) else completion("Fine.")


def test_a_call() -> None:
    with FakeEndpoint(lambda prompt, asked: completion(f"You said {prompt}")) as endpoint:
        [reply] = ask(endpoint.url, "hello", temperature=0.3, answer_tokens=77, api_key=KEY)
    assert reply == Reply("You said hello", "stop", {"prompt_tokens": 100, "completion_tokens": 20}, 1)
    [body] = endpoint.bodies
    assert body.pop("path") == "/v1/chat/completions"
    assert body == {"model": "large", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.3, "max_tokens": 77}
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_the_url_may_be_the_base_or_the_whole(end: str) -> None:
    with FakeEndpoint(first()) as endpoint:
        ask(endpoint.url + end, "hello")
    assert endpoint.bodies[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in endpoint.headers[0]


def test_further_fields() -> None:
    with FakeEndpoint(first()) as endpoint:
        ask(endpoint.url, "hello", body={"max_tokens": None, "max_completion_tokens": 9, "temperature": 1})
    assert "max_tokens" not in endpoint.bodies[0]
    assert (endpoint.bodies[0]["max_completion_tokens"], endpoint.bodies[0]["temperature"]) == (9, 1)


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        (completion("A, B", finish="length"), Reply("A, B", "length", {"prompt_tokens": 100, "completion_tokens": 20}, 1)),
        (completion(None, usage=None), Reply("", "stop", None, 1)),
        (completion("<think>Is it B?</think>\n\nA"), Reply("A", "stop", {"prompt_tokens": 100, "completion_tokens": 20}, 1)),
        (completion("half \ud83d", usage=None), Reply("half ?", "stop", None, 1)),
        ((200, {}, b'{"choices": [{"message": {"content": "A"}}], "usage": {"total_tokens": 4}}'), Reply("A", None, None, 1)),
    ],
)
def test_what_endpoints_send(response: Response, reply: Reply) -> None:
    with FakeEndpoint(lambda prompt, asked: response) as endpoint:
        assert ask(endpoint.url, "hello") == [reply]


@pytest.mark.parametrize(
    "failure",
    [
        refusal(429, "slow down"),
        refusal(500, "oh no"),
        refusal(503, "overloaded"),
        refusal(408, "late"),
        (200, {}, b"<html>gateway</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": null}]}'),
        (200, {}, b"[1]"),
        (200, {}, b'{"choices": [{"message": {"content": 7}}]}'),
        (200, {}, b"\xff\xfe"),
    ],
)
def test_what_may_pass_is_tried_again(failure: Response) -> None:
    with FakeEndpoint(first(failure, failure)) as endpoint:
        [reply] = ask(endpoint.url, "hello", retries=2)
    assert reply == Reply("Fine.", "stop", {"prompt_tokens": 100, "completion_tokens": 20}, 3)


def test_waits_double() -> None:
    with FakeEndpoint(first(*[refusal(500, "no")] * 4)) as endpoint:
        ask(endpoint.url, "hello", retries=4, backoff=0.04)
    waits = [b - a for a, b in itertools.pairwise(endpoint.times)]
    for wait, expected in zip(waits, (0.04, 0.08, 0.16, 0.32), strict=True):
        assert expected / 2 <= wait < expected * 1.5 + 0.25


@pytest.mark.parametrize("header", ["1", "date"])
def test_a_wait_that_the_endpoint_asks_for_holds_for_all(header: str) -> None:
    """Several requests at once, one of which is told to wait."""

    def respond(prompt: str, asked: int) -> Response:
        if prompt == "first" and asked == 0:
            # A date has whole seconds: a second from now is up to one second less.
            value = header if header == "1" else email.utils.formatdate(time.time() + 2, usegmt=True)
            return refusal(429, "slow down", Retry_After=value)
        if asked == 0:
            time.sleep(0.3)
            return refusal(500, "no")
        return completion("Fine.")

    with FakeEndpoint(respond) as endpoint:
        replies = ask(endpoint.url, "first", "second")
    assert [reply.requests for reply in replies] == [2, 2]
    began = endpoint.times[0]
    assert all(seconds - began >= 0.95 for seconds in endpoint.times[2:])


def test_an_endpoint_that_fails_for_good() -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(500, "oh no")) as endpoint:
        [error] = ask(endpoint.url, "hello", retries=2)
    assert isinstance(error, CallError)
    assert str(error) == "answered 500: oh no (3 times)"
    assert len(endpoint.bodies) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(status, "no")) as endpoint:
        [error] = ask(endpoint.url, "hello")
    assert str(error) == f"answered {status}: no"
    assert len(endpoint.bodies) == 1


def test_a_slow_answer() -> None:
    with FakeEndpoint(first(), delay=0.6) as endpoint:
        [error] = ask(endpoint.url, "hello", timeout=0.15, retries=1)
    assert str(error) == "did not answer within 0.15 s (2 times)"


def test_the_key_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(401, f"Incorrect API key provided: {KEY}.")) as endpoint:
        [error] = ask(endpoint.url, "hello", api_key=KEY)
        said = problem(endpoint.url, api_key=KEY)
    assert str(error) == "answered 401: Incorrect API key provided: ***."
    assert KEY not in f"{said}{caplog.text}{Teacher(endpoint='http://x', model='m', api_key=KEY)}"


# In words


def test_the_key_is_refused() -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(401, "no such key")) as endpoint:
        assert problem(endpoint.url, api_key=KEY) == f"--endpoint: {endpoint.url} refuses the API key: it answered 401: no such key."
        expected = "asks for an API key; put it into an environment variable (--api-key-env): it answered 401: no such key."
        assert problem(endpoint.url) == f"--endpoint: {endpoint.url} {expected}"


@pytest.mark.parametrize("status", [400, 404])
def test_the_model_is_unknown(status: int) -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(status, "no such model"), models=["larger-one", "small"]) as endpoint:
        assert problem(endpoint.url, model="large-one") == f"--model: {endpoint.url} has no 'large-one'. Did you mean 'larger-one'?"
        assert problem(endpoint.url, model="xyz") == f"--model: {endpoint.url} has no 'xyz'. Known: larger-one, small."


def test_the_url_is_wrong() -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(404, "no such page")) as endpoint:
        assert problem(endpoint.url) == (
            f"--endpoint: {endpoint.url}/chat/completions answered 404: no such page. "
            "Expected a base URL, such as http://localhost:8000/v1, and a --model it has."
        )


def test_a_bad_request_says_nothing_about_the_others() -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(400, "too long"), models=["large"]) as endpoint:
        assert problem(endpoint.url) is None


def test_nobody_is_there() -> None:
    with FakeEndpoint(first()) as endpoint:
        url = endpoint.url
    began = time.monotonic()
    said = problem(url, retries=9, backoff=5)
    assert said is not None and said.startswith(f"--endpoint: {url} cannot be reached (")
    assert time.monotonic() - began < 4  # at once: it never answered


# Budget


Use = Callable[[Budget], Awaitable[None]]


def spend(budget: Callable[[], Budget], *steps: Use) -> Budget:
    async def run() -> Budget:
        found = budget()
        for step in steps:
            await step(found)
        return found

    return asyncio.run(run())


def test_requests_are_counted_with_repetitions() -> None:
    with FakeEndpoint(lambda prompt, asked: refusal(500, "no")) as endpoint:
        [error] = ask(endpoint.url, "hello", budget=lambda: Budget(3, None), retries=9)
    assert isinstance(error, Stopped)
    assert len(endpoint.bodies) == 3


def test_requests_of_earlier_runs_count() -> None:
    with FakeEndpoint(first()) as endpoint:
        replies = ask(endpoint.url, *"abcdef", budget=lambda: Budget(5, None, requests=2))
    assert sum(isinstance(reply, Reply) for reply in replies) == len(endpoint.bodies) == 3


@pytest.mark.parametrize("usage", [(100, 20), None])
def test_the_token_budget_holds_with_many_under_way(usage: tuple[int, int] | None) -> None:
    """An endpoint that does not count is taken at its worst."""
    worst = 1 + 64 + 200  # a prompt of two bytes, the template, the longest answer
    budgets: list[Budget] = []

    def budget() -> Budget:
        budgets.append(Budget(None, 1000))
        return budgets[0]

    with FakeEndpoint(lambda prompt, asked: completion("Fine.", usage=usage), delay=0.02) as endpoint:
        replies = ask(endpoint.url, *(f"{i:02}" for i in range(20)), budget=budget, answer_tokens=200)
    answered = sum(isinstance(reply, Reply) for reply in replies)
    each = sum(usage) if usage else worst
    assert budgets[0].tokens == answered * each <= 1000
    # None is left that would still have fitted.
    assert 1000 - answered * each < worst
    assert endpoint.peak <= 1000 // worst
    assert budgets[0].spent is not None and "(--max-tokens, --answer-tokens)" in budgets[0].spent


def test_what_is_set_aside_comes_back() -> None:
    async def one(budget: Budget) -> None:
        await budget.take(60)
        second = asyncio.create_task(budget.take(60))
        await asyncio.sleep(0.01)
        assert not second.done()
        await budget.settle(60, 10)
        await second
        await budget.settle(60, 60)
        with pytest.raises(Stopped):
            await budget.take(60)

    assert spend(lambda: Budget(None, 100), one).tokens == 70


def test_stopping_ends_waits() -> None:
    async def one(budget: Budget) -> None:
        asyncio.get_running_loop().call_later(0.02, budget.stop)
        began = time.monotonic()
        await budget.sleep(30)
        assert time.monotonic() - began < 5
        with pytest.raises(Stopped):
            await budget.take(1)

    assert spend(lambda: Budget(None, None), one).spent is None
