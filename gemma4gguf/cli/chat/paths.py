"""Paths of pictures and clips in what people type, paste or drop.

In: a line. Out: the existing media files that it names. Terminals drop a path in quotes, with backslashes before
spaces, or as a file: address; people type it as it is.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...arguments import local_path
from ...media.kinds import ENDINGS
from .conversation import Kind

ESCAPES = os.name != "nt"  # on Windows a backslash is part of a path
_WORD = re.compile(r"'[^']+'|\"[^\"]+\"|(?:\\.|[^\s\\])+" if ESCAPES else r"\"[^\"]+\"|\S+")


@dataclass(frozen=True)
class Mention:
    """A media file named in a line: the characters that name it, and where they lead."""

    written: str
    path: Path
    kind: Kind


def as_path(text: str) -> Path:
    """The file that a text names, be it plain, quoted, escaped or a file: address."""
    text = text.strip()
    plain = local_path(text)
    if _exists(plain):
        return plain
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return local_path(text[1:-1])
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return local_path(re.sub(r"\\(.)", r"\1", text)) if ESCAPES else plain


def mentions(line: str) -> list[Mention]:
    """Media files that a line names: the line as a whole, or each as one word."""
    whole = _mention(line.strip())
    return [whole] if whole else [found for word in dict.fromkeys(_WORD.findall(line)) if (found := _mention(word))]


def without(line: str, found: Mention) -> str:
    """The line without the path, its spaces made one."""
    before, _, after = line.partition(found.written)
    return f"{before.rstrip()} {after.lstrip()}".strip()


def _mention(word: str) -> Mention | None:
    path = as_path(word)
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None or kind == "video" or not _exists(path) or not path.is_file():
        return None
    return Mention(word, path, kind)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a zero byte: no path at all
        return False
