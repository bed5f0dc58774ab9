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
from gemma4gguf.limits import current

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_whole(path: Path) -> bytes:
    """A file's bytes. Raises ConversionError where there is no such file, or it cannot be read to its end."""
    if not path.is_file():  # a pipe or a device would keep us waiting
        raise ConversionError(f"{path}: no such file; get the whole checkpoint again")
    most = current().json_bytes
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(min(size, most) + 1)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) != size:
        what = f"has {size:,} bytes, expected at most {most:,}" if size > most else "changed while it was read"
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
    count, most = sum(map(raw.count, (b"[", b"{", b","))), current().json_values
    if count > most:
        raise ValueError(f"it has {count:,} values, expected at most {most:,}")
    value = json.loads(raw)
    if _SURROGATE.search(raw):  # JSON can escape half a surrogate pair, which UTF-8 cannot encode
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. Raises ConversionError."""
    return read_json(path) if path.exists() else {}
