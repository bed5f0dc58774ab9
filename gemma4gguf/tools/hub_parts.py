"""Recognise the files of a repository that make a bundle, by their headers, whatever they are called.

The GGUF files of a repository come in; one candidate for each section goes out, with its header. A name tells only the
type that a file holds, because nothing in a header tells Q4_K_M from Q4_K_L.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath

from gguf import GGMLQuantizationType as T
from gguf import LlamaFileType

from ..bundle import split
from ..bundle.container import leading_keys, read_header
from ..bundle.reading import DRAFTER, EMBEDDER, NAMES, TEXT, Section, check_unsplit, listed_sections
from ..bundle.settings import file_type
from ..bundle.writing import Part, part_of, planned_section
from ..errors import FormatError, InputError
from .hub import HEAD, HubFile, RemoteBytes, Repository

DEFAULT_TYPES = ("Q4_K_M", "Q4_0", "UD-Q4_K_XL", "Q5_K_M", "Q8_0", "BF16")  # of a text model, the first that is there
FILE_TYPES = {file_type(kind) for kind in LlamaFileType}  # those that a header can tell
READERS = 8  # headers read at a time
DRAFTER_TYPES = ("Q8_0", "BF16", "F16", "F32")
_TYPE = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4))$", re.I
)
# The embedder is exact in BF16, as it was trained, and in F32; each further type loses more.
_LOSS = {T.BF16: 0, T.F32: 0, T.F16: 1, T.Q8_0: 2}
_MORE_LOSS = 3


@dataclass(frozen=True)
class Candidate:
    """A file, or the files of a split text model, in order. `type` is what its name tells of its type, or empty."""

    architecture: str
    files: tuple[HubFile, ...]
    type: str

    @property
    def where(self) -> str:
        return self.files[0].where

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def candidates(repository: Repository) -> list[Candidate]:
    """Everything in a repository that may be a section. Adapters, importance matrices and the like are left out."""
    groups = list(_groups(repository.files))
    with ThreadPool(READERS) as pool:  # its threads are daemons: an interrupt waits for no answer
        heads = pool.map(lambda files: leading_keys(RemoteBytes(files[0])[:HEAD]), groups)
    found = []
    for files, keys in zip(groups, heads, strict=True):
        architecture, kind = keys.get("general.architecture"), keys.get("general.type", "model")
        if isinstance(architecture, str) and kind in ("model", "mmproj"):
            found.append(Candidate(architecture, files, _named_type(files[0].path)))
    return found


def _groups(files: Sequence[HubFile]) -> Iterator[tuple[HubFile, ...]]:
    """Files one by one, those of a split model together."""
    by_path = {file.path: file for file in sorted(files, key=lambda file: file.path)}
    for path in by_path:
        names = [str(PurePosixPath(path).with_name(name)) for name in split.siblings(PurePosixPath(path).name)]
        there = tuple(by_path[name] for name in names if name in by_path) or (by_path[path],)
        if there[0].path == path:
            yield there


def _named_type(path: str) -> str:
    """The type that a file's name ends with, or that of its folder: Q4_K_M for x-Q4_K_M-00001-of-00002.gguf."""
    whole = PurePosixPath(path)
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", whole.stem)
    match = _TYPE.search(stem) or _TYPE.search(whole.parent.name)
    return match[1].upper().replace("FP", "F") if match else ""


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Planned:
    """A section as its header on the Hub tells it. `joined` is the part that joins a split text model."""

    candidate: Candidate
    section: Section
    joined: Part | None

    @property
    def part(self) -> Part:
        return self.joined or part_of(self.section)

    @property
    def type(self) -> str:
        """The text model's and the drafter's by its name, where that tells one; the embedder's by its header: its name
        often tells the text model's.
        """
        told = (self.candidate.type, self._told)
        first, second = reversed(told) if self.candidate.architecture == EMBEDDER else told
        return first or second or "unknown"

    @property
    def _told(self) -> str | None:
        return file_type(self.section.metadata.get("general.file_type"))

    @property
    def brings(self) -> set[str]:
        """The other sections in the file of a text model: those that a bundle names, if anything follows its text."""
        alone = self.joined or self.candidate.size <= self.section.header.end
        return set() if alone else set(listed_sections(self.section))

    @property
    def misnamed(self) -> str:
        """A line for people where the name tells another type than the header; empty where all is well."""
        named, told = self.candidate.type, self._told
        if named not in FILE_TYPES or told in (None, named) or self.candidate.architecture == EMBEDDER:
            return ""
        return f"{self.candidate.where}: its name says {named}, its header {told}"


