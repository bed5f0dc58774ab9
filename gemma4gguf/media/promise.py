"""How much sound a file's header promises, where libsndfile believes the file's size instead.

A WAV, AIFF or AU file comes in; the place and the stated length of its samples go out. Nothing is decoded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Literal

_MOST_CHUNKS = 1000
_UNKNOWN = 0x7FFF_0000  # bytes; programs that write into a pipe state lengths from here to 0xFFFF_FFFF
# A chunk that may follow a clip without samples. Anything else behind a length of 0 is sound: the recorder has died.
_AFTER_DATA = frozenset({b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"fact", b"JUNK", b"junk", b"PEAK", b"smpl"})


@dataclass(frozen=True)
class Promise:
    """Where samples begin in a file, and how many bytes of them there are by its header (None: it does not say).

    `length_at`: where the header states it, in 4 bytes of `order`.
    """

    start: int
    stated: int | None
    length_at: int
    order: Literal["little", "big"]


def promise(file: IO[bytes]) -> Promise | None:
    """Read a header from the file's beginning; None for other formats, and where no samples are stated."""
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        return _chunks(file, b"data", 0, "big" if head[:4] == b"RIFX" else "little")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _chunks(file, b"SSND", 8, "big")  # two numbers stand before the samples
    if head[:4] == b".snd":
        return _found(file, int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big"), 8, "big")
    return None


def _chunks(file: IO[bytes], wanted: bytes, before: int, order: Literal["little", "big"]) -> Promise | None:
    at, long = 12, None
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], order)
        if len(head) < 8:
            break
        if head[:4] == b"ds64":  # RF64: 64-bit lengths of the file and of the samples
            long = int.from_bytes(file.read(16)[8:], "little")
        if head[:4] == wanted:
            length = long if long is not None and length == 0xFFFF_FFFF else max(0, length - before)
            return _found(file, at + 8 + before, length, at + 4, order)
        at += 8 + length + length % 2
    return None


def _found(file: IO[bytes], start: int, length: int, length_at: int, order: Literal["little", "big"]) -> Promise | None:
    if length == 0:
        file.seek(start)
        if file.read(4) in {b"", *_AFTER_DATA}:
            return None  # truly empty
    unknown = length == 0 or _UNKNOWN <= length <= 0xFFFF_FFFF
    return Promise(start, None if unknown else length, length_at, order)
