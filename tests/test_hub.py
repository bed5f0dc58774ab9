"""Checkpoints from the Hub, through its real client, from a small server on this machine that speaks its language."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from converters import convert
from gemma4gguf.bundle.reading import Bundle
from tests.support import standin

COMMIT = "a" * 40
NAME = "someone/gemma-standin"
CODE = """
import json, sys
from converters import convert
from gemma4gguf.errors import Gemma4Error
seen = []
try:
    how = json.loads(sys.argv[3])
    done = convert(sys.argv[1], sys.argv[2], quant="Q4_0", progress=lambda *now: seen.append(now), **how)
    print(json.dumps({"size": done.size, "notes": done.plan.notes, "seen": seen}))
except Gemma4Error as error:
    print(json.dumps({"error": str(error)}))
"""


class Hub(ThreadingHTTPServer):
    """Serves one folder as one model; `asked` are the requests, `break_once` a file whose first answer is cut short."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.asked = folder, list[tuple[str, str, str | None]]()
        self.break_once: set[str] = set()


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        files = [f for f in sorted(self.server.folder.rglob("*")) if f.is_file()]
        relative = [f.relative_to(self.server.folder).as_posix() for f in files]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            entries = [
                {"type": "file", "path": r, "size": f.stat().st_size, "oid": hashlib.sha1(f.read_bytes()).hexdigest()}
                for r, f in zip(relative, files, strict=True)
            ]
            return self.send(json.dumps(entries).encode(), with_body)
        if path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": r} for r in relative]
            return self.send(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode(), with_body)
        _, resolve, rest = path.partition(f"{NAME}/resolve/")
        name = rest.partition("/")[2]
        if resolve and name in relative:
            return self.send_file(name, with_body)
        code = "EntryNotFound" if resolve else "RepoNotFound"
        return self.send(b"", with_body, 404, {"X-Error-Code": code})

    def send_file(self, name: str, with_body: bool) -> None:
        data = (self.server.folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        wanted = self.headers.get("Range")
        if wanted is None:
            return self.send(data, with_body, 200, headers, cut=name in self.server.break_once)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self.send(part, with_body, 206, headers)

    def send(
        self, data: bytes, with_body: bool, status: int = 200, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body and cut:
            self.server.break_once.clear()
            self.wfile.write(data[:-1000])  # the client goes on from the last whole 10 MB
            self.wfile.flush()
            self.close_connection = True
        elif with_body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = standin.write_checkpoint(tmp_path / "gemma-standin", shards=2)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    (folder / "picture.png").write_bytes(b"never fetched")
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def run(hub: Hub, name: str, out: Path, **how: Any) -> dict[str, Any]:
    """Convert in a process of its own, since the client reads its settings when it is imported."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(out.parent / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    command = [sys.executable, "-c", CODE, name, str(out), json.dumps(how)]
    ended = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120, check=True
    )
    assert "%|" not in ended.stderr  # no bars of the client's own
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_hub_id(hub: Hub, tmp_path: Path) -> None:
    found = run(hub, NAME, tmp_path / "out.gguf")
    convert(hub.folder, tmp_path / "local.gguf", quant="Q4_0")
    fetched, local = (Bundle.open(tmp_path / name) for name in ("out.gguf", "local.gguf"))
    for ours, theirs in zip(fetched.sections, local.sections, strict=True):
        assert all((ours.raw(name) == theirs.raw(name)).all() for name in theirs.tensors)
    changed = {key for key, raw in fetched.text.header.pairs.items() if raw != local.text.header.pairs.get(key)}
    origin = "general.source.repo_url"  # only a Hub id tells where the files are from; sizes and digests follow
    assert changed == {origin, "gemma4gguf.bundle.sizes", "gemma4gguf.bundle.sha256"}
    assert fetched.text.metadata[origin].endswith(NAME)
    assert not any(path.endswith((".bin", ".png")) for _, path, _ in hub.asked)
    downloads = [(done, total) for done, total, stage in found["seen"] if stage == "download"]
    weights = sum(f.stat().st_size for f in hub.folder.glob("model*"))
    assert downloads[-1][0] == downloads[-1][1] > weights
    hub.asked.clear()
    run(hub, NAME, tmp_path / "again.gguf")
    assert not any(method == "GET" and path.endswith(".safetensors") for method, path, _ in hub.asked)


def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.break_once.add("model-00002-of-00002.safetensors")
    found = run(hub, NAME, tmp_path / "out.gguf")
    if "error" in found:  # the client gave up: the same command again goes on
        assert "run the same command again" in found["error"]
        found = run(hub, NAME, tmp_path / "out.gguf")
    assert found["size"] == (tmp_path / "out.gguf").stat().st_size
    ranges = [r for method, path, r in hub.asked if method == "GET" and path.endswith("00002-of-00002.safetensors")]
    assert ranges[0] is None
    assert ranges[-1] is not None
    assert ranges[-1].startswith("bytes=")


def test_a_plan_fetches_headers_only(hub: Hub, tmp_path: Path) -> None:
    found = run(hub, NAME, tmp_path / "out.gguf", dry_run=True)
    assert all(
        wanted is not None for method, path, wanted in hub.asked if method == "GET" and path.endswith(".safetensors")
    )
    assert not (tmp_path / "out.gguf").exists()
    assert found["size"] == run(hub, NAME, tmp_path / "out.gguf")["size"]


def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    found = run(hub, "someone/else", tmp_path / "out.gguf")
    assert "no such folder here and no such model on the Hub" in found["error"]
    (hub.folder / "config.json").unlink()
    assert "no config.json" in run(hub, NAME, tmp_path / "out.gguf")["error"]
    hub.shutdown()
    hub.server_close()
    found = run(hub, "someone/third", tmp_path / "out.gguf")
    assert "cannot be downloaded" in found["error"]
    assert list(tmp_path.glob("*.gguf")) == []