def read_planned(candidate: Candidate) -> Planned:
    """Read a candidate's headers from the Hub, some megabytes of a text model. Raises FormatError, ConversionError."""
    sections = []
    for file in candidate.files:
        header = read_header(RemoteBytes(file), 0, file.where)
        sections.append(Section(Path(file.where), candidate.architecture, 0, header.end, header))
    if len(sections) == 1:
        check_unsplit(sections[0].path, sections[0].metadata)
        return Planned(candidate, sections[0], None)
    joined = split.join(sections)
    return Planned(candidate, planned_section(joined, sections[0].path), joined)


# ── choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def choose_text(repository: Repository, found: Sequence[Candidate], wanted: str | None) -> Planned:
    """The text model of type `wanted`, which may also be a file's path; of the usual type where it is None."""
    chosen = _of_type(repository, _of(repository, found, TEXT), wanted, DEFAULT_TYPES)
    if chosen is None:
        types = ", ".join(sorted({c.type or c.files[0].path for c in found if c.architecture == TEXT}))
        what = f"no text model of type {wanted}" if wanted else "several text models"
        raise InputError(f"{repository.name}: has {what}; there are {types}: add :TYPE to the name")
    return chosen


def choose_drafter(repository: Repository, found: Sequence[Candidate], wanted: str | None) -> Planned:
    """The drafter of type `wanted`, else the one that the converter would make, else the largest."""
    there = sorted(_of(repository, found, DRAFTER), key=lambda c: -c.size)
    chosen = _of_type(repository, there, wanted, DRAFTER_TYPES)
    if chosen is None and wanted:
        types = ", ".join(sorted({c.type or c.files[0].path for c in there}))
        raise InputError(f"{repository.name}: has no MTP drafter of type {wanted}; there are {types}")
    return chosen or read_planned(there[0])


def choose_embedder(repository: Repository, found: Sequence[Candidate], wanted: str | None) -> Planned:
    """The embedder that loses least: BF16 before F16, whatever the names say. `wanted` is a type or a file's path."""
    read = [read_planned(candidate) for candidate in _of(repository, found, EMBEDDER)]
    if wanted:
        read = [planned for planned in read if _is(planned.candidate, wanted)]
        if not read:
            raise InputError(f"{repository.name}: has no multimodal embedder of type {wanted}")

    def loss(planned: Planned) -> tuple[int, int]:
        types = {info.type for info in planned.section.tensors.values()}
        return max((_LOSS.get(kind, _MORE_LOSS) for kind in types), default=0), planned.candidate.size

    return min(read, key=loss)


def _of(repository: Repository, found: Sequence[Candidate], architecture: str) -> list[Candidate]:
    there = [candidate for candidate in found if candidate.architecture == architecture]
    if there:
        return there
    what = NAMES[architecture]
    if repository.is_checkpoint and not repository.files:
        raise InputError(
            f"{repository.name}: is a checkpoint without GGUF files; `gemma4gguf convert {repository.name}` makes a "
            "bundle of it"
        )
    others = sorted({NAMES.get(candidate.architecture, candidate.architecture) for candidate in found})
    seen = (
        f"its {len(repository.files)} GGUF files hold {', '.join(others)}" if others else "it has no GGUF file of one"
    )
    cure = "; give embedder= a repository that has one, or text_only=True" if architecture == EMBEDDER else ""
    raise FormatError(f"{repository.name}: has no {what} (architecture {architecture!r}): {seen}{cure}")


def _is(candidate: Candidate, wanted: str) -> bool:
    wanted = wanted.lower()
    paths = {file.path.lower() for file in candidate.files} | {file.name.lower() for file in candidate.files}
    return wanted in paths or candidate.type.lower() in (wanted, f"ud-{wanted}")


def _of_type(
    repository: Repository, there: Sequence[Candidate], wanted: str | None, usual: Sequence[str]
) -> Planned | None:
    """The candidate of the type, the usual one where none is wanted, the only one where there is one; else None."""
    if wanted:
        exact = [c for c in there if _is(c, wanted) and c.type.lower() != f"ud-{wanted.lower()}"]
        matching = exact or [c for c in there if _is(c, wanted)]
    elif len(there) == 1:
        matching = list(there)
    else:
        matching = next(filter(None, ([c for c in there if c.type == kind] for kind in usual)), [])
    if len(matching) > 1:
        paths = " and ".join(c.files[0].path for c in matching)
        raise InputError(f"{repository.name}: {paths} are of one type; name the file: {repository.name}:FILE")
    if matching:
        return read_planned(matching[0])
    unnamed = [read_planned(c) for c in there if not c.type] if wanted else []
    return next((planned for planned in unnamed if planned.type.lower() == str(wanted).lower()), None)
