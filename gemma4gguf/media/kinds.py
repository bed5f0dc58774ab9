"""Say what a file is by its first bytes, which program reads it, and how to make a picture or a clip of it elsewhere.

Bytes come in; a kind goes out, or a clause for an error message. This module opens and decodes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

HEAD_BYTES = 1024  # of a file, enough for every pattern
# How the names of files end that are looked for in a folder or in a line of text. What a file is, its bytes say.
ENDINGS: Mapping[str, Literal["image", "audio", "video"]] = {
    **dict.fromkeys(
        (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"), "image"
    ),
    **dict.fromkeys(
        (".aac", ".aif", ".aiff", ".amr", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma"), "audio"
    ),
    **dict.fromkeys((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"), "video"),
}
EXTRA = "pip install 'gemma4gguf[media]'"

_NO_SOUND = "it has no sound"
_NO_PICTURE = "it has no picture"
_AGAIN = "get the file again"
TO_WAV = "convert it with: ffmpeg -i FILE clip.wav"
_TO_PNG = "convert it with: ffmpeg -i FILE picture.png"
TO_FRAMES = "take pictures from it with: ffmpeg -i FILE -vf fps=1 frame%03d.png"
_AS_VIDEO = f"give it as a video, or {TO_FRAMES}"
_OPEN_FIRST = "decrypt it first"


class Kind(NamedTuple):
    """What a file is.

    `demuxer`: FFmpeg's name of what reads it, which is never left to FFmpeg to guess. `extra`: what our extra makes of
    it, "picture" or "sound". `video`: it may hold pictures that move.
    """

    pattern: bytes  # of the first bytes
    what: str
    as_picture: str  # what to do where a picture was expected
    as_sound: str
    demuxer: str = ""
    extra: Literal["", "picture", "sound"] = ""
    video: bool = False


def _isobmff(brands: bytes) -> bytes:
    """MPEG-4's container, by its main brand."""
    return rb"....ftyp(?:" + brands + rb")"


def _sound(pattern: bytes, what: str, demuxer: str) -> Kind:
    return Kind(pattern, what, _NO_PICTURE, TO_WAV, demuxer, "sound")


def _video(pattern: bytes, what: str, demuxer: str) -> Kind:
    return Kind(pattern, what, _AS_VIDEO, TO_WAV, demuxer, "sound", video=True)


def _ours(pattern: bytes, demuxer: str) -> Kind:
    """Sound that libsndfile reads, but not in every encoding."""
    return Kind(pattern, "sound", "give it as audio", "", demuxer)


# The first that matches counts.
_KINDS = (
    Kind(rb"\Z", "an empty file", _AGAIN, _AGAIN),
    Kind(
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "get it with: git lfs pull",
        "get it with: git lfs pull",
    ),
    Kind(rb"\s*(?i:<!doctype html|<html)", "an HTML page, perhaps in place of a download", _AGAIN, _AGAIN),
    Kind(
        rb"\s*(?:<\?xml.*?)?(?:<!.*?>\s*)*<svg",
        "an SVG drawing",
        "draw it with: rsvg-convert FILE -o picture.png",
        _NO_SOUND,
    ),
    Kind(rb"%PDF.*/Encrypt", "an encrypted PDF", _OPEN_FIRST, _NO_SOUND),
    Kind(
        rb"%PDF",
        "a PDF",
        "take its pages by gemma4gguf.pages(FILE), or with: pdftoppm -png -r 150 FILE page",
        _NO_SOUND,
    ),
    Kind(rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript", "convert it with: gs -sDEVICE=png16m -o picture.png FILE", _NO_SOUND),
    Kind(
        rb"-----BEGIN PGP|age-encryption\.org|Salted__|\x85[\x01\x02]|" + _isobmff(b"M4P |aax |aaxc"),
        "an encrypted file",
        _OPEN_FIRST,
        _OPEN_FIRST,
    ),
    Kind(
        _isobmff(b"hei|hev|mif1|msf1"),
        "a HEIC picture",
        "convert it with: heif-convert FILE picture.png",
        _NO_SOUND,
        "",
        "picture",
    ),
    Kind(_isobmff(b"avif|avis"), "an AVIF picture", _TO_PNG, _NO_SOUND, "", "picture"),
    _sound(_isobmff(b"M4A |M4B "), "an M4A (AAC) sound file", "mov"),
    _video(_isobmff(b"qt  ") + rb"|....(?:moov|mdat|wide)", "a QuickTime video", "mov"),
    _video(_isobmff(b""), "an MP4 file", "mov"),
    _video(rb"\x1aE\xdf\xa3", "a WebM or Matroska file", "matroska"),
    _video(rb"RIFF....AVI ", "an AVI video", "avi"),
    _video(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA or WMV file", "asf"),
    _video(rb"FLV\x01", "a Flash video", "flv"),
    _video(rb"\0\0\x01\xba", "an MPEG video", "mpeg"),
    _video(rb"G.{187}G.{187}G", "an MPEG transport stream", "mpegts"),
    _sound(rb"\xff[\xf0\xf1\xf8\xf9]|ADIF", "an AAC sound file", "aac"),
    _sound(rb"V[\xe0-\xff]", "an AAC sound file", "loas"),
    _sound(rb"#!AMR", "an AMR sound file", "amr"),
    _sound(rb"\x0bw", "an AC-3 sound file", "ac3"),
    _sound(rb"wvpk", "a WavPack sound file", "wv"),
    _sound(rb"TTA1", "a True Audio sound file", "tta"),
    _sound(rb"MAC ", "a Monkey's Audio sound file", "ape"),
    Kind(rb"MThd", "a MIDI file, which holds notes", _NO_PICTURE, "play it into a WAV file first"),
    Kind(rb"\x1f\x8b", "a gzip archive", "unpack it with: gunzip FILE", "unpack it with: gunzip FILE"),
    Kind(rb"PK\x03\x04", "a ZIP archive", "unpack it with: unzip FILE", "unpack it with: unzip FILE"),
    Kind(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|II\*\x00|MM\x00\*|BM", "a picture", "", "give it as an image"),
    _ours(rb"RIFF....WAVE|RIFX....WAVE|RF64", "wav"),
    _ours(rb"OggS", "ogg"),
    _ours(rb"caff", "caf"),
    _ours(rb"FORM....AIF", "aiff"),
    _ours(rb"fLaC|ID3|\xff[\xfb\xf3\xf2\xfa]", ""),
)
_COMPILED = tuple((re.compile(kind.pattern, re.DOTALL), kind) for kind in _KINDS)


def kind_of(head: bytes) -> Kind | None:
    """What the file with these first bytes is, if that is known."""
    return next((kind for pattern, kind in _COMPILED if pattern.match(head)), None)


def recognised(head: bytes, wanted: Literal["picture", "sound"], *, extra: bool = False) -> str:
    """What the file with these first bytes is and what to do, such as "it is a PDF; …"; empty if that is unknown.

    A file that is of the wanted kind, and so is damaged, counts as unknown. `extra`: our extra is installed, so that
    installing it is no cure.
    """
    kind = kind_of(head)
    cure = kind and (kind.as_picture if wanted == "picture" else kind.as_sound)
    if not kind or not cure:
        return ""
    if kind.extra == wanted and not extra:
        cure = f"{EXTRA} lets it be read, or {cure}"
    return f"it is {kind.what}; {cure}"
