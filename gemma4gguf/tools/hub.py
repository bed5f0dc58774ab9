"""List GGUF files on the Hub, read them by range, and download them.

A repository's name comes in. Its files with their sizes and SHA-256 digests go out, then bytes of them, or whole files
on this disk with the right digests. This module uses the Hub's own client and does not know models.

A download that stops leaves NAME.DIGEST.partial, and the next one goes on from there. (The client's own download
begins anew in a new process.)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from converters.origin import hub_errors

from ..bundle.reading import pieces
from ..errors import ConversionError

PIECE = 1 << 20  # bytes written at a time
HEAD = 1 << 16  # bytes read first: the keys before the vocabulary
MOST = 1 << 24  # bytes read ahead at a time
TRIES = 5  # in a row that bring nothing
TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class HubFile:
    """A file in a repository at a commit. `size` in bytes; `sha256` is empty where the Hub knows none."""

    repo: str
    commit: str
    path: str
    size: int
    sha256: str

    @property
    def where(self) -> str:
        return f"{self.repo}/{self.path}"

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Repository:
    """A model repository at a commit. `files`: those asked for. `is_checkpoint`: it has safetensors weights."""

    name: str
    commit: str
    licence: str
    files: tuple[HubFile, ...]
    is_checkpoint: bool


def look_up(name: str, revision: str | None = None, ending: str = ".gguf") -> Repository:
    """Ask the Hub what a repository holds, with the files whose names end like this. Raises InputError (no such
    repository) and ConversionError.
    """
    import huggingface_hub as hub  # here, because it is slow to import

    with hub_errors(name, revision or "", looked_here=False):
        info = hub.HfApi().model_info(name, revision=revision, files_metadata=True)
    commit = str(info.sha or revision or "main")
    siblings = info.siblings or []
    files = tuple(
        HubFile(name, commit, file.rfilename, int(file.size or 0), str(file.lfs.sha256) if file.lfs else "")
        for file in siblings
        if _is_plain(file.rfilename, ending)
    )
    checkpoint = any(file.rfilename.endswith(".safetensors") for file in siblings)
    return Repository(name, commit, _licence(info), files, checkpoint)


def _is_plain(path: str, ending: str) -> bool:
    """A name with this ending that can be a file's on this disk."""
    parts = path.split("/")
    return path.endswith(ending) and path.isprintable() and not {"", ".", ".."} & set(parts) and "\\" not in path


def _licence(info: Any) -> str:
    card = info.card_data.to_dict() if info.card_data else {}
    named = card.get("license_name") or card.get("license")
    tags = (tag.partition(":")[2] for tag in info.tags or [] if tag.startswith("license:"))
    return str(named or next(tags, "") or "not told")


def _errors(file: HubFile) -> AbstractContextManager[None]:
    gone = f"{file.path} is not there any more; run the same command again"
    return hub_errors(file.repo, "", looked_here=False, missing=gone)


# ── by range ─────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _answer(file: HubFile, start: int, stop: int | None = None) -> Iterator[Any]:
    """The Hub's answer to a request for the bytes from `start` to `stop`. From byte 0 where it knows no ranges.

    The client itself does not try again where a connection breaks: who reads knows how far it is.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    url = hf_hub_url(file.repo, file.path, revision=file.commit)
    how: dict[str, Any] = {"headers": headers, "timeout": TIMEOUT, "retry_on_exceptions": ()}
    with http_stream_backoff("GET", url, **how) as response:
        hf_raise_for_status(response)
        yield response


def ranged(file: HubFile, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to `stop`, as they come; where a connection breaks, it goes on there.

    Raises ConversionError.
    """
    from huggingface_hub import errors

    failed = 0
    with _errors(file):
        while start < stop:
            before, reason = start, "the answer was too short"
            try:
                with _answer(file, start, stop) as response:
                    if start and response.status_code != 206:
                        raise ConversionError(f"{file.where}: the server sends no ranges of a file, so no part of it")
                    for piece in response.iter_bytes():
                        start += len(piece)
                        yield piece[: len(piece) - max(0, start - stop)]
                        if start >= stop:
                            return
            except errors.HfHubHTTPError:  # an answer, and a no
                raise
            except errors.HTTPError as error:  # type: ignore[attr-defined]  # of the connection
                reason = str(error)
            failed = 0 if start > before else failed + 1
            if failed == TRIES:
                raise ConversionError(f"{file.where}: {stop - start:,} bytes did not come ({reason}); try again")
            time.sleep(0.5 * failed**2)


