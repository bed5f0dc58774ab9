"""Small files that cost much: pictures of too many pixels, scans or inner pictures, clips of too many samples.

What `scripts/fuzz pictures` and `clips` found, and relatives.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from PIL import Image

from gemma4gguf.errors import InputError
from gemma4gguf.limits import Limits, limited
from gemma4gguf.media.audio import frame
from gemma4gguf.media.image import patchify
from gemma4gguf.media.picture import header
from gemma4gguf.media.rgb import FORMATS
from tests.support.pictures import encoded, png

GREY = Image.new("L", (64, 64), 99)
SIDE = 13_000  # of a square with more pixels than any picture may have


def refused(read: object, data: bytes, message: str) -> None:
    begun = time.process_time()
    with pytest.raises(InputError, match=message) as told:
        (patchify if read == "picture" else frame)(data)
    assert "\n" not in str(told.value)
    assert time.process_time() - begun < 5


def progressive(extra: int) -> bytes:
    """A flat picture of 49 million pixels in 20 kB, its last scan said again and again: 35 ms for each."""
    whole = encoded(Image.new("L", (7000, 7000), 99), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + extra * scan + whole[-2:]


@pytest.mark.parametrize("extra", [60, 1000])
def test_a_jpeg_of_many_scans(extra: int) -> None:
    refused("picture", progressive(extra), r"a JPEG of [\d,]+ scans, expected at most 64")


def test_scans_within_the_limit_are_read() -> None:
    whole = encoded(GREY, "JPEG", progressive=True)
    assert patchify(whole).width == 64
    with limited(picture_scans=2), pytest.raises(InputError, match="scans, expected at most 2"):
        patchify(whole)


def icon(picture: bytes) -> bytes:
    """An ICO whose list says 16 x 16."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


@pytest.mark.parametrize("bits", [1, 8, 24, 32])
def test_an_icon_whose_bitmap_is_larger_than_it_says(bits: int) -> None:
    refused(
        "picture", icon(struct.pack("<IiiHHIIiiII", 40, SIDE, 2 * SIDE, 1, bits, 0, 0, 0, 0, 0, 0)), "too many pixels"
    )


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (8, 2), (8, 6), (16, 6)])
def test_an_icon_whose_png_is_larger_than_it_says(depth: int, colour: int) -> None:
    data = icon(png(SIDE, SIDE, depth, colour, b""))
    refused("picture", data, "too many pixels")
    with pytest.raises(InputError, match="too many pixels"):
        header(data)


def test_an_icon_that_keeps_its_word_is_read() -> None:
    assert patchify(encoded(GREY.convert("RGBA"), "ICO")).width in (48, 64)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JPEG2000"])
def test_formats_that_take_more_for_a_pixel_may_have_fewer(kind: str) -> None:
    """Their decoders hold the picture several times: 50 million pixels took 0.8 to 1.4 GB."""
    whole = encoded(Image.new("RGB", (600, 400)), kind)
    with limited(picture_bytes=600 * 400 * 10):
        assert patchify(encoded(Image.new("RGB", (600, 400)), "PNG")).width == 600
        refused("picture", whole, "too many pixels")


@pytest.mark.parametrize("kind", ["QOI", "DDS", "ICNS"])
def test_formats_that_are_decoded_in_python_or_hold_others_are_no_pictures(kind: str) -> None:
    """A QOI of 24 million pixels took 30 s of processor, a DDS 42."""
    assert kind not in FORMATS
    refused("picture", encoded(GREY.convert("RGBA"), kind), "not a picture in a known format")


def clip(samples: np.ndarray[tuple[int, ...], np.dtype[np.int16]], rate: int, kind: str, **options: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_silence_that_decodes_to_much(channels: int) -> None:
    """A FLAC holds 65,535 samples of silence in 14 bytes, at rates up to 655,350 Hz: half an hour in 4 MB."""
    silence = clip(np.zeros((1 << 18, channels), np.int16), 655_350, "FLAC")
    assert len(silence) < 3000
    with limited(sound_samples=(1 << 17) * channels):
        refused("clip", silence, "more than .* samples in all channels; cut it")
    assert frame(silence).any() == False  # noqa: E712 (numpy's)


def test_half_an_hour_is_the_longest() -> None:
    refused("clip", clip(np.zeros(1000 * 1801, np.int16), 1000, "FLAC"), "longer than 1,800 s; cut it")
    assert Limits().sound_samples > 48_000 * 2 * 1800


PRINTS = """
import sys
from gemma4gguf.errors import InputError
from gemma4gguf.media.audio import frame
try:
    frame(sys.stdin.buffer.read())
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("tag", [0, 1, 3])
@pytest.mark.parametrize("kind", ["SDS", "VOC", "PVF", "SVX"])
def test_formats_that_nobody_sends_are_not_read(kind: str, tag: int) -> None:
    """Libsndfile's reader of SDS prints each fault to standard output, also behind an ID3 tag."""
    sound = bytearray(clip(np.arange(2000, dtype=np.int16), 16_000, kind, subtype="PCM_16"))
    sound[30::40] = bytes(len(sound[30::40]))
    tagged = tag * (b"ID3\4\0\0\0\0\0\4abcd") + sound
    told = subprocess.run([sys.executable, "-c", PRINTS], input=tagged, capture_output=True, check=True).stdout.decode()
    assert told.count("\n") == 1
    assert "cannot be read as sound" in told


def test_an_mp3_behind_tags_is_read() -> None:
    whole = clip(np.arange(2000, dtype=np.int16), 16_000, "MP3")
    assert frame(b"ID3\4\0\0\0\0\0\4abcd" + whole).shape == frame(whole).shape
