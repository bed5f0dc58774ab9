"""A GGUF on the Hub, of which only a part is fetched: a file of its size here, with holes, and a list of what is there.

In: a file on the Hub, and ranges of it. Out: a local path that can be read where it was filled. What came stays: a run
that was ended goes on. Knows nothing of what the bytes mean but where headers end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..bundle.container import padded, read_header
from ..bundle.finding import hidden_folder
from ..bundle.reading import SECTION_ALIGNMENT
from ..errors import InputError
from .hub import HubFile, look_up, ranged, write_whole

Range = tuple[int, int]  # start, stop
SCHEME = "hub:"
_NAME = re.compile(r"hub:(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w.-]+))?/(?P<path>.+\.gguf)")
STEP = 1 << 20  # bytes that are fetched beyond what is asked for: a header is read piece by piece


def find(name: str) -> HubFile:
    """The file that `hub:OWNER/NAME/PATH` or `hub:OWNER/NAME@REVISION/PATH` means.

    Raises InputError where there is none, and ConversionError.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name}: expected {SCHEME}OWNER/NAME/FILE.gguf")
    files = look_up(match["repo"], match["revision"]).files
    found = next((file for file in files if file.path == match["path"]), None)
    if found is None:
        there = ", ".join(file.path for file in files) or "none"
        raise InputError(f"{name}: no such file; its GGUF files: {there}")
    return found


class Mirror:
    """A file here that has some ranges of one on the Hub. `fetched`: bytes that came in this run."""

    def __init__(self, file: HubFile, folder: Path | None = None) -> None:
        """`folder`: where it lies; None: one of its own, beside the models."""
        folder = folder or hidden_folder("mirrors") / (file.sha256 or file.commit)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.path, self.fetched = file, folder / file.name, 0
        self._record = self.path.with_name(f"{file.name}.ranges")
        self._there = _read(self._record) if self.path.exists() else []
        self._record.write_text("".join(f"{start} {stop}\n" for start, stop in self._there))
        with self.path.open("ab") as stream:
            stream.truncate(file.size)

    def __len__(self) -> int:
        return self.file.size

    def __getitem__(self, where: slice) -> bytes:
        """Bytes, which are fetched where they lack, with some after them."""
        start, stop = where.start or 0, min(len(self), where.stop)
        if any(gaps(self._there, start, stop)):
            self.fetch([(start, min(len(self), max(stop, start + STEP)))])
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(max(0, stop - start))

    @property
    def held(self) -> int:
        """Bytes that are here."""
        return sum(stop - start for start, stop in self._there)

    def fetch(self, wanted: Iterable[Range], report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Fetch what lacks of some ranges. `report` is told (done, in all) bytes. Raises ConversionError.

        A range is noted once its bytes are in the file.
        """
        missing = [gap for start, stop in joined(wanted) for gap in gaps(self._there, start, stop)]
        total, done = sum(stop - start for start, stop in missing), 0
        with self.path.open("r+b", buffering=0) as stream, self._record.open("a", buffering=1) as record:
            for start, stop in missing:
                stream.seek(start)
                for piece in ranged(self.file, start, stop):
                    write_whole(stream, piece)
                    record.write(f"{start} {start + len(piece)}\n")
                    self._there = joined([*self._there, (start, start + len(piece))])
                    start += len(piece)
                    done += len(piece)
                    self.fetched += len(piece)
                    report(done, total)

    def fetch_headers(self) -> None:
        """Fetch the header of every section. Raises FormatError where there is none, and ConversionError."""
        start = 0
        while start < len(self):
            header = read_header(_Ahead(self), start, self.file.where)
            start = padded(header.end, SECTION_ALIGNMENT)


class _Ahead:
    """A mirror's bytes for a reader that takes many small pieces: those around the last one are kept."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self._start, self._have = mirror, 0, b""

    def __len__(self) -> int:
        return len(self._mirror)

    def __getitem__(self, where: slice) -> bytes:
        stop = min(len(self), where.stop)
        if where.start < self._start or stop > self._start + len(self._have):
            self._start = where.start
            self._have = self._mirror[where.start : max(stop, where.start + STEP)]
        return self._have[where.start - self._start : stop - self._start]


# ── ranges ───────────────────────────────────────────────────────────────────────────────────────────────────────


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes as few ranges, in order."""
    out: list[Range] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(stop, out[-1][1])
        else:
            out.append((start, stop))
    return out


def gaps(there: Sequence[Range], start: int, stop: int) -> Iterator[Range]:
    """What lacks between `start` and `stop`, where `there` are joined."""
    for begin, end in there:
        if begin > start and start < stop:
            yield start, min(begin, stop)
        start = max(start, end)
    if start < stop:
        yield start, stop


def _read(record: Path) -> list[Range]:
    """What a record notes. A line that was cut off by a crash is no range."""
    found = []
    with suppress(OSError):
        for line in record.read_text("ascii", "replace").splitlines(keepends=True):
            if match := re.fullmatch(r"(\d+) (\d+)\n", line):
                found.append((int(match[1]), int(match[2])))
    return joined(found)
