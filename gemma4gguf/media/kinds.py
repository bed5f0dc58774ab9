"""Say what a file is that is no picture or no sound, by its first bytes, and how to make one of it.

Bytes that a decoder has refused come in; a clause for an error message goes out. This module opens and decodes nothing.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

HEAD_BYTES = 1024  # of a file, enough for every pattern

_NO_SOUND = "it has no sound"
_NO_PICTURE = "it has no picture"
_AGAIN = "get the file again"
_TO_WAV = "convert it with: ffmpeg -i FILE clip.wav"
_FRAMES = "take pictures from it with: ffmpeg -i FILE -vf fps=1 frame%03d.png"
_OPEN_FIRST = "decrypt it first"


class _Kind(NamedTuple):
    pattern: bytes  # of the first bytes
    what: str
    as_picture: str  # what to do where a picture was expected
    as_sound: str


def _isobmff(brands: bytes) -> bytes:
    """MPEG-4's container, by its main brand."""
    return rb"....ftyp(?:" + brands + rb")"


# The first that matches counts.
_KINDS = (
    _Kind(rb"\Z", "an empty file", _AGAIN, _AGAIN),
    _Kind(rb"version https://git-lfs", "a Git LFS pointer, not the file itself", *["get it with: git lfs pull"] * 2),
    _Kind(rb"\s*(?i:<!doctype html|<html)", "an HTML page, perhaps in place of a download", _AGAIN, _AGAIN),
    _Kind(
        rb"\s*(?:<\?xml.*?)?(?:<!.*?>\s*)*<svg",
        "an SVG drawing",
        "draw it with: rsvg-convert FILE -o picture.png",
        _NO_SOUND,
    ),
    _Kind(rb"%PDF.*/Encrypt", "an encrypted PDF", _OPEN_FIRST, _NO_SOUND),
    _Kind(rb"%PDF", "a PDF", "make pictures of its pages with: pdftoppm -png -r 150 FILE page", _NO_SOUND),
    _Kind(
        rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript", "convert it with: gs -sDEVICE=png16m -o picture.png FILE", _NO_SOUND
    ),
    _Kind(
        rb"-----BEGIN PGP|age-encryption\.org|Salted__|\x85[\x01\x02]|" + _isobmff(b"M4P |aax |aaxc"),
        "an encrypted file",
        *[_OPEN_FIRST] * 2,
    ),
    _Kind(
        _isobmff(b"hei|hev|mif1|msf1"), "a HEIC picture", "convert it with: heif-convert FILE picture.png", _NO_SOUND
    ),
    _Kind(_isobmff(b"avif|avis"), "an AVIF picture", "convert it with: ffmpeg -i FILE picture.png", _NO_SOUND),
    _Kind(_isobmff(b"M4A |M4B "), "an M4A (AAC) sound file", _NO_PICTURE, _TO_WAV),
    _Kind(_isobmff(b"qt  "), "a QuickTime video", _FRAMES, _TO_WAV),
    _Kind(_isobmff(b""), "an MP4 file", _FRAMES, _TO_WAV),
    _Kind(rb"\x1aE\xdf\xa3", "a WebM or Matroska file", _FRAMES, _TO_WAV),
    _Kind(rb"RIFF....AVI ", "an AVI video", _FRAMES, _TO_WAV),
    _Kind(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA or WMV file", _FRAMES, _TO_WAV),
    _Kind(rb"\xff[\xf0\xf1\xf8\xf9]|ADIF", "an AAC sound file", _NO_PICTURE, _TO_WAV),
    _Kind(rb"#!AMR", "an AMR sound file", _NO_PICTURE, _TO_WAV),
    _Kind(rb"MThd", "a MIDI file, which holds notes", _NO_PICTURE, "play it into a WAV file first"),
    _Kind(rb"\x1f\x8b", "a gzip archive", *["unpack it with: gunzip FILE"] * 2),
    _Kind(rb"PK\x03\x04", "a ZIP archive", *["unpack it with: unzip FILE"] * 2),
    _Kind(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|II\*\x00|MM\x00\*|BM", "a picture", "", "give it as an image"),
    _Kind(rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xfb\xf3\xf2\xfa]|FORM....AIF", "sound", "give it as audio", ""),
)
_COMPILED = tuple((re.compile(kind.pattern, re.DOTALL), kind) for kind in _KINDS)


def recognised(head: bytes, wanted: Literal["picture", "sound"]) -> str:
    """What the file with these first bytes is and what to do, such as "it is a PDF; …"; empty if that is unknown.

    A file that is of the wanted kind, and so is damaged, counts as unknown.
    """
    kind = next((kind for pattern, kind in _COMPILED if pattern.match(head)), None)
    cure = kind and (kind.as_picture if wanted == "picture" else kind.as_sound)
    return f"it is {kind.what}; {cure}" if kind and cure else ""
