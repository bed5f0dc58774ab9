"""What a caller gives as a medium's file: a path, a file in memory or an open file, opened in one way.

A path, bytes or an open file come in; a name for messages and a file that can be rewound go out. Knows no formats.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TypeAlias

from ..arguments import local_path
from ..errors import InputError

FileInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
IN_MEMORY = (bytes, bytearray, memoryview)


def is_file(medium: object) -> bool:
    """Whether it is a path, a file in memory or an open file."""
    return isinstance(medium, (str, os.PathLike, *IN_MEMORY)) or hasattr(medium, "read")


@contextmanager
def opened(source: FileInput, what: str) -> Iterator[tuple[str, IO[bytes]]]:
    """A name for messages, and the file, which may be rewound; it is closed afterwards if it was opened here.

    `what`: what it should be, such as "the clip", for the name of one in memory. A pipe is read whole. Raises
    InputError for a file that cannot be opened.
    """
    if isinstance(source, IN_MEMORY):
        yield f"{what} ({len(source):,} bytes)", io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        with told(name):
            file = open(local_path(source), "rb")  # noqa: SIM115 (closed below)
        with file:
            yield name, _rewindable(file, name)
    else:
        yield "the open file", _rewindable(source, "the open file")


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn what opening and reading a file raises into an InputError that begins with its name."""
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _rewindable(file: IO[bytes], name: str) -> IO[bytes]:
    with told(name):
        return file if file.seekable() else io.BytesIO(file.read())
