"""Write a file so that it appears under its name only when it is complete.

A path and the expected size come in; an open file goes out. At the end of the block the file is synced and gets its
name; if the block fails, nothing is left. This module does not know what is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import ConversionError

FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def new_file(out: Path, size: int, *, force: bool) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when complete and synced; on any failure nothing is left.

    If `out` is a symbolic link, its target is written. Raises ConversionError.
    """
    out = out.resolve() if out.is_symlink() else out
    check_output(out, size, force=force)
    partial = out.with_name(f".{out.name}.partial")  # a fixed name: the next run reuses what a killed one left
    try:
        file = _opened(partial, out)
    except ConversionError:
        raise
    except BaseException:  # a signal came after the file was made and before it was ours
        with suppress(ConversionError, OSError), _opened(partial, out):
            partial.unlink()
        raise
    try:
        file.truncate(0)
        yield file
        file.flush()
        os.fsync(file.fileno())
        _let_go(file)
        if out.exists() and not force:  # somebody made it since check_output
            raise ConversionError(f"{out}: exists already; choose another name or use force=True")
        partial.replace(out)
        with suppress(OSError):  # the file is complete; some file systems cannot sync a folder
            sync_folder(out.parent)
    except BaseException as error:
        _let_go(file)
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise ConversionError(f"{out}: writing failed ({reason}); nothing was left behind") from error
        raise
    finally:
        with suppress(OSError):  # if the disk is full, flushing the buffer fails again
            file.close()


def _opened(partial: Path, out: Path) -> IO[bytes]:
    """The unfinished file, locked against other writers of `out`."""
    while True:
        try:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | FLAGS, 0o644)
        except OSError as error:
            raise ConversionError(f"{out}: cannot be written ({error.strerror})") from error
        file = os.fdopen(handle, "r+b")
        try:
            lock(file, out)
            # Between opening and locking, another writer may have renamed this file to `out`.
            if os.path.samestat(found := os.fstat(handle), partial.stat()):
                if found.st_nlink == 1:
                    return file
                partial.unlink()  # a hard link to another file, which must not be overwritten
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def check_output(out: Path, size: int, *, force: bool) -> None:
    """Raise ConversionError if `out` cannot be written or its disk has no room for `size` bytes."""
    if out.is_dir():
        raise ConversionError(f"{out}: is a folder; name a file in it, such as {out / 'model.gguf'}")
    if out.exists() and not out.is_file():
        raise ConversionError(f"{out}: is no ordinary file; choose another name")
    if out.exists() and not force:
        raise ConversionError(f"{out}: exists already; choose another name or use force=True")
    if not out.parent.is_dir():
        raise ConversionError(f"{out.parent}: no such folder; make it first")
    free = shutil.disk_usage(out.parent).free
    if size > free:
        raise ConversionError(
            f"{out}: needs {size:,} bytes and the disk has {free:,} free; make room or choose another"
        )


def lock(file: IO[bytes], out: Path, who: str = "conversion") -> None:
    """Hold the file against other processes. Raises ConversionError where `who` else holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: two writers of one file are not detected there
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConversionError(f"{out}: another {who} is writing this file") from None
    except OSError:  # a file system without locks
        return


def _let_go(file: IO[bytes]) -> None:
    """Close the file on Windows, which cannot rename or remove an open file. Elsewhere, keep it open for its lock."""
    if os.name == "nt":
        with suppress(OSError):
            file.close()


def sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
