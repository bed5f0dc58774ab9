"""Fetch the published parts of a model and pack them into one bundle in the models folder.

An `Offer` comes in, a bundle goes out. What is not finished lies in the model's hidden folder, and the next pull goes
on from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..bundle.finding import LOCK, RECORD, hidden_folder, read_record
from ..bundle.newfile import lock, sync_folder
from ..bundle.reading import DRAFTER, EMBEDDER, TEXT
from ..errors import ConversionError, InputError
from .hub import fetch, partial_path, sha256
from .offer import FOLDERS, Offer, place
from .pack import pack
from .verify import examine

Progress = Callable[[int, int, str], None]  # (bytes done, in all, stage)


@dataclass(frozen=True)
class Pulled:
    """The bundle. `fetched`: bytes that were downloaded; `kept`: the folder of the parts; `notes`: lines for people."""

    name: str
    path: Path
    size: int
    fetched: int
    kept: Path | None
    notes: tuple[str, ...]


def pull(offer: Offer, *, keep: bool = False, progress: Progress = lambda done, total, stage: None) -> Pulled:
    """Fetch what an offer names and pack it; a bundle that is there already is checked instead.

    `keep`: the parts stay in the hidden folder. `progress` is called with (bytes done, in all, stage): fetch, pack and
    verify. Raises ConversionError (the Hub, the disk, a wrong digest) and InputError (the name is another model's).
    Whatever happens, a file of this name is whole or not there.
    """
    with _locked(offer):
        if offer.path.exists():
            return _checked(offer, progress)
        _tidy(offer)
        _check_room(offer)
        _write_record(offer)
        _fetch(offer, progress)
        return _packed(offer, keep, progress)


@contextmanager
def _locked(offer: Offer) -> Iterator[None]:
    """The model's hidden folder, made and held against other pulls of it."""
    folder = hidden_folder(offer.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "wb")  # noqa: SIM115 (its errors are the folder's)
    except OSError as error:
        raise ConversionError(
            f"{folder}: cannot be written ({error.strerror}); set GEMMA4GGUF_MODELS to a folder that can"
        ) from None
    with file:
        lock(file, offer.path, "pull")
        yield


def _checked(offer: Offer, progress: Progress) -> Pulled:
    record = read_record(offer.name)
    cure = f"remove it with `gemma4gguf rm {offer.name}`"
    if record is None or record.sha256 != offer.record.sha256:
        raise InputError(f"{offer.path}: is there already, made of other files; {cure}, or give this one another name")
    damage, defects = examine(offer.path, lambda done, total: progress(done, total, "verify"))
    if damage:
        raise ConversionError(f"{offer.path}: is damaged ({damage[0]}); {cure} and pull it again")
    return Pulled(offer.name, offer.path, offer.path.stat().st_size, 0, None, tuple(defects))


def _tidy(offer: Offer) -> None:
    """Remove what earlier pulls left of other files, and of what is written anew."""
    folder = hidden_folder(offer.name)
    used = {folder / LOCK}
    for part in offer.parts:
        for file in part.files:
            here = place(offer.name, part.section, file)
            used |= {here, partial_path(file, here)}
    for path in folder.rglob("*"):
        if path not in used and not path.is_dir():
            path.unlink()


def _check_room(offer: Offer) -> None:
    free = shutil.disk_usage(hidden_folder(offer.name)).free
    if offer.missing + offer.size > free:
        raise ConversionError(
            f"{offer.path}: needs {offer.missing + offer.size:,} bytes ({offer.missing:,} to download, {offer.size:,} "
            f"for the bundle) and the disk has {free:,} free; make room, or set GEMMA4GGUF_MODELS to another folder"
        )


def _write_record(offer: Offer) -> None:
    path = hidden_folder(offer.name) / RECORD
    path.write_text(json.dumps(asdict(offer.record), indent=1) + "\n", "utf-8")


def _fetch(offer: Offer, progress: Progress) -> None:
    """Every file of every part, checked. The text model comes last, so that a wrong small part is told sooner."""
    total, done = sum(part.size for part in offer.parts), 0

    def report(here: int) -> None:
        progress(done + here, total, "fetch")

    for part in sorted(offer.parts, key=lambda part: part.section == TEXT):
        for file in part.files:
            here = place(offer.name, part.section, file)
            here.parent.mkdir(exist_ok=True)
            if not (here.is_file() and sha256(here) == file.sha256):
                fetch(file, here, report)
            done += file.size
            report(0)


def _packed(offer: Offer, keep: bool, progress: Progress) -> Pulled:
    folder = hidden_folder(offer.name)
    paths = {part.section: place(offer.name, part.section, part.files[0]) for part in offer.parts}
    made = folder / offer.path.name
    packed = pack(
        paths[TEXT],
        made,
        embedder=paths.get(EMBEDDER),
        drafter=paths.get(DRAFTER),
        force=True,
        progress=lambda done, total: progress(done, total, "pack"),
    )
    damage, defects = examine(made, lambda done, total: progress(done, total, "verify"))
    if damage or offer.path.exists():
        made.unlink()
        reason = f"was written and reads back otherwise ({damage[0]})" if damage else "exists since a moment ago"
        raise ConversionError(f"{offer.path}: {reason}; run the same command again")
    made.replace(offer.path)
    with suppress(OSError):  # some folders cannot be synced
        sync_folder(offer.path.parent)
    if not keep:
        for name in FOLDERS.values():
            shutil.rmtree(folder / name, ignore_errors=True)
    notes = (*packed.notes, *defects)
    return Pulled(offer.name, offer.path, packed.size, offer.missing, folder if keep else None, notes)
