"""What people hand over as a picture: every kind and format gives the same values, or one line says why not."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from gemma4gguf.errors import InputError
from gemma4gguf.media.image import (
    Patches,
    patchify,
    soft_tokens,
    target_size,
)
from gemma4gguf.media.rgb import to_rgb
from tests.support.pictures import BLUE, GREEN, RED, WHITE, encoded, png, values

MEDIA = Path(__file__).parent / "data" / "media"


# ── what people hand over ────────────────────────────────────────────────────────────────────────────────────────


def test_path_bytes_image_and_array_give_the_same_patches() -> None:
    path = MEDIA / "waves_160x120.png"
    data = path.read_bytes()
    with Image.open(path) as opened:
        array = np.asarray(opened.convert("RGB"))
        kinds = [path, str(path), data, bytearray(data), memoryview(data), opened, array, array[:, ::1]]
        pixels = [patchify(kind, 70).pixels for kind in kinds]
    for other in pixels[1:]:
        assert np.array_equal(pixels[0], other)


def test_arrays_of_each_accepted_kind() -> None:
    grey = np.array([[0, 51, 255]], np.uint8)
    expected = [(0, 0, 0), (51, 51, 51), WHITE]
    arrays: list[Any] = [
        grey,
        grey[:, :, None],
        (grey / 255).astype(np.float16),
        (grey / 255).astype(np.float32),
        grey / 255,
        grey.astype(np.uint16) * 257,
        np.repeat(grey[:, :, None], 3, axis=2),
        np.dstack([grey, grey, grey, np.full_like(grey, 255)]),
    ]
    for array in arrays:
        assert values(to_rgb(array)) == expected, (array.dtype, array.shape)
    assert values(to_rgb(np.array([[False, True]]))) == [(0, 0, 0), WHITE]
    assert values(to_rgb(np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], np.uint8))) == [WHITE, RED]
    backwards = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)[:, ::-1]
    assert values(to_rgb(backwards)) == [(3, 4, 5), (0, 1, 2), (9, 10, 11), (6, 7, 8)]


# Where each orientation's stored pixel (row, column) is found in the upright picture of 2 columns and 3 rows.
UPRIGHT = np.arange(6, dtype=np.uint8).reshape(3, 2) * 40
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),  # shown after a turn to the right
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    big = np.kron(STORED[orientation], np.ones((16, 16), np.uint8))  # 16 pixels each: JPEG's blocks stay flat
    options: dict[str, object] = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    upright = np.asarray(to_rgb(encoded(Image.fromarray(big), kind, exif=exif, **options)))
    assert upright.shape == (48, 32, 3)
    np.testing.assert_allclose(upright[8::16, 8::16, 0], UPRIGHT, atol=2)
    patches = patchify(encoded(Image.fromarray(big), kind, exif=exif, **options), 70)
    assert (patches.width, patches.height) == (32, 48)


def test_orientation_of_an_opened_image_and_damaged_exif() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(io.BytesIO(encoded(Image.fromarray(STORED[6]), exif=exif))) as opened:
        assert np.array_equal(np.asarray(to_rgb(opened))[:, :, 0], UPRIGHT)
    broken = encoded(Image.new("RGB", (2, 3), RED), exif=b"Exif\x00\x00MM\x00\x2a\xff\xff")
    assert to_rgb(broken).size == (2, 3)


def transparent(mode: str) -> Image.Image:
    """Two pixels of that mode: one transparent (over black), one opaque red or dark grey."""
    both = Image.new("RGBA", (2, 1))
    both.putpixel((0, 0), (0, 0, 0, 0))
    both.putpixel((1, 0), (255, 0, 0, 255))
    if mode == "La":
        return both.convert("LA").convert("La")
    if mode == "PA":
        image = Image.new("PA", (2, 1))
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((0, 0), (0, 0))
        image.putpixel((1, 0), (1, 255))
        return image
    return both.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparency_becomes_white(mode: str) -> None:
    clear, opaque = values(to_rgb(transparent(mode)))
    assert clear == WHITE
    assert opaque == (RED if mode in ("RGBA", "PA", "RGBa") else (76, 76, 76))


def test_half_transparency_is_mixed_with_white() -> None:
    assert values(to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))) == [(127, 127, 127)]


def test_transparent_values_of_png_become_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    assert values(to_rgb(encoded(palette, transparency=0))) == [WHITE, RED]
    assert values(to_rgb(encoded(palette, transparency=b"\x00\xff"))) == [WHITE, RED]
    rgb = Image.new("RGB", (2, 1), BLUE)
    rgb.putpixel((1, 0), RED)
    assert values(to_rgb(encoded(rgb, transparency=BLUE))) == [WHITE, RED]
    grey = Image.fromarray(np.array([[9, 8]], np.uint8))
    assert values(to_rgb(encoded(grey, transparency=9))) == [WHITE, (8, 8, 8)]
    one_bit = png(2, 1, 1, 0, b"\0\x40", (b"tRNS", b"\0\0"))
    assert values(to_rgb(one_bit)) == [WHITE, WHITE]
    deep = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 1000, 257 * 7), (b"tRNS", struct.pack(">H", 1000)))
    assert values(to_rgb(deep)) == [WHITE, (7, 7, 7)]


@pytest.mark.parametrize(
    ("mode", "colour", "tolerance"),
    [
        ("RGB", (200, 100, 50), 0),
        ("RGBX", (200, 100, 50), 0),
        ("CMYK", (200, 100, 50), 0),
        ("YCbCr", (200, 100, 50), 2),
        ("HSV", (200, 100, 50), 3),
        ("LAB", (200, 100, 50), 3),
        ("L", (124, 124, 124), 0),
        ("P", (200, 100, 50), 0),
        ("1", WHITE, 0),
    ],
)
def test_every_mode_of_pillow(mode: str, colour: tuple[int, int, int], tolerance: int) -> None:
    source = Image.new("RGB", (3, 2), WHITE if mode == "1" else (200, 100, 50))
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(source, *profiles, outputMode="LAB")
        assert image is not None
    elif mode == "P":
        image = source.quantize(4)
    else:
        image = source.convert(mode)
    assert image.mode == mode
    np.testing.assert_allclose(np.asarray(to_rgb(image)).reshape(-1, 3), [colour] * 6, atol=tolerance)
    assert len(patchify(image, 70)) == soft_tokens(3, 2, 70)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_deep_grey_is_scaled_not_clipped(mode: str) -> None:
    levels = [0, 128, 129, 257, 32_768, 65_535]
    image = Image.new(mode, (len(levels), 1))
    for x, level in enumerate(levels):
        image.putpixel((x, 0), level)
    assert [v[0] for v in values(to_rgb(image))] == [0, 0, 1, 1, 128, 255]


def test_deep_grey_from_files() -> None:
    deep = Image.fromarray(np.array([[0, 257 * 100, 65_535]], np.uint16))
    for kind in ("PNG", "TIFF", "PPM"):
        assert [v[0] for v in values(to_rgb(encoded(deep, kind)))] == [0, 100, 255], kind


def test_float_images_hold_zero_to_one() -> None:
    assert [v[0] for v in values(to_rgb(Image.fromarray(np.array([[0, 0.2, 1]], np.float32))))] == [0, 51, 255]
    with pytest.raises(InputError, match="from 0 to 255: expected 0 to 1; divide"):
        to_rgb(Image.fromarray(np.array([[0, 255]], np.float32)))
    with pytest.raises(InputError, match="70000: expected 0 to 65535"):
        to_rgb(Image.fromarray(np.array([[0, 70_000]], np.int32)))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert values(to_rgb(data)) == [RED] * 16


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "PCX", "SGI"])
def test_formats(kind: str) -> None:
    image = Image.new("RGB", (64, 32), (250, 5, 5))
    colours = np.asarray(to_rgb(encoded(image, kind))).reshape(-1, 3).astype(int)
    assert np.abs(colours - (250, 5, 5)).max() <= 4


# ── what cannot be used ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("budget", [0, -1, 1, 100, 281, 1121, 280.5, "280", None, True, [280]])
def test_only_the_five_budgets(budget: object) -> None:
    with pytest.raises(InputError, match="70, 140, 280, 560, 1120"):
        patchify(np.zeros((4, 4), np.uint8), budget)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0), (-1, 5)])
def test_sizes_that_are_none(width: int, height: int) -> None:
    with pytest.raises(InputError, match=f"{width} x {height} pixels at a budget of 280"):
        target_size(width, height, 280)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "a picture given as int: expected a path, bytes"),
        (None, "a picture given as NoneType"),
        (b"", r"0 bytes\): not a picture"),
        (b"hello" * 100, r"500 bytes\): not a picture"),
        ("no/such/file.png", "no/such/file.png: No such file"),
        (Path(__file__).parent, "Is a directory|Permission denied"),
        (Path(__file__), r"test_image_inputs.py: not a picture"),
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\): expected \[H, W\]"),
        (np.zeros((2, 2, 2, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((4, 4), np.int64), "int64: expected uint8"),
        (np.full((4, 4), 255.0), "from 255 to 255: expected 0 to 1"),
        (np.full((4, 4), -0.1), "expected 0 to 1"),
        (np.array([[0.5, np.nan]]), "expected 0 to 1"),
        (Image.new("RGB", (0, 5)), "has no pixels"),
        (Image.new("I", (5, 0)), "has no pixels"),
    ],
)
def test_bad_pictures(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        patchify(source)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = png(30_000, 30_000, 8, 2, b"")
    with pytest.raises(InputError, match="too many pixels"):
        patchify(bomb)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files(kind: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for tenths in range(10):
        with pytest.raises(InputError):
            patchify(data[: len(data) * tenths // 10])


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow says of damaged TIFF directories
def test_damaged_files_raise_nothing_but_input_errors() -> None:
    rng = np.random.default_rng(4)
    noise = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    refused = 0
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "ICO", "JPEG2000"):
        data = np.frombuffer(encoded(noise, kind), np.uint8)
        for _ in range(30):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            try:
                assert isinstance(patchify(damaged.tobytes(), 70), Patches)
            except InputError:
                refused += 1
    assert refused > 50


def test_postscript_is_not_run() -> None:
    eps = encoded(Image.new("RGB", (4, 4)), "EPS")
    with pytest.raises(InputError, match="not a picture in a known format"):
        patchify(eps)


@pytest.mark.parametrize("form", ["bytes", "path", "PIL", "array"])
def test_an_error_of_our_own_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    def broken(values: object) -> None:
        raise ZeroDivisionError("ours")

    deep = Image.fromarray(np.full((4, 4), 700, np.uint16))
    deep.save(tmp_path / "deep.png")
    data = (tmp_path / "deep.png").read_bytes()
    sources: dict[str, Any] = {"bytes": data, "path": tmp_path / "deep.png", "PIL": deep, "array": np.asarray(deep)}
    monkeypatch.setattr("gemma4gguf.media.rgb._16_to_8_bits", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        patchify(sources[form])
