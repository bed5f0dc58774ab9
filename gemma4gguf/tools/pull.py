"""Fetch the published parts of a model and pack them into one bundle in the models folder.

A repository's name comes in. First an `Offer` goes out: the files, their sizes, the licence, and what the bundle will
be, from headers alone, which were checked as `pack` checks them. Then, from an offer, the bundle. What is not finished
lies in the model's hidden folder, and the next pull goes on from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..bundle.finding import HUB_ID, LOCK, RECORD, SUFFIX, Record, hidden_folder, models_folder, read_record
from ..bundle.newfile import lock, sync_folder
from ..bundle.reading import DRAFTER, EMBEDDER, ORDER, TEXT, Section, expect_text
from ..bundle.writing import place_sections
from ..errors import ConversionError, InputError
from ..machine import memory_limit
from ..native.context import ContextOptions
from ..native.library import repacked_types
from ..runtime.memory import Facts, Memory, memory
from ..runtime.room import contexts, first_that_fits, usable
from .hub import HubFile, Repository, fetch, look_up, partial_path, sha256
from .hub_parts import Planned, candidates, choose_drafter, choose_embedder, choose_text
from .layouts import safe
from .pack import checked_parts, pack
from .verify import examine

Progress = Callable[[int, int, str], None]  # (bytes done, in all, stage)
FOLDERS = {TEXT: "text", EMBEDDER: "embedder", DRAFTER: "drafter"}  # in the hidden folder


@dataclass(frozen=True)
class Offered:
    """One part: its section, its type, its files on the Hub, and how many bytes of them are still to come."""

    section: str
    type: str
    files: tuple[HubFile, ...]
    missing: int

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Offer:
    """What a pull would do. `size`: bytes of the bundle; `ready`: a file of this name is there already.

    `sections` are those of the bundle, as the headers on the Hub tell them.
    """

    name: str
    path: Path
    record: Record
    parts: tuple[Offered, ...]
    size: int
    notes: tuple[str, ...]
    ready: bool
    sections: tuple[Section, ...] = field(repr=False)

    @property
    def missing(self) -> int:
        """Bytes still to be downloaded."""
        return 0 if self.ready else sum(part.missing for part in self.parts)


@dataclass(frozen=True)
class Pulled:
    """The bundle. `fetched`: bytes that were downloaded; `kept`: the folder of the parts; `notes`: lines for people."""

    name: str
    path: Path
    size: int
    fetched: int
    kept: Path | None
    notes: tuple[str, ...]


# ── the offer ────────────────────────────────────────────────────────────────────────────────────────────────────


def look(
    source: str,
    *,
    embedder: str | None = None,
    drafter: str | None = None,
    text_only: bool = False,
    name: str | None = None,
) -> Offer:
    """Look at a repository, `OWNER/NAME[@REVISION][:TYPE]`, and say what a pull of it would fetch. Headers are read.

    `embedder` and `drafter`: repositories that have these parts; without them the first one's are taken. TYPE is a type
    of the text model or the path of a file. `name` is the model's, made of the repository's and the type if None.
    Raises InputError, FormatError (parts that do not belong together) and ConversionError (the Hub cannot be read).
    """
    cache: dict[tuple[str, str | None], Repository] = {}

    def repository(given: str) -> tuple[Repository, str | None]:
        match = HUB_ID.fullmatch(given)
        if not match:
            raise InputError(f"{given}: is no Hub id, expected OWNER/NAME or OWNER/NAME:TYPE")
        key = match["repo"], match["revision"]
        cache[key] = cache.get(key) or look_up(*key)
        return cache[key], match["type"]

    first, wanted = repository(source)
    found = candidates(first)
    chosen: dict[str, Planned] = {TEXT: choose_text(first, found, wanted)}
    wished = set() if text_only else {EMBEDDER, *(candidate.architecture for candidate in found)}
    wished -= chosen[TEXT].brings
    for architecture, given, choose in ((EMBEDDER, embedder, choose_embedder), (DRAFTER, drafter, choose_drafter)):
        if given is not None:
            other, kind = repository(given)
            chosen[architecture] = choose(other, candidates(other), kind)
        elif architecture in wished:
            chosen[architecture] = choose(first, found, None)
    return _offer(first, chosen, name or _name(first.name, chosen[TEXT].type))


def _offer(repository: Repository, chosen: Mapping[str, Planned], name: str) -> Offer:
    if safe(name) != name:
        raise InputError(f"name is {name!r}, expected letters, digits, dots, dashes and underscores")
    text = chosen[TEXT]
    expect_text(text.section.path, str(text.section.metadata.get("general.architecture")))
    sections = {key: chosen[key].section for key in ORDER if key in chosen}
    parts = checked_parts(sections, text.joined)
    path = models_folder() / (name + SUFFIX)
    offered, digests = [], []
    for architecture in sections:
        planned = chosen[architecture]
        files = planned.candidate.files
        missing = sum(file.size - _here(file, _place(name, architecture, file)) for file in files)
        offered.append(Offered(architecture, planned.type, files, missing))
        digests += [file.sha256 for file in files]
    record = Record(repository.name, text.type, repository.commit, repository.licence, tuple(digests))
    notes = [planned.misnamed for planned in chosen.values() if planned.misnamed]
    size = max(place_sections(parts).total, text.candidate.size)  # a bundle on the Hub brings more than its text
    held = tuple(sections.values())
    return Offer(name, path, record, tuple(offered), size, tuple(notes), path.exists(), held)


def _name(repo: str, kind: str) -> str:
    """gemma-4-12b-it-Q4_K_M for unsloth/gemma-4-12b-it-GGUF and Q4_K_M."""
    base = repo.partition("/")[2]
    for ending in ("-gguf", "_gguf", ".gguf"):
        base = base[: -len(ending)] if base.lower().endswith(ending) else base
    return safe(base if base.lower().endswith(kind.lower()) else f"{base}-{kind}")


def _place(name: str, architecture: str, file: HubFile) -> Path:
    return hidden_folder(name) / FOLDERS[architecture] / file.name


def _here(file: HubFile, place: Path) -> int:
    """Bytes of a file that are on this disk."""
    for path in (place, partial_path(file, place)):
        with suppress(OSError):
            return min(file.size, path.stat().st_size)
    return 0


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle fits into this machine's memory. `context`: the longest that does, or the shortest there is.

    `needed` and `limit` in bytes; `limit` is what this process may use, None where the system does not tell.
    """

    fits: bool
    context: int
    needed: int
    limit: int | None


def verdict(offer: Offer) -> Verdict:
    """Plan the memory that the bundle will take, from its headers."""
    limit, facts, repacked = memory_limit(), Facts.of(offer.sections), repacked_types()

    def needs(context: int) -> Memory:
        return memory(facts, ContextOptions(context), repacked=repacked)

    room = None if limit is None else usable(limit)
    context = first_that_fits(contexts(facts.limit), needs, room)
    needed = needs(context).total
    return Verdict(room is None or needed <= room, context, needed, limit)


# ── the bundle ───────────────────────────────────────────────────────────────────────────────────────────────────


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
            place = _place(offer.name, part.section, file)
            used |= {place, partial_path(file, place)}
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
            place = _place(offer.name, part.section, file)
            place.parent.mkdir(exist_ok=True)
            if not (place.is_file() and sha256(place) == file.sha256):
                fetch(file, place, report)
            done += file.size
            report(0)


def _packed(offer: Offer, keep: bool, progress: Progress) -> Pulled:
    folder = hidden_folder(offer.name)
    paths = {part.section: _place(offer.name, part.section, part.files[0]) for part in offer.parts}
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
