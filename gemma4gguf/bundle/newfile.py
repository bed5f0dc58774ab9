"""A file that appears under its name only when it is whole.

In: a path and the size to come. Out: an open file; on leaving the block, a synced file of that name, or nothing.
Knows nothing of what is written.
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

    Where `out` is a symbolic link, the file that it names is written.
    """
    out = out.resolve() if out.is_symlink() else out
    check_output(out, size, force=force)
    partial = out.with_name(f".{out.name}.partial")  # one fixed name: what a killed run left, the next one reuses
    file = _opened(partial, out)
    try:
        file.truncate(0)
        yield file
        file.flush()
        os.fsync(file.fileno())
        _let_go(file)
        if out.exists() and not force:  # since we began
            raise ConversionError(f"{out}: exists already; choose another name or use --force")
        partial.replace(out)
        with suppress(OSError):  # the file is there and whole; some folders cannot be synced
            _sync_folder(out.parent)
    except BaseException as error:
        _let_go(file)
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise ConversionError(f"{out}: writing failed ({reason}); nothing was left behind") from error
        raise
    finally:
        with suppress(OSError):  # after a full disk, what is still in the buffer fails once more
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
            _lock(file, out)
            # Between our opening and our lock, the writer before us may have renamed this very file to `out`.
            if os.path.samestat(found := os.fstat(handle), partial.stat()):
                if found.st_nlink == 1:
                    return file
                partial.unlink()  # a second name of somebody's finished file, which is not ours to write to
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def check_output(out: Path, size: int, *, force: bool) -> None:
    """Raise ConversionError where writing `size` bytes to `out` cannot end well."""
    if out.is_dir():
        raise ConversionError(f"{out}: is a folder; name a file in it, such as {out / 'model.gguf'}")
    if out.exists() and not out.is_file():
        raise ConversionError(f"{out}: is no ordinary file; choose another name")
    if out.exists() and not force:
        raise ConversionError(f"{out}: exists already; choose another name or use --force")
    if not out.parent.is_dir():
        raise ConversionError(f"{out.parent}: no such folder; make it first")
    free = shutil.disk_usage(out.parent).free
    if size > free:
        raise ConversionError(
            f"{out}: needs {size:,} bytes and the disk has {free:,} free; make room or choose another"
        )


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two writers of one name are not told apart there
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConversionError(f"{out}: another conversion is writing this file") from None
    except OSError:  # a file system without locks
        return


def _let_go(file: IO[bytes]) -> None:
    """Windows renames and removes only what nobody has open. Elsewhere the lock must last until that is done."""
    if os.name == "nt":
        with suppress(OSError):
            file.close()


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
