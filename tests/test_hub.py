"""Push and pull, against a small hub of the test's own."""

import base64
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from graphgpt.cli import hub
from graphgpt.errors import CheckpointError
from graphgpt.files.atomic import file_sha256

COMMIT = "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as the client needs for small files."""

    repositories: dict[str, dict[str, bytes]]

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, data: Any, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def name(self) -> str:
        return "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            name = "/".join(filter(None, (json.loads(body).get("organization"), json.loads(body)["name"])))
            self.repositories.setdefault(name, {})
            self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[self.name()][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/{self.name()}/commit/{COMMIT}"})
        else:
            self.answer({"error": f"not known: {self.path}"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            files = self.repositories.get(self.name())
            if files is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif "/tree/" in self.path:
                blobs = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for path, data in files.items()
                ]
                self.answer(blobs)
            else:
                siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
                self.answer({"id": self.name(), "modelId": self.name(), "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
            return
        owner, repository, _, _, *rest = self.path.strip("/").split("/")
        data = self.repositories[f"{owner}/{repository}"]["/".join(rest)]
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    from huggingface_hub import constants

    Hub.repositories = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoint"
    (folder / "lora").mkdir(parents=True)
    (folder / "projector.safetensors").write_bytes(bytes(range(256)))
    (folder / "lora" / "adapter_model.safetensors").write_bytes(b"adapters")
    (folder / "README.md").write_text("# A card\n")
    names = ("projector.safetensors", "lora/adapter_model.safetensors")
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in names}
    manifest = {
        "format": 1,
        "created": "now",
        "task": "graph_matching",
        "model": {"name": "gnn", "tower": {"name": "sgc"}},
        "llm": {},
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_is_pulled(checkpoint: Path, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.push(checkpoint.parent, "me/links", endpoint=endpoint) == f"{endpoint}/me/links"
    assert hub.pull("me/links", tmp_path / "pulled", endpoint=endpoint) == tmp_path / "pulled"
    assert contents(tmp_path / "pulled") == contents(checkpoint)
    assert not any(path.is_symlink() for path in (tmp_path / "pulled").rglob("*"))
    # Offline, from the cache.
    assert hub.pull("me/links", tmp_path / "again", endpoint="http://127.0.0.1:9") == tmp_path / "again"
    assert contents(tmp_path / "again") == contents(checkpoint)


def test_a_damaged_checkpoint_is_not_pushed(checkpoint: Path, endpoint: str) -> None:
    (checkpoint / "projector.safetensors").write_bytes(b"\0" * 256)
    with pytest.raises(CheckpointError, match=r"projector.safetensors does not match its checksum"):
        hub.push(checkpoint, "me/links", endpoint=endpoint)
    assert Hub.repositories == {}


def test_what_cannot_be_pulled(checkpoint: Path, endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^'me/nothing' could not be pulled: "):
        hub.pull("me/nothing", tmp_path / "out", endpoint=endpoint)
    hub.push(checkpoint, "me/links", endpoint=endpoint)
    Hub.repositories["me/links"]["projector.safetensors"] = b"short"
    with pytest.raises(CheckpointError, match=r"projector.safetensors has 5 bytes, expected 256"):
        hub.pull("me/links", tmp_path / "out", endpoint=endpoint)
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match=r"there exists already"):
        hub.pull("me/links", tmp_path / "there", endpoint=endpoint)
