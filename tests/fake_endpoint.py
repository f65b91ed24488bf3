"""A small HTTP server that speaks OpenAI's ``/chat/completions``, as tests want it to."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Response = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""

Respond = Callable[[str, int], Response]
"""From a prompt and how often it was asked before, to the response."""


def completion(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (100, 20)) -> Response:
    """A finished answer."""
    body: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def refusal(status: int, message: str, **headers: str) -> Response:
    """An error as endpoints word them."""
    body = json.dumps({"error": {"message": message, "type": "some_error"}}).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


class FakeEndpoint:
    """Answers on a free port of this machine while its block lasts.

    Args:
        respond: Makes the responses.
        delay: Seconds that each takes.
        models: What ``/models`` lists; None answers 404 there.
    """

    def __init__(self, respond: Respond, *, delay: float = 0.0, models: list[str] | None = None) -> None:
        self.respond = respond
        self.delay = delay
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()
        self.peak = 0
        self._active = 0
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        """All prompts received, in their order."""
        return [body["messages"][0]["content"] for body in self.bodies]

    def __enter__(self) -> "FakeEndpoint":
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][0]["content"]
                with endpoint._lock:
                    endpoint.bodies.append(body | {"path": self.path})
                    endpoint.headers.append(dict(self.headers))
                    endpoint.times.append(time.monotonic())
                    asked = endpoint._asked[prompt]
                    endpoint._asked[prompt] += 1
                    endpoint._active += 1
                    endpoint.peak = max(endpoint.peak, endpoint._active)
                try:
                    time.sleep(endpoint.delay)
                    response = endpoint.respond(prompt, asked)
                finally:
                    # Before the answer is out: the next request may follow it at once.
                    with endpoint._lock:
                        endpoint._active -= 1
                self._send(*response)
                if response[0] == 200:
                    endpoint.answered[prompt] += 1

            def do_GET(self) -> None:
                if endpoint.models is None or self.path != "/v1/models":
                    self._send(404, {}, b"not here")
                else:
                    self._send(200, {}, json.dumps({"data": [{"id": name} for name in endpoint.models]}).encode())

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                try:
                    self.send_response(status)
                    for name, value in {**headers, "Content-Length": str(len(body))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # Whoever asked did not wait.

            def log_message(self, *_: Any) -> None:
                return None

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
