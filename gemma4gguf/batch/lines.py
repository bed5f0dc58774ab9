"""The questions: where each stands in its file, what it is called, and what tells it from others.

In: a file of JSON lines, or a folder and a question. Out: `Entry`s, small, and by each of them its `Line` when it is
its turn, so that a file of many pictures is never in memory as a whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InputError
from ..media.kinds import ENDINGS

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
LONGEST_LINE = 1 << 28  # bytes
BEGINNING = 512  # characters of a body by which lines are put together
PARTS = {"image": "image_url", "audio": "input_audio", "video": "video_url"}  # of a message, by what a file is
Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One question. `digest`: SHA-256 of what is asked, in hex."""

    custom_id: str
    url: str
    body: Json

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.url, self.body], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A line that was seen: small, and another process can read it too, from the same path.

    `read`: gives the line; raises InputError where it is none. `beginning`: how its body begins.
    """

    custom_id: str
    digest: str
    beginning: str
    read: Callable[[], Line]


def entries(path: Path) -> list[Entry]:
    """Every line of a file. Raises InputError for a file that cannot be read, and for an id that is there twice.

    A line that is no question becomes an entry whose `read` raises; its id is its own, or `line-N`.
    """
    found: list[Entry] = []
    numbers: dict[str, int] = {}
    try:
        with open(path, "rb") as file:
            at = 0
            for number, data in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
                if data.strip():
                    entry = _entry(path, number, at, data)
                    if entry.custom_id in numbers:
                        where = f"lines {numbers[entry.custom_id]} and {number}"
                        raise InputError(f"{path}: custom_id {entry.custom_id!a} is in {where}; ids tell answers apart")
                    numbers[entry.custom_id] = number
                    found.append(entry)
                at = file.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return found


def _entry(path: Path, number: int, at: int, data: bytes) -> Entry:
    name, digest, beginning = f"line-{number}", hashlib.sha256(data).hexdigest(), ""
    try:
        value = _object(data)
        name = str(value.get("custom_id", name))
        line = _line(value, name)
        digest = line.digest
        beginning = json.dumps(line.body.get("messages", line.body.get("input")))[:BEGINNING]
    except InputError:
        pass
    return Entry(name, digest, beginning, partial(_read, path.absolute(), number, at, name))


def _read(path: Path, number: int, at: int, name: str) -> Line:
    with open(path, "rb") as file:
        file.seek(at)
        try:
            return _line(_object(file.readline(LONGEST_LINE + 1)), name)
        except InputError as error:
            raise InputError(f"line {number}: {error}") from None


def _object(data: bytes) -> Json:
    if len(data) > LONGEST_LINE:
        raise InputError(f"longer than {LONGEST_LINE:,} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _line(value: Json, name: str) -> Line:
    url, body = value.get("url", CHAT), value.get("body")
    if value.get("method", "POST") != "POST" or url not in (CHAT, RESPONSES):
        raise InputError(f"url: expected POST to {CHAT} or {RESPONSES}, found {value.get('method')} {url!a}")
    if not isinstance(body, dict):
        raise InputError('body: expected {"custom_id": …, "method": "POST", "url": …, "body": {…}}')
    return Line(name, url, body)


# ── a folder and a question ──────────────────────────────────────────────────────────────────────────────────────


def folder_entries(folder: Path, glob: str | None, prompt: str, options: Json) -> list[Entry]:
    """An entry for each picture, clip and video under a folder, named by its path in it; `glob` chooses others.

    `options`: more fields of each body. Raises InputError where there is none.
    """
    paths = sorted(p for p in folder.rglob(glob or "*") if p.is_file() and (glob or _part_name(p)))
    if not paths:
        what = f"nothing that fits {glob!a}" if glob else "no pictures, sound or video"
        raise InputError(f"{folder}: {what} in it; --glob chooses files")
    return [_of_file(path, folder, prompt, options) for path in paths]


def _part_name(path: Path) -> str | None:
    return PARTS.get(ENDINGS.get(path.suffix.lower(), ""))


def _of_file(path: Path, folder: Path, prompt: str, options: Json) -> Entry:
    name = path.relative_to(folder).as_posix()
    kind = _part_name(path) or "image_url"
    field = "data" if kind == "input_audio" else "url"
    medium: Json = {"type": kind, kind: {field: f"file:{name}"}}
    text: Json = {"type": "text", "text": prompt}
    content = [text, medium] if kind == "input_audio" else [medium, text]  # the order that the model's card recommends
    line = Line(name, CHAT, {"messages": [{"role": "user", "content": content}], **options})
    return Entry(name, line.digest, "", partial(Line, line.custom_id, line.url, line.body))


# ── files that bodies name ───────────────────────────────────────────────────────────────────────────────────────


def with_files(body: Json, folder: Path | None) -> Json:
    """A body whose media are in it: `file:NAME` in a `url` or `data` becomes the bytes of that file in `folder`.

    Raises InputError for a file outside the folder, or where there is no folder to take files from.
    """
    return {key: _filled(value, key, folder) for key, value in body.items()}


def _filled(value: Any, key: str, folder: Path | None) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, name, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, key, folder) for item in value]
    if key in ("url", "data", "image_url") and isinstance(value, str) and value.startswith("file:"):
        data = base64.b64encode(_inside(value.removeprefix("file:"), folder)).decode("ascii")
        return data if key == "data" else f"data:application/octet-stream;base64,{data}"
    return value


def _inside(name: str, folder: Path | None) -> bytes:
    if folder is None:
        raise InputError(f"file:{name}: files are read only from a folder that files_from names")
    path = (folder / name.removeprefix("//")).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"file:{name}: is not in {folder}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"file:{name}: {error.strerror or error}") from None


def together(found: Sequence[Entry]) -> Iterator[Entry]:
    """Lines that begin alike one after another: what they share is read once. The groups stay in order."""
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        groups.setdefault(entry.beginning, []).append(entry)
    for beginning in sorted(groups):
        yield from groups[beginning]
