"""Picture and sound files as people have them: odd headers are read, other kinds named with their cure."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import ExifTags, Image

from gemma4gguf.errors import InputError
from gemma4gguf.limits import Limits
from gemma4gguf.media.audio import SAMPLE_RATE, AudioWarning, frame
from gemma4gguf.media.image import patchify
from gemma4gguf.media.kinds import recognised
from gemma4gguf.media.png import without_large_texts
from gemma4gguf.media.rgb import to_rgb
from tests.support.pictures import RED, WHITE, encoded, png, values

MEGABYTE = 1 << 20
SIDE = int((Limits().picture_bytes // 10) ** 0.5) + 1  # of a square picture just over the limit

# ── PNG with large texts and profiles ────────────────────────────────────────────────────────────────────────────


def ztxt(size: int) -> tuple[bytes, bytes]:
    return b"zTXt", b"workflow\0\0" + zlib.compress(bytes(size))


def itxt(text: bytes, compressed: bool) -> tuple[bytes, bytes]:
    head = b"XML:com.adobe.xmp\0" + (b"\1" if compressed else b"\0") + b"\0\0\0"
    return b"iTXt", head + (zlib.compress(text) if compressed else text)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
exif = Image.Exif()
exif[ExifTags.Base.Orientation] = 6
HEAVY: dict[str, list[tuple[bytes, bytes]]] = {
    "a compressed text": [ztxt(8 * MEGABYTE)],
    "an international one": [itxt(bytes(8 * MEGABYTE), True)],
    "a colour profile": [(b"iCCP", b"profile\0\0" + zlib.compress(bytes(8 * MEGABYTE)))],
    "many texts below the limit": [ztxt(MEGABYTE - 1)] * 70,
    "one beside a plain text": [(b"tEXt", b"Comment\0hello"), ztxt(8 * MEGABYTE)],
    "plain texts over the limit": [(b"tEXt", b"a\0" + b"b" * MEGABYTE)] * 70,
    "behind a transparent value": [(b"tRNS", struct.pack(">HHH", 0, 0, 255)), ztxt(8 * MEGABYTE)],
}


def two_pixels(*chunks: tuple[bytes, bytes]) -> bytes:
    """Red and blue, side by side."""
    return png(2, 1, 8, 2, b"\0\xff\0\0\0\0\xff", *chunks)


@pytest.mark.parametrize("name", HEAVY)
def test_a_picture_with_large_texts_is_read(name: str) -> None:
    blue = WHITE if "transparent" in name else (0, 0, 255)
    picture = two_pixels(*HEAVY[name])
    assert values(to_rgb(picture)) == [RED, blue]
    assert values(to_rgb(io.BytesIO(picture))) == [RED, blue]
    patchify(picture)


def test_a_large_text_behind_the_picture() -> None:
    kind, data = ztxt(8 * MEGABYTE)
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    whole = two_pixels()
    assert values(to_rgb(whole[:-12] + chunk + whole[-12:])) == [RED, (0, 0, 255)]


@pytest.mark.parametrize("chunk", [(b"eXIf", exif.tobytes()[6:]), itxt(XMP, False)])
def test_the_orientation_stays_where_a_text_is_left_out(chunk: tuple[bytes, bytes]) -> None:
    for chunks in ([chunk], [ztxt(8 * MEGABYTE), chunk]):
        assert to_rgb(two_pixels(*chunks)).size == (1, 2)


def test_nothing_else_is_left_out() -> None:
    small = two_pixels((b"tEXt", b"a\0b"), itxt(XMP, False), (b"gAMA", struct.pack(">I", 45455)))
    assert without_large_texts(small) == small
    assert without_large_texts(small[:-20]) == small[:-20]
    noise = np.random.default_rng(5).integers(0, 256, (64, 1 + 64), dtype=np.uint8)
    noise[:, 0] = 0  # rows without a filter
    heavy = png(64, 64, 8, 0, noise.tobytes(), ztxt(8 * MEGABYTE))
    assert to_rgb(heavy).size == (64, 64)
    with pytest.raises(InputError, match="damaged or incomplete"):
        to_rgb(heavy[:-1000])


pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

# ── small files of many pixels ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 4), (8, 6), (16, 6)])
def test_a_png_of_too_many_pixels_is_refused_by_its_header(mode: tuple[int, int]) -> None:
    with pytest.raises(
        InputError, match=r"too many pixels to decode safely \(at most (50,000,000|41,666,666)\); make it smaller"
    ):
        patchify(png(SIDE, SIDE, *mode, b""))


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_of_too_many_pixels(kind: str) -> None:
    data = bytearray(encoded(Image.new("L", (8, 8)), kind))
    low = SIDE.to_bytes(2, "little")
    if kind == "JPEG":  # up to eight times the limit it would shrink
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = (3 * SIDE).to_bytes(2, "big") * 2
    elif kind == "GIF":
        data[6:10] = low * 2
    elif kind == "BMP":
        data[18:26] = SIDE.to_bytes(4, "little") * 2
    elif kind == "PPM":
        data[3:6] = f"{SIDE} {SIDE}".encode()
    else:
        for tag in (256, 257):  # width and height, each a LONG or a SHORT
            at = next(i for i in range(8, len(data)) if data[i : i + 2] == tag.to_bytes(2, "little"))
            data[at + 8 : at + 12] = SIDE.to_bytes(4, "little")
    with pytest.raises(InputError, match="too many pixels"):
        patchify(bytes(data))


def test_images_and_arrays_of_too_many_pixels() -> None:
    for shape in ((SIDE, SIDE), (SIDE, SIDE, 3), (1, Limits().picture_bytes // 10 + 1, 4)):
        with pytest.raises(InputError, match="too many pixels"):
            patchify(np.broadcast_to(np.uint8(0), shape))
    with Image.open(io.BytesIO(png(SIDE, SIDE, 8, 6, b""))) as opened, pytest.raises(InputError, match="too many"):
        patchify(opened)
    with pytest.raises(InputError, match="too many pixels"):
        patchify(Image.new("1", (SIDE, SIDE)))


def test_bands_are_put_on_white_as_a_whole_picture_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    pixels = rng.integers(0, 256, (37, 11, 4), dtype=np.uint8)
    deep, fine = rng.integers(0, 1 << 16, (37, 11), dtype=np.uint16), rng.random((37, 11, 3))
    paletted = Image.fromarray(pixels[:, :, :3]).quantize(16)
    paletted.info["transparency"] = 3
    pictures: list[Any] = [Image.fromarray(pixels), paletted, deep, fine, Image.fromarray(deep)]
    whole = [values(to_rgb(picture)) for picture in pictures]
    for pixels_at_a_time in (1, 30, 11 * 7):
        monkeypatch.setattr("gemma4gguf.media.rgb._BAND", pixels_at_a_time)
        assert [values(to_rgb(picture)) for picture in pictures] == whole


# ── sound whose header does not know its length ──────────────────────────────────────────────────────────────────


def clip(kind: str, subtype: str | None = None, channels: int = 1) -> bytes:
    """One second of noise at 16 kHz."""
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, (SAMPLE_RATE, channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, SAMPLE_RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


def with_lengths(wav: bytes, whole: int, samples: int, order: str = "<") -> bytes:
    """A WAV with other lengths in its header."""
    at = wav.index(b"data") + 4
    return wav[:4] + struct.pack(order + "I", whole) + wav[8:at] + struct.pack(order + "I", samples) + wav[at + 4 :]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_S8"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_flac_of_unknown_length(subtype: str, channels: int) -> None:
    """As an encoder leaves it that writes into a pipe: the number of samples (36 bits) is 0, and no checksum."""
    data = clip("FLAC", subtype, channels)
    piped = data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + bytes(16) + data[42:]
    assert np.array_equal(frame(piped), frame(data))


@pytest.mark.parametrize(
    ("whole", "samples"),
    [(0, 0), (36, 0), (0xFFFF_FFFF, 0xFFFF_FFFF), (0x7FFF_F024, 0x7FFF_F000), (0, 0x8000_0000)],
)
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_whose_recorder_died_is_read_whole(whole: int, samples: int, subtype: str) -> None:
    data = clip("WAV", subtype)
    with pytest.warns(AudioWarning, match=r"does not say how long it is; all 1\.00 s were read, it may be cut off"):
        assert np.array_equal(frame(with_lengths(data, whole, samples)), frame(data))


def test_a_wav_without_the_files_length_says_all_that_is_needed() -> None:
    data = clip("WAV")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(frame(with_lengths(data, 0, 32_000)), frame(data))


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "AU"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_file_cut_short_warns_with_both_lengths(kind: str, subtype: str) -> None:
    data = clip(kind, subtype)
    with pytest.warns(AudioWarning, match=r"ends after 0\.[45]\d s, its header says 1\.00 s: it may be cut off"):
        assert len(frame(data[: len(data) // 2])) == 13
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(frame(data)) == 25


def test_big_endian_lengths() -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, SAMPLE_RATE)
    soundfile.write(buffer, noise, SAMPLE_RATE, format="WAV", endian="BIG")
    data = buffer.getvalue()
    assert data[:4] == b"RIFX"
    with pytest.warns(AudioWarning, match=r"header says 1\.00 s"):
        frame(data[: len(data) // 2])
    with pytest.warns(AudioWarning, match="does not say how long"):
        assert np.array_equal(frame(with_lengths(data, 0, 0, ">")), frame(data))


def test_a_clip_that_is_truly_empty_is_an_error() -> None:
    empty = clip("WAV")[:40] + bytes(4)
    for data in (empty, empty + b"LIST\x04\0\0\0INFO"):
        with pytest.raises(InputError, match="has no samples"):
            frame(data)


# ── other kinds ──────────────────────────────────────────────────────────────────────────────────────────────────


def mp4(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(12) + b"moov" + bytes(400)


TO_WAV = "convert it with: ffmpeg -i FILE clip.wav"
OTHERS: dict[str, tuple[bytes, str, str, str]] = {
    # bytes, what it is, the cure as sound, the cure as a picture
    "m4a": (mp4(b"M4A "), "an M4A (AAC) sound file", TO_WAV, "it has no picture"),
    "m4b": (mp4(b"M4B "), "an M4A (AAC) sound file", TO_WAV, "it has no picture"),
    "aac": (b"\xff\xf1\x50\x80" + bytes(400), "an AAC sound file", TO_WAV, "it has no picture"),
    "mp4": (mp4(b"isom"), "an MP4 file", TO_WAV, "ffmpeg -i FILE -vf fps=1"),
    "mov": (mp4(b"qt  "), "a QuickTime video", TO_WAV, "ffmpeg -i FILE -vf fps=1"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(400), "a WebM or Matroska file", TO_WAV, "ffmpeg -i FILE -vf"),
    "avi": (b"RIFF\x99\0\0\0AVI LIST" + bytes(400), "an AVI video", TO_WAV, "ffmpeg -i FILE -vf"),
    "heic": (mp4(b"heic"), "a HEIC picture", "it has no sound", "heif-convert FILE picture.png"),
    "heif": (mp4(b"mif1"), "a HEIC picture", "it has no sound", "heif-convert FILE picture.png"),
    "html": (b"\n<!DOCTYPE html><html>" + b" " * 400, "an HTML page", "get the file again", "get the file again"),
    "htm": (b"<HTML lang=en>" + b" " * 400, "an HTML page", "get the file again", "get the file again"),
    "pdf": (b"%PDF-1.7\n" + b" " * 400, "a PDF", "it has no sound", "pdftoppm -png -r 150 FILE page"),
    "pdf, locked": (b"%PDF-1.7\n<< /Encrypt 5 0 R >>", "an encrypted PDF", "it has no sound", "decrypt it first"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing", "no sound", "rsvg-convert FILE"),
    "svg, xml": (b'<?xml version="1.0"?>\n<!-- a -->\n<svg/>', "an SVG drawing", "no sound", "rsvg-convert FILE"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript", "it has no sound", "gs -sDEVICE=png16m"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        "a Git LFS pointer",
        "git lfs",
        "git lfs pull",
    ),
    "empty": (b"", "an empty file", "get the file again", "get the file again"),
    "m4p": (mp4(b"M4P "), "an encrypted file", "decrypt it first", "decrypt it first"),
    "pgp": (b"-----BEGIN PGP MESSAGE-----\n\nhQ", "an encrypted file", "decrypt it first", "decrypt it first"),
    "age": (b"age-encryption.org/v1\n->", "an encrypted file", "decrypt it first", "decrypt it first"),
    "openssl": (b"Salted__" + bytes(80), "an encrypted file", "decrypt it first", "decrypt it first"),
    "zip": (b"PK\x03\x04" + bytes(80), "a ZIP archive", "unzip FILE", "unzip FILE"),
    "gzip": (b"\x1f\x8b\x08" + bytes(80), "a gzip archive", "gunzip FILE", "gunzip FILE"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_sound_or_picture_is_named_with_its_cure(name: str) -> None:
    data, what, as_sound, as_picture = OTHERS[name]
    with pytest.raises(InputError) as sound:
        frame(data)
    with pytest.raises(InputError) as picture:
        patchify(data)
    for error, cure in ((sound, as_sound), (picture, as_picture)):
        assert f"it is {what}" in str(error.value)
        assert cure in str(error.value)
        assert str(error.value).isprintable()


def test_a_picture_given_as_sound_and_the_other_way_round() -> None:
    with pytest.raises(InputError, match="cannot be read as sound: it is a picture; give it as an image"):
        frame(encoded(Image.new("RGB", (4, 4))))
    for kind in ("WAV", "FLAC", "OGG", "AIFF"):
        with pytest.raises(InputError, match="it is sound; give it as audio"):
            patchify(clip(kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_a_damaged_file_is_not_called_one_of_another_kind(kind: str) -> None:
    assert not recognised(encoded(Image.new("RGB", (4, 4)), kind), "picture")
    for sound in ("WAV", "FLAC", "OGG"):
        assert not recognised(clip(sound), "sound")
