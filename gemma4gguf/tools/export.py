"""Write a bundle's parts under the names that other runtimes look for.

A bundle and a folder come in. Files go out, as `layouts` plans them: each section byte for byte, or a hard link to the
whole bundle where only a text model is needed. All checks come before the first file is made. This module does not know
what a runtime needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..arguments import local_path
from ..bundle.container import padded
from ..bundle.newfile import new_file
from ..bundle.reading import COPY_BYTES, NAMES, SECTION_ALIGNMENT, Bundle, Section
from ..bundle.settings import image_budget
from ..errors import ConversionError, FormatError, InputError
from ..media.image import check_budget
from .layouts import LAYOUTS, Job, Order, safe

TARGETS = tuple(LAYOUTS)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class File:
    """One file. `how`: cut (a copied section), linked (a hard link to the bundle), written, or there (already)."""

    path: Path
    what: str
    size: int
    how: str


@dataclass(frozen=True)
class Exported:
    """The files, the commands to type, and notes on what differs from gemma4gguf in that runtime."""

    target: str
    folder: Path
    files: tuple[File, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def export(
    file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    target: str,
    *,
    image_tokens: int | None = None,
    link: bool = True,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write a bundle's parts for `target` (llama.cpp, lmstudio, ollama) into `folder`, which is made if needed.

    `image_tokens`: a picture's budget there [the bundle's own, else 280]. `link` False: make copies, not hard links.
    `progress` is called with (bytes written, in all). Existing files are kept unless `force`, and each file appears
    only when it is complete. Raises InputError, FormatError and ConversionError.
    """
    if target not in TARGETS:
        raise InputError(f"a layout for {target!r}; the known ones are {', '.join(TARGETS)}")
    bundle = Bundle.open(file)
    if bundle.missing:
        raise FormatError(f"{bundle.path}: {bundle.absence(bundle.missing[0])}")
    budget = image_budget(bundle.text.metadata) if image_tokens is None else image_tokens
    check_budget(budget)
    job = Job(bundle, safe(bundle.path.stem), local_path(folder), budget, link)
    orders, commands, notes = LAYOUTS[target](job)
    todo = [order for order in orders if not _is_there(order, bundle.path)]
    _check(todo, force=force)
    total = sum(order.size for order in todo)
    made, done = [], 0

    def report(n: int) -> None:
        progress(done + n, total)

    for order in orders:
        how = "there"
        if order in todo:
            order.path.parent.mkdir(parents=True, exist_ok=True)
            how = _make(order, bundle.path, force=force, progress=report)
            done += order.size
        what = NAMES[order.content.architecture] if isinstance(order.content, Section) else "set-up"
        made.append(File(order.path, what, order.path.stat().st_size, how))
    return Exported(target, job.folder, tuple(made), tuple(commands), tuple(notes))


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_there(order: Order, source: Path) -> bool:
    """Whether the file to make is the bundle itself, as when it is exported into its own folder."""
    if not any(_same_entry(order.path, name) for name in (source, source.resolve())):
        return False
    if order.link:
        return True
    raise InputError(f"{order.path}: is the bundle itself, which the export would replace; choose another folder")


def _same_entry(path: Path, other: Path) -> bool:
    """Whether both paths name the same entry of a folder. Another hard link is another entry and may be replaced."""
    if not path.exists() or path.name.casefold() != other.name.casefold():
        return False
    return path.parent.samefile(other.parent) and path.samefile(other)


def _check(orders: Sequence[Order], *, force: bool) -> None:
    """Raise ConversionError if a file cannot be made, before the first one is."""
    needed = sum(order.size for order in orders if not order.link)
    for order in orders:
        if order.path.is_dir():
            raise ConversionError(f"{order.path}: is a folder where a file must go; choose another folder")
        if order.path.exists() and not force:
            raise ConversionError(f"{order.path}: exists already; choose another folder or use force=True")
        for parent in order.path.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise ConversionError(f"{parent}: is a file where a folder must go; choose another folder")
                free = shutil.disk_usage(parent).free
                if needed > free:
                    raise ConversionError(
                        f"{order.path.parent}: the parts need {needed:,} bytes and the disk has {free:,}; make room"
                    )
                break


def _make(order: Order, source: Path, *, force: bool, progress: Callable[[int], None]) -> str:
    if order.link and _linked(source, order.path):
        return "linked"
    with new_file(order.path, order.size, force=force) as out:
        if isinstance(order.content, bytes):
            out.write(order.content)
            return "written"
        _cut(order.content, out, progress)
        return "cut"


def _linked(source: Path, path: Path) -> bool:
    """Make `path` a hard link to the bundle; False if the file system cannot."""
    if path.exists() and not path.is_symlink() and path.samefile(source):
        return True  # a link already; renaming a second one to it would do nothing and leave both
    link = path.with_name(f".{path.name}.link")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(source.resolve())
        link.replace(path)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            link.unlink()
    return True


def _cut(section: Section, out: IO[bytes], progress: Callable[[int], None]) -> None:
    """Copy a section. It begins at a whole block, so that file systems that can share blocks do."""
    done = 0
    with section.open() as file:
        room = os.fstat(file.fileno()).st_size - section.offset
        wanted = min(padded(section.size, SECTION_ALIGNMENT), room)  # up to a whole block; truncated below
        with suppress(AttributeError, OSError):  # this system or file system does not offer it
            while done < wanted:
                step = min(COPY_BYTES, wanted - done)
                n = os.copy_file_range(file.fileno(), out.fileno(), step, section.offset + done, done)
                if n == 0:
                    break
                done += n
                progress(min(done, section.size))
    if done < section.size:
        out.seek(0)
        done = 0
        for piece in section.copy():
            out.write(piece)
            done += len(piece)
            progress(done)
        out.flush()
    out.truncate(section.size)
