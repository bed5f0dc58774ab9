"""The owner of `cache_dir`: caches of whole sequences in files, for the next process.

In: what each position of a sequence holds, and its state. Out: the same, if the file is as it was written. A file is
written whole or not at all, in a thread of its own; damaged ones are removed; all files together stay within a budget,
and the least recently used go first. A state can be continued only from exactly its last position.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..bundle.newfile import new_file
from ..bundle.reading import EMBEDDER, TEXT, Bundle, digest, listed_sections
from ..errors import ConversionError
from ..native import library
from ..native.context import ContextOptions
from ..version import __version__
from .session import Key

FORM = "gemma4gguf cache 1"
SUFFIX = ".state"
MOST_HEADER = 64 << 20  # bytes


@dataclass(frozen=True)
class Stored:
    """A file, and what each position of its sequence holds."""

    path: Path
    held: tuple[Key, ...]


def identity(bundle: Bundle, options: ContextOptions) -> str:
    """What a state belongs to: the same weights, engine and kind of cache. Hashes a file that does not know its own."""
    listed = listed_sections(bundle.text)
    digests = []
    for name in (TEXT, EMBEDDER):
        section = bundle.section(name)
        digests.append(section and (listed[name][1] if name in listed else digest(section)))
    engine = [library.version(), __version__, options.kv_type, options.flash_attention, options.sequences]
    return hashlib.sha256(json.dumps([digests, engine]).encode()).hexdigest()[:32]


class Disk:
    """The files of one engine in a folder that engines may share. Close it: it waits for what is being written."""

    def __init__(self, folder: Path, identity: str, budget: int) -> None:
        """`budget`: bytes that all files in the folder may take together, those of other engines among them."""
        self._root, self._folder, self._budget = folder, folder / identity, budget
        self._lock = threading.Lock()
        self._stored: dict[Path, Stored] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="gemma4gguf-disk")
        for path in self._folder.glob(f"*{SUFFIX}"):
            try:
                with path.open("rb") as file:
                    self._stored[path] = Stored(path, _held(_header(file.readline(MOST_HEADER))["held"]))
            except (OSError, ValueError, KeyError, TypeError):
                _remove(path)

    @property
    def stored(self) -> list[Stored]:
        """All that can be read back."""
        with self._lock:
            return list(self._stored.values())

    def read(self, stored: Stored) -> bytes | None:
        """A file's state, or None where it is gone or damaged; then it is forgotten."""
        try:
            with stored.path.open("rb") as file:
                header, state = _header(file.readline(MOST_HEADER)), file.read()
            if _held(header["held"]) == stored.held and hashlib.sha256(state).hexdigest() == header["sha256"]:
                with suppress(OSError):
                    os.utime(stored.path)  # used last
                return state
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with self._lock:
            self._stored.pop(stored.path, None)
        _remove(stored.path)
        return None

    def write(self, held: Sequence[Key], state: bytes | bytearray) -> None:
        """Write a state, soon. A warning where it cannot be written."""
        runs = _runs(held)
        path = self._folder / (hashlib.sha256(json.dumps(runs).encode()).hexdigest()[:32] + SUFFIX)
        with self._lock:
            if path in self._stored or len(state) > self._budget:
                return
        self._writer.submit(self._write, Stored(path, tuple(held)), runs, state)

    def _write(self, stored: Stored, runs: list[Any], state: bytes | bytearray) -> None:
        header = {"form": FORM, "held": runs, "sha256": hashlib.sha256(state).hexdigest()}
        first = json.dumps(header).encode() + b"\n"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what was said can be read out of it
            self._make_room(len(first) + len(state))
            with new_file(stored.path, len(first) + len(state), force=True) as file:
                file.write(first)
                file.write(state)
        except (OSError, ConversionError) as error:
            warnings.warn(f"cache_dir: {error}", stacklevel=1)
            return
        with self._lock:
            self._stored[stored.path] = stored

    def _make_room(self, size: int) -> None:
        files = []
        for path in self._root.glob(f"*/*{SUFFIX}"):
            with suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime_ns, found.st_size, path))
        used = sum(length for _, length, _ in files)
        for _, length, path in sorted(files):
            if used + size <= self._budget:
                break
            _remove(path)
            used -= length
            with self._lock:
                self._stored.pop(path, None)

    def flush(self) -> None:
        """Wait until everything is written."""
        self._writer.submit(int).result()

    def close(self) -> None:
        """The same, and write nothing more."""
        self._writer.shutdown()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _header(line: bytes) -> dict[str, Any]:
    header = json.loads(line)
    if not isinstance(header, dict) or header.get("form") != FORM:
        raise ValueError("no header of ours")
    return header


def _runs(held: Iterable[Key]) -> list[Any]:
    """Keys as JSON: runs of token ids, and media as (content, rows)."""
    runs: list[Any] = []
    for content, keys in groupby(held, lambda key: key[0] if isinstance(key, tuple) else None):
        rows = list(keys)
        runs.append(rows if content is None else [content.hex(), len(rows)])
    return runs


def _held(runs: Any) -> tuple[Key, ...]:
    held: list[Key] = []
    for run in runs:
        if run and isinstance(run[0], str):
            content, rows = bytes.fromhex(run[0]), int(run[1])
            held += [(content, row) for row in range(rows)]
        elif all(type(token) is int for token in run):
            held += run
        else:
            raise ValueError("no keys")
    return tuple(held)
