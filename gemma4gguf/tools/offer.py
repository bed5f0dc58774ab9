"""Look at a published model and say what a pull of it would fetch and make.

A repository's name comes in. An `Offer` goes out: the files, their sizes, the licence, and what the bundle will be.
Only headers are read; they are checked as `pack` checks them. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle.finding import HUB_ID, SUFFIX, Record, hidden_folder, models_folder
from ..bundle.reading import DRAFTER, EMBEDDER, ORDER, TEXT, Section, expect_text
from ..bundle.writing import place_sections
from ..errors import InputError
from ..machine import memory_limit
from ..native.context import ContextOptions
from ..native.library import repacked_types
from ..runtime.memory import Facts, Memory, memory
from ..runtime.room import contexts, first_that_fits, usable
from .hub import HubFile, Repository, look_up, partial_path
from .hub_parts import Planned, candidates, choose_drafter, choose_embedder, choose_text
from .layouts import safe
from .pack import checked_parts

FOLDERS = {TEXT: "text", EMBEDDER: "embedder", DRAFTER: "drafter"}  # of a model's parts, in its hidden folder


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
    return _offer(first, chosen, name.removesuffix(SUFFIX) if name else _name(first.name, chosen[TEXT].type))


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
        missing = sum(file.size - _here(file, place(name, architecture, file)) for file in files)
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


def place(name: str, architecture: str, file: HubFile) -> Path:
    """Where a file of a model's part is kept until the bundle is made."""
    return hidden_folder(name) / FOLDERS[architecture] / file.name


def _here(file: HubFile, whole: Path) -> int:
    """Bytes of a file that are on this disk."""
    for path in (whole, partial_path(file, whole)):
        with suppress(OSError):
            return min(file.size, path.stat().st_size)
    return 0


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


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
