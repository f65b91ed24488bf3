"""A language model behind an OpenAI-compatible endpoint: asked many times at once, patiently, within a budget."""

import asyncio
import contextlib
import email.utils
import logging
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2

from graphgpt.errors import amount, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Which model is asked, and how.

    Args:
        endpoint: Base URL, such as ``https://api.openai.com/v1``.
        model: Its name there.
        api_key: Sent as a bearer token; never printed or written.
        temperature: Of sampling.
        answer_tokens: Longest answer.
        timeout: Seconds to wait for an answer.
        retries: How often a call is repeated that failed for a reason that may pass (429, 5xx, time-out, lost connection).
        backoff: Seconds before the first repetition; doubled each time, give or take a half.
        body: Further fields of the request; null removes one.
    """

    endpoint: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.7
    answer_tokens: int = 1024
    timeout: float = 120.0
    retries: int = 6
    backoff: float = 1.0
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What came back: the text, why it ended, tokens as the endpoint counts them, HTTP requests that it took."""

    text: str
    finish: str | None
    usage: dict[str, int] | None
    requests: int


class Stopped(Exception):
    """No further request is to be sent."""


class CallError(Exception):
    """A request that failed; ``str(error)`` says how, as the end of a sentence.

    Args:
        message: Such as "answered 500: overloaded".
        passing: Whether it may succeed when repeated.
        wait: Seconds that the endpoint asks for.
        status: HTTP status, None when there was no answer.
    """

    def __init__(self, message: str, *, passing: bool, wait: float = 0.0, status: int | None = None) -> None:
        super().__init__(message)
        self.passing = passing
        self.wait = wait
        self.status = status


