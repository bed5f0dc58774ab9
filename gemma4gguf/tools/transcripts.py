"""Write a transcript to a file, so that a run that was ended goes on where it stopped.

A model, a sound file and a path come in; the file appears when it is complete. Until then each segment is kept in a
hidden file beside it, which belongs to one sound, one model and one set of options. Does not know the command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from typing_extensions import Unpack

from ..bundle.newfile import check_output, lock, new_file
from ..errors import InputError
from ..model import Gemma4
from ..transcription import Segment, TranscribeOptions
from .hub import sha256
from .subtitles import FORMATS


def transcribe_file(
    model: Gemma4, sound: Path, out: Path, form: str, *, force: bool = False, **options: Unpack[TranscribeOptions]
) -> Generator[Segment, None, None]:
    """Segments of `sound`, those of an earlier run first; after the last one, `out` is there in the format `form`.

    Raises ConversionError where `out` exists or cannot be written, InputError for unusable sound.
    """
    check_output(out, 0, force=force)
    kept = out.with_name(f".{out.name}.progress")
    key = _key(model, sound, options)
    with open(kept, "a+b") as file:
        lock(file, out, "transcription")
        segments = _kept(file, key)
        yield from segments
        options["done"] = tuple(segments)
        for segment in model.transcribe(sound, **options):
            _append(file, asdict(segment))
            segments.append(segment)
            yield segment
        data = FORMATS[form](segments).encode()
        with new_file(out, len(data), force=force) as whole:
            whole.write(data)
        kept.unlink()


def _key(model: Gemma4, sound: Path, options: TranscribeOptions) -> str:
    """What an unfinished transcript belongs to."""
    try:
        content = sha256(sound)
    except OSError as error:
        raise InputError(f"{sound}: {error.strerror or error}") from error
    state = model.bundle.path.stat()
    told = {name: value for name, value in options.items() if name not in ("on_progress", "done")}
    return f"{content} {state.st_size} {state.st_mtime_ns} {json.dumps(told, sort_keys=True)}"


def _kept(file: IO[bytes], key: str) -> list[Segment]:
    """The segments of an earlier run; none, and a new beginning, where the file belongs to something else."""
    file.seek(0)
    lines = file.read().split(b"\n")
    segments: list[Segment] = []
    end = len(lines[0]) + 1
    try:
        if len(lines) < 2 or json.loads(lines[0]) != {"key": key}:
            raise ValueError
        for line in lines[1:-1]:  # the last one ends where the run was ended
            segments.append(Segment(**json.loads(line)))
            end += len(line) + 1
    except (ValueError, TypeError):
        if not segments:
            file.truncate(0)
            _append(file, {"key": key})
            return []
    file.truncate(end)
    return segments


def _append(file: IO[bytes], record: dict[str, Any]) -> None:
    file.seek(0, os.SEEK_END)
    file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    file.flush()