class RemoteBytes:
    """The bytes of a file on the Hub, of which only the beginning is read, as far as somebody looks."""

    def __init__(self, file: HubFile) -> None:
        self._file, self._have, self._step = file, b"", HEAD

    def __len__(self) -> int:
        return self._file.size

    def __getitem__(self, where: slice) -> bytes:
        stop = min(self._file.size, where.stop)
        if stop > len(self._have):
            end = max(stop, min(self._file.size, len(self._have) + self._step))
            self._have += b"".join(ranged(self._file, len(self._have), end))
            self._step = min(MOST, 4 * self._step)
        return self._have[where]


# ── as a whole ───────────────────────────────────────────────────────────────────────────────────────────────────


def partial_path(file: HubFile, out: Path) -> Path:
    """Where a download waits that is not finished. Another version of the file has another name."""
    return out.with_name(f"{out.name}.{file.sha256[:16]}.partial")


def fetch(file: HubFile, out: Path, report: Callable[[int], None]) -> None:
    """Download a file, or the rest of it, and check its digest. `report` is told the bytes of it that are here.

    Raises ConversionError; `out` is then not there, and what came stays for the next time unless it was wrong.
    """
    if not file.sha256:
        raise ConversionError(f"{file.where}: the Hub tells no SHA-256 of it; download it and use `gemma4gguf pack`")
    partial = partial_path(file, out)
    with _errors(file):
        try:
            stream = open(partial, "ab", buffering=0)  # noqa: SIM115 (errors of the disk alone are handled here)
        except OSError as error:
            raise _not_written(partial, error) from None
        with stream:
            _append(file, stream, report)
    found = sha256(partial)
    if found != file.sha256:
        partial.unlink()
        raise ConversionError(
            f"{file.where}: its SHA-256 is {found[:16]}…, the Hub says {file.sha256[:16]}…; what came was deleted, "
            "run the same command again"
        )
    partial.replace(out)


def _append(file: HubFile, stream: IO[bytes], report: Callable[[int], None]) -> None:
    from huggingface_hub import errors

    failed = 0
    if stream.tell() > file.size:
        _cut(stream, 0)
    while (before := stream.tell()) < file.size:
        try:
            with _answer(file, before) as response:
                if response.status_code != 206:
                    _cut(stream, 0)
                for piece in response.iter_bytes(PIECE):
                    write_whole(stream, piece[: file.size - stream.tell()])
                    report(stream.tell())
            reason: object = "the answer was too short"
        except errors.HfHubHTTPError:  # an answer, and a no
            raise
        except errors.HTTPError as error:  # type: ignore[attr-defined]  # of the connection
            reason = error
        failed = 0 if stream.tell() > before else failed + 1
        if failed == TRIES:
            raise ConversionError(
                f"{file.where}: stopped at {stream.tell():,} of {file.size:,} bytes ({reason}); "
                "run the same command again, it goes on there"
            )
        time.sleep(0.5 * failed**2)


def write_whole(stream: IO[bytes], piece: bytes) -> None:
    """Write all of it. Raises ConversionError where the disk does not take it."""
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except OSError as error:
        raise _not_written(Path(stream.name), error) from None


def _not_written(path: Path, error: OSError) -> ConversionError:
    return ConversionError(
        f"{path}: writing failed ({error.strerror or error}); make room and run the same command again, it goes on "
        "where it stopped"
    )


def _cut(stream: IO[bytes], size: int) -> None:
    stream.seek(size)
    stream.truncate()


def sha256(path: Path) -> str:
    """The file's digest in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in pieces(stream, 0, path.stat().st_size):
            sha.update(piece)
    return sha.hexdigest()
