"""Reads JSON from untrusted files, within bounds of size and of how many values there are.

In: a path, or bytes that were read. Out: parsed JSON. Knows nothing of what the values mean.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from gemma4gguf.errors import ConversionError

MAX_BYTES = 1 << 28  # of a file that is read whole; the 12B's tokenizer.json has 32 MB
MAX_VALUES = 1 << 22  # brackets and commas; the 12B's tokenizer.json has 1.9 million
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_whole(path: Path) -> bytes:
    """A file's bytes. Raises ConversionError where there is no such file, or it cannot be read to its end."""
    if not path.is_file():  # a pipe or a device would keep us waiting
        raise ConversionError(f"{path}: no such file; get the whole checkpoint again")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(min(size, MAX_BYTES) + 1)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) != size:
        what = (
            f"has {size:,} bytes, expected at most {MAX_BYTES:,}" if size > MAX_BYTES else "changed while it was read"
        )
        raise ConversionError(f"{path}: {what}; get it again")
    return raw


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from an untrusted file. Raises ConversionError."""
    try:
        value = parse(read_whole(path))
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: is not JSON ({error}); get it again") from None
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: holds a {type(value).__name__}, expected a JSON object; get it again")
    return value


def parse(raw: bytes) -> Any:
    """Parse untrusted JSON. Raises ValueError or RecursionError, also for more than it may hold."""
    count = sum(map(raw.count, (b"[", b"{", b",")))
    if count > MAX_VALUES:
        raise ValueError(f"it has {count:,} values, expected at most {MAX_VALUES:,}")
    value = json.loads(raw)
    if _SURROGATE.search(raw):  # JSON can escape half a surrogate pair, which UTF-8 cannot encode
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. Raises ConversionError."""
    return read_json(path) if path.exists() else {}
