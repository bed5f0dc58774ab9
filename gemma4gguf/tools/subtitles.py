"""Transcripts as files of text and subtitles.

Segments come in; one text goes out. Opens nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads FORMATS for its help, which does without numpy
    from ..transcription import Segment

UNCLEAR = "[unclear]"


def words(segment: Segment) -> str:
    """What is said, marked where it is doubtful."""
    return f"{UNCLEAR} {segment.text}".strip() if segment.doubt else segment.text


def clock(seconds: float, point: str = ".") -> str:
    """A time as subtitles have it: `hh:mm:ss.mmm`."""
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}{point}{whole % 1000:03d}"


def _txt(segments: Sequence[Segment]) -> str:
    return "".join(f"{words(s)}\n" for s in segments)


def _srt(segments: Sequence[Segment]) -> str:
    blocks = (
        f"{number}\n{clock(s.start, ',')} --> {clock(s.end, ',')}\n{words(s)}\n" for number, s in enumerate(segments, 1)
    )
    return "\n".join(blocks)


def _vtt(segments: Sequence[Segment]) -> str:
    def escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    blocks = (f"{clock(s.start)} --> {clock(s.end)}\n{escaped(words(s))}\n" for s in segments)
    return "\n".join(["WEBVTT\n", *blocks])


def _tsv(segments: Sequence[Segment]) -> str:
    rows = (f"{round(s.start * 1000)}\t{round(s.end * 1000)}\t{words(s)}\n" for s in segments)
    return "".join(["start\tend\ttext\n", *rows])


def _json(segments: Sequence[Segment]) -> str:
    whole = {"text": " ".join(filter(None, map(words, segments))), "segments": [asdict(s) for s in segments]}
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Sequence[Segment]], str]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "json": _json,
    "tsv": _tsv,
}
