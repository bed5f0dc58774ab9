"""A Hub on this machine: real HTTP on the loopback interface, answers in the form that the Hub's client expects.

Large files are answered with a redirect to where their bytes are, by range, as on the Hub.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

COMMIT = "c" * 40
LICENCE = "apache-2.0"
LARGE = ".gguf"  # such files are stored elsewhere, and the Hub tells their SHA-256


@dataclass
class Repository:
    """`files`: path in the repository -> file here. `digests`: what the Hub tells instead of the right digest."""

    files: dict[str, Path]
    gated: bool = False
    digests: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """`asked`: (path, Range) of requests for a file's bytes; `sent`: bytes of files that went out.

    `cuts`: path -> positions at which the connection breaks, each once. `stalls`: path -> the position at which an
    answer stops for ever; `stalled` is set then. `ranges`: whether the server knows them.
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories = repositories
        self.asked = list[tuple[str, str | None]]()
        self.sent = 0
        self.cuts: dict[str, list[int]] = {}
        self.stalls: dict[str, int] = {}
        self.stalled = threading.Event()
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges_of(self, path: str) -> list[int]:
        """Where the downloads of a file began, in order; requests for its header are left out."""
        wanted = (given for asked, given in self.asked if asked == path)
        return [int((given or "bytes=0-")[6:-1]) for given in wanted if given is None or given.endswith("-")]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error here."""


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/models/"):
            return self.told("/".join(path.split("/")[3:5]), tree="/tree/" in path)
        owner, name, kind, _, file = path[1:].split("/", 4)
        repository = self.server.repositories.get(f"{owner}/{name}")
        if repository is None or file not in repository.files:
            return self.send(404, {"X-Error-Code": "EntryNotFound" if repository else "RepoNotFound"})
        if repository.gated:
            return self.send(
                403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
            )
        if kind == "resolve" and file.endswith(LARGE):
            return self.send(302, {"Location": f"/{owner}/{name}/stored/{COMMIT}/{file}", "X-Repo-Commit": COMMIT})
        return self.data(file, repository.files[file])

    def told(self, name: str, *, tree: bool) -> None:
        """What the Hub tells of a repository, or of the files in it."""
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.send(401, {"X-Error-Code": "RepoNotFound"})
        entries = []
        for path, file in repository.files.items():
            size = file.stat().st_size
            entry = {"type": "file", "path": path, "rfilename": path, "size": size, "oid": git_sha1(file)}
            if path.endswith(LARGE):
                sha = repository.digests.get(path) or sha256(file)
                entry["lfs"] = {"sha256": sha, "size": size, "pointerSize": 135}
            entries.append(entry)
        card = {"license": LICENCE}
        tags = ["gguf", f"license:{LICENCE}"]
        told = {"id": name, "sha": COMMIT, "siblings": entries, "tags": tags, "cardData": card}
        self.send(200, {"Content-Type": "application/json"}, json.dumps(entries if tree else told).encode())

    def data(self, path: str, file: Path) -> None:
        wanted = self.headers.get("Range") if self.server.ranges else None
        size = file.stat().st_size
        first, _, last = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(first), min(size, int(last or size) + 1)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("ETag", f'"{git_sha1(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.asked.append((path, wanted))
        with open(file, "rb") as stream:
            stream.seek(start)
            self.stream(path, stream.read(stop - start), start)

    def stream(self, path: str, data: bytes, start: int) -> None:
        cuts = self.server.cuts.get(path, [])
        at = next((cut for cut in sorted(cuts) if start < cut < start + len(data)), None)
        stall = self.server.stalls.get(path, -1)
        if at is not None:
            cuts.remove(at)
            self.close_connection = True
        elif start < stall < start + len(data):
            at = stall
        data = data[: at and at - start]
        self.wfile.write(data)
        self.wfile.flush()
        self.server.sent += len(data)
        if at is not None and at == stall:
            self.server.stalled.set()
            self.rfile.read(1)  # until the client is gone

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


_KNOWN: dict[tuple[str, Path, int], str] = {}


def sha256(file: Path) -> str:
    return _digest("sha256", file)


def git_sha1(file: Path) -> str:
    """Something like the id that git gives a file."""
    return _digest("sha1", file)


def _digest(kind: str, file: Path) -> str:
    key = kind, file, file.stat().st_mtime_ns
    if key not in _KNOWN:
        _KNOWN[key] = hashlib.new(kind, file.read_bytes()).hexdigest()
    return _KNOWN[key]


@contextmanager
def serving(repositories: dict[str, Repository], patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub, which the client in this process uses as long as `patch` lasts."""
    from huggingface_hub import constants

    with Hub(repositories) as hub:
        threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
        hub.shutdown()
