"""The file of answers: what it has already, and one more line at a time, each on the disk before the next.

In: answers by the entries they belong to. Out: a file that is right after any end, SIGKILL and a full disk too.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..bundle.newfile import lock, new_file
from ..errors import InputError
from .lines import Entry


@dataclass(frozen=True)
class Answer:
    """What an API answers. `status`: of HTTP; `body`: the answer, or the error in that API's form."""

    status: int
    body: Any

    @property
    def failed(self) -> bool:
        return self.status != 200


@dataclass
class Journal:
    """An open file of answers. `done`: ids of those that are in it; `failures`: how many of them are errors."""

    path: Path
    done: set[str]
    failures: int
    _file: IO[bytes]
    _order: list[str] = field(default_factory=list)
    _held: dict[str, bytes] = field(default_factory=dict)

    def add(self, entry: Entry, answer: Answer) -> None:
        """Append an answer, or hold it until those before it are there. Raises OSError where the disk refuses."""
        self.failures += answer.failed
        self.done.add(entry.custom_id)
        data = _line(entry, answer)
        if not self._order:
            self._append(data)
            return
        self._held[entry.custom_id] = data
        while self._order and self._order[-1] in self._held:
            self._append(self._held.pop(self._order.pop()))

    @property
    def held(self) -> int:
        """Answers that wait for others."""
        return len(self._held)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def journal(
    path: Path, found: Sequence[Entry], *, ordered: bool = False, retry_errors: bool = False
) -> Iterator[Journal]:
    """Open a file of answers to these entries, made where it is not there.

    `ordered`: answers are written in the entries' order. `retry_errors`: errors in it are taken out first. Raises
    InputError for a file with other answers, ConversionError where another batch writes it.
    """
    digests = {entry.custom_id: entry.digest for entry in found}
    if retry_errors:
        with _opened(path) as file:
            kept = [data for data, _, failed in _lines(path, file, digests) if not failed]
            with new_file(path, sum(map(len, kept)), force=True) as out:
                out.writelines(kept)
    with _opened(path) as file:
        there = list(_lines(path, file, digests))
        file.truncate(sum(len(data) for data, _, _ in there))  # a line that was cut off in the middle is not there
        file.seek(0, os.SEEK_END)
        done = {name for _, name, _ in there}
        order = [entry.custom_id for entry in reversed(found) if entry.custom_id not in done] if ordered else []
        yield Journal(path, done, sum(failed for _, _, failed in there), file, order)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    with os.fdopen(handle, "r+b") as file:
        lock(file, path, "batch")
        yield file


def _lines(path: Path, file: IO[bytes], digests: Mapping[str, str]) -> Iterator[tuple[bytes, str, bool]]:
    """Every whole line, its id, and whether it is an error. Raises InputError for answers to other questions."""
    for number, data in enumerate(file, 1):
        if not data.endswith(b"\n"):
            return
        try:
            value = json.loads(data)
            name, digest, failed = value["custom_id"], value["request_sha256"], value["error"] is not None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: is no answer of a batch; choose another file for them") from None
        if digests.get(name) != digest:
            raise InputError(f"{path}, line {number}: answers another question called {name!a}; choose another file")
        yield data, name, failed


def _line(entry: Entry, answer: Answer) -> bytes:
    """An answer as OpenAI's batches have it, with the digest of what was asked."""
    number = secrets.token_hex(12)
    said = answer.body.get("error") if isinstance(answer.body, dict) else None
    told = said if isinstance(said, dict) else {"message": said or ""}  # some servers' errors are a text alone
    error = {"code": told.get("code") or str(answer.status), "message": told.get("message", "")}
    value = {
        "id": f"batch_req_{number}",
        "custom_id": entry.custom_id,
        "response": {"status_code": answer.status, "request_id": f"req_{number}", "body": answer.body},
        "error": error if answer.failed else None,
        "request_sha256": entry.digest,
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
