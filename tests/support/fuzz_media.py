"""Areas of `scripts/fuzz`: pictures and clips of every format that can be made here, their bytes changed."""

from __future__ import annotations

import io
import random
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from gemma4gguf.media.audio import LOUDEST, frame
from gemma4gguf.media.image import patchify
from gemma4gguf.media.rgb import FORMATS

from . import forkserver
from .fuzzing import Case, batched

SOUND = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "SDS", "VOC", "SVX", "IRCAM")
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I", "I;16", "F", "CMYK", "YCbCr", "LAB")
Options = dict[str, Any]
OPTIONS: tuple[tuple[str, Options], ...] = (  # (format, what it is saved with), besides the plain file in each mode
    ("JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
    ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
    ("GIF", {"save_all": True, "append_images": [Image.new("P", (9, 9), 3)], "transparency": 1}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"save_all": True, "append_images": [Image.new("RGB", (40, 30), 3)]}),
    *(("TIFF", {"compression": c}) for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "lzma")),
    ("TIFF", {"big_tiff": True}),
    ("PNG", {"pnginfo": None, "icc_profile": bytes(200), "optimize": True}),
    ("JPEG2000", {"num_resolutions": 3, "irreversible": True}),
)


Seed = tuple[Callable[[bytes], str], bytes]  # what reads a file, and the file


def pictures(folder: Path) -> Case:
    """A picture's file, read and cut into patches, in a fork."""
    return media(folder, [(seen, data) for data in _pictures()])


def clips(folder: Path) -> Case:
    """A clip's file, read and cut into frames, in a fork."""
    return media(folder, [(heard, data) for data in _clips()])


def media(folder: Path, seeds: Sequence[Seed]) -> Case:
    """Such files, each changed and read in a fork."""
    log = folder / "stderr"
    whole = [forkserver.run(partial(read, data), log) for read, data in seeds]  # a few are of kinds that are refused
    usual = max((outcome for outcome in whole if outcome.kind == "clean"), key=lambda outcome: outcome.memory)

    def made(seed: int, number: int) -> tuple[str, Callable[[], str]]:
        dice = random.Random(f"{seed}/{number}")
        chosen = dice.randrange(len(seeds))
        read, data = seeds[chosen]
        return f"seed file {chosen}", partial(read, damaged(data, dice))

    return batched(made, log, usual)


def seen(data: bytes) -> str:
    patches = patchify(data, 70)
    assert 0 < len(patches) <= 70
    assert 0 <= patches.pixels.min() <= patches.pixels.max() <= 1
    return f"{patches.width} x {patches.height}"


def heard(data: bytes) -> str:
    frames = frame(data)
    assert frames.size
    assert np.isfinite(frames).all()
    assert np.abs(frames).max() <= 2 * LOUDEST  # resampling overshoots
    return f"{len(frames)} frames"


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Bytes overwritten, put in, taken out, numbers put in their place, the end cut off; checksums mended or not."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 8, 30))):
        at = dice.randrange(min(len(out), dice.choice((64, 512, 1 << 20)))) if out else 0
        number = dice.choice((0, 1, 255, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, dice.getrandbits(32)))
        size = dice.choice((1, 2, 4))
        new = (number % (1 << 8 * size)).to_bytes(size, "little")[:: dice.choice((1, -1))]
        kept = dice.choices((size, 0, dice.randrange(64)), (8, 1, 1))[0]
        out[at : at + kept] = b"" if kept > size else new
    if dice.random() < 0.1:
        del out[dice.randrange(len(out) + 1) :]
    return _mended(bytes(out)) if dice.random() < 0.8 else bytes(out)


def _mended(data: bytes) -> bytes:
    """With right checksums, where decoders look at them first: PNG's and Ogg's."""
    out = bytearray(data)
    if data[:4] == b"\x89PNG":
        at = 8
        while at + 12 <= len(out):
            end = at + 8 + int.from_bytes(out[at : at + 4], "big")
            out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big") if end + 4 <= len(out) else b""
            at = end + 4
    at = data.find(b"OggS")
    while at >= 0:
        end = data.find(b"OggS", at + 4)
        page = bytearray(out[at : end if end > 0 else len(out)])
        page[22:26] = bytes(4)
        out[at + 22 : at + 26] = _ogg_sum(page).to_bytes(4, "little")
        at = end
    return bytes(out)


def _table() -> Iterator[int]:
    for value in range(256):
        rest = value << 24
        for _ in range(8):
            rest = (rest << 1) ^ (0x104C11DB7 if rest >> 31 else 0)
        yield rest


_OGG = tuple(_table())


def _ogg_sum(page: bytes | bytearray) -> int:
    rest = 0
    for byte in page:
        rest = (rest << 8 & 0xFFFF_FFFF) ^ _OGG[rest >> 24 ^ byte]
    return rest


def _pictures() -> Iterator[bytes]:
    Image.init()
    noise = np.random.default_rng(1).integers(0, 256, (30, 40, 4), np.uint8)
    noise[:, 20:] = 90
    whole = Image.fromarray(noise)
    plain: list[tuple[str, str, Options]] = [(kind, mode, {}) for kind in FORMATS for mode in MODES]
    for kind, mode, options in [*plain, *((kind, mode, o) for kind, o in OPTIONS for mode in ("RGB", "L", "1"))]:
        file = io.BytesIO()
        try:
            image = whole.convert(mode) if mode != "LAB" else Image.merge("LAB", whole.split()[:3])
            image.save(file, kind, **options)
        except (KeyError, OSError, ValueError, AttributeError, TypeError):  # a format without this mode
            continue
        yield file.getvalue()


def _clips() -> Iterator[bytes]:
    sound = np.sin(np.linspace(0, 300, 2400))[:, None] * [0.5, 0.25]
    for kind in SOUND:
        for subtype in soundfile.available_subtypes(kind):
            for channels, rate in ((1, 16_000), (2, 44_100), (1, 8_000)):
                file = io.BytesIO()
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        soundfile.write(file, sound[:, :channels], rate, subtype, format=kind)
                except (soundfile.SoundFileError, ValueError, TypeError):  # not with so many channels, or not in memory
                    continue
                if file.getvalue():
                    yield file.getvalue()