class Budget:
    """How many requests may still be sent, and how many tokens may still be used; a way to stop before that.

    Tokens are set aside before a request at the most that it can cost, so that the budget holds however many are under way.

    Args:
        max_requests: None is without limit.
        max_tokens: Prompts and answers together; None is without limit.
        requests: Sent already.
        tokens: Used already.
    """

    def __init__(self, max_requests: int | None, max_tokens: int | None, requests: int = 0, tokens: int = 0) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.requests = requests
        self.tokens = tokens
        self.spent: str | None = None
        self._reserved = 0
        self._settled = asyncio.Condition()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Let what is under way finish, and send nothing more."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def sleep(self, seconds: float) -> None:
        """Wait; shorter when stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def take(self, tokens: int) -> None:
        """Take one request of at most so many tokens out of the budget.

        Raises:
            Stopped: the budget does not hold it.
        """
        async with self._settled:
            while not self.stopped:
                if self.max_requests is not None and self.requests >= self.max_requests:
                    self.spent = f"the budget of {self.max_requests:,} requests is spent (--max-requests)"
                    break
                if self.max_tokens is None or self.tokens + self._reserved + tokens <= self.max_tokens:
                    self.requests += 1
                    self._reserved += tokens
                    return
                if not self._reserved:
                    self.spent = (
                        f"{self.tokens:,} of the budget of {self.max_tokens:,} tokens are used, and the next call may take {tokens:,} "
                        "(--max-tokens, --answer-tokens)"
                    )
                    break
                # A request under way may turn out cheaper than what was set aside for it.
                await self._settled.wait()
        raise Stopped

    async def settle(self, reserved: int, used: int) -> None:
        """A request is done: what it cost instead of what was set aside."""
        async with self._settled:
            self._reserved -= reserved
            self.tokens += used
            self._settled.notify_all()


class Client:
    """Asks a teacher, repeating what may succeed.

    Args:
        teacher: Whom.
        budget: Counts every request.
        http: Used for all requests.
    """

    def __init__(self, teacher: Teacher, budget: Budget, http: httpx2.AsyncClient) -> None:
        self.teacher = teacher
        self.budget = budget
        self.http = http
        self.base = teacher.endpoint.rstrip("/").removesuffix("/chat/completions")
        self.answered = False
        self._not_before = 0.0

    async def ask(self, prompt: str) -> Reply:
        """An answer to a prompt.

        Raises:
            Stopped: the budget is spent, or the run is being ended.
            CallError: it failed for good.
        """
        # Two bytes a token is more than any tokenizer needs in any language; a chat template adds a few tokens.
        most = len(prompt.encode()) // 2 + 64 + self.teacher.answer_tokens
        for attempt in range(1, self.teacher.retries + 2):
            while not self.budget.stopped and (pause := self._not_before - time.monotonic()) > 0:
                await self.budget.sleep(pause)
            await self.budget.take(most)
            used = 0
            try:
                text, finish, usage = await self._post(prompt)
                # An endpoint that does not count is taken to have used what it could.
                used = sum(usage.values()) if usage else most
                self.answered = True
                return Reply(text, finish, usage, attempt)
            except CallError as error:
                failure = error
            finally:
                await self.budget.settle(most, used)
            if not failure.passing:
                raise failure
            if failure.wait:
                self._hold(failure)
            if attempt <= self.teacher.retries:
                await self.budget.sleep(self.teacher.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise CallError(f"{failure} ({amount(self.teacher.retries + 1, 'time')})", passing=False, status=failure.status)

    def _hold(self, failure: CallError) -> None:
        """Whoever is asked to wait waits with all requests, not with one alone."""
        until = time.monotonic() + failure.wait
        if until > self._not_before + 1:
            log.warning("The endpoint %s; waiting %.0f s, as it asks.", failure, failure.wait)
        self._not_before = max(self._not_before, until)

    async def _post(self, prompt: str) -> tuple[str, str | None, dict[str, int] | None]:
        body = {
            "model": self.teacher.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.teacher.temperature,
            "max_tokens": self.teacher.answer_tokens,
        } | self.teacher.body
        try:
            response = await self.http.post(f"{self.base}/chat/completions", json={k: v for k, v in body.items() if v is not None})
        except httpx2.TimeoutException as error:
            raise CallError(f"did not answer within {self.teacher.timeout:g} s", passing=True) from error
        except httpx2.ConnectError as error:
            # One that never answered is more likely misspelled than restarting.
            raise CallError(f"cannot be reached ({error})", passing=self.answered) from error
        except httpx2.HTTPError as error:
            raise CallError(f"broke off the connection ({type(error).__name__}: {error})", passing=True) from error
        status = response.status_code
        if status != 200:
            passing = status in (408, 409, 425, 429) or status >= 500
            wait = _retry_after(response) if passing else 0.0
            raise CallError(f"answered {status}: {self._message(response)}", passing=passing, wait=wait, status=status)
        try:
            data = response.json()
            choice = data["choices"][0]
            text, finish = choice["message"].get("content") or "", choice.get("finish_reason")
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CallError(
                f"sent something that is not a chat completion: {self._clean(response.text)}", passing=True, status=status
            ) from error
        counts = data.get("usage")
        names = ("prompt_tokens", "completion_tokens")
        counted = isinstance(counts, dict) and all(isinstance(counts.get(name), int) for name in names)
        # Some servers send a reasoning model's thoughts along; the answer comes after them.
        text = text.rpartition("</think>")[2].strip()
        text = text.encode(errors="replace").decode()  # half a character, as where an answer was cut, fits into no file
        return text, str(finish) if finish else None, {name: counts[name] for name in names} if counted else None

    async def problem(self, error: CallError) -> str | None:
        """What is wrong with the endpoint, the key or the model, in words; None when a failure is about one call."""
        if error.status is None:
            return f"--endpoint: {self.base} {error}."
        if error.status in (401, 403):
            wants = "asks for an API key; put it into an environment variable (--api-key-env)"
            return f"--endpoint: {self.base} {'refuses the API key' if self.teacher.api_key else wants}: it {error}."
        if error.status in (400, 404):
            known = await self._models()
            if known and self.teacher.model not in known:
                return f"--model: {self.base} has no '{self.teacher.model}'. {nearest(self.teacher.model, known)}"
            if error.status == 404:
                wants = "Expected a base URL, such as http://localhost:8000/v1, and a --model it has."
                return f"--endpoint: {self.base}/chat/completions {error}. {wants}"
        return None

    async def _models(self) -> list[str]:
        """Names of the endpoint's models; empty when it does not say."""
        try:
            response = await self.http.get(f"{self.base}/models")
            return [str(model["id"]) for model in response.json()["data"]]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError, RecursionError):
            return []

    def _message(self, response: httpx2.Response) -> str:
        """What an error response says."""
        try:
            data = response.json()
            error = data.get("error", data)
            text = error.get("message") or error.get("detail") or response.text if isinstance(error, dict) else error
        except (ValueError, AttributeError, RecursionError):
            text = response.text
        return self._clean(str(text)) or response.reason_phrase

    def _clean(self, text: str) -> str:
        """A server's text on one line, not too long, and without the key should the server repeat it."""
        if self.teacher.api_key:
            text = text.replace(self.teacher.api_key, "***")
        flat = " ".join(text.split())
        return flat if len(flat) <= 200 else f"{flat[:200]}..."


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the endpoint asks to wait: a number or a date (RFC 9110, 10.2.3); 0 when it does not say."""
    value = response.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
