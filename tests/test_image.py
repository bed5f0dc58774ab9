"""Pictures to patches: against values that transformers made, and against an obvious slow cutter."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemma4gguf.bundle.projector import PATCH_SIDE, PATCH_VALUES
from gemma4gguf.bundle.settings import BUDGETS
from gemma4gguf.media.image import (
    LARGE,
    cut,
    patchify,
    resized,
    soft_tokens,
    target_size,
    whole_edges,
)

MEDIA = Path(__file__).parent / "data" / "media"
GOLDEN = json.loads((MEDIA / "image_patches.json").read_text())["cases"]
TOLERANCE = 2 / 255  # Pillow's bicubic against torchvision's
GOLDEN_STRIDE = 431  # of a patch's 6912 values, every 431st is listed


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['file']}-{c['max_soft_tokens']}")
def test_patches_equal_the_reference(case: dict[str, Any]) -> None:
    patches = patchify(MEDIA / case["file"], case["max_soft_tokens"])
    assert (patches.width, patches.height) == (case["width"], case["height"])
    assert (patches.rows, patches.columns, len(patches)) == (case["rows"], case["columns"], case["soft_tokens"])
    assert soft_tokens(case["width"], case["height"], case["max_soft_tokens"]) == case["soft_tokens"]
    assert patches.pixels.shape == (case["soft_tokens"], PATCH_VALUES)
    assert patches.pixels.dtype == np.float32
    assert patches.positions.dtype == np.int32
    assert patches.positions[:3].tolist() == case["first_positions"]
    for index, listed in case["patch_values_255"].items():
        found = patches.pixels[int(index), ::GOLDEN_STRIDE]
        np.testing.assert_allclose(found, np.array(listed) / 255, atol=TOLERANCE + 1e-6)
    for index, means in case["channel_means_255"].items():
        found = patches.pixels[int(index)].reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(found, np.array(means) / 255, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("width", "height", "budget", "size"),
    [
        (512, 512, 280, (768, 768)),
        (1920, 1080, 280, (1056, 576)),
        (640, 480, 280, (912, 672)),
        (2000, 100, 280, (3552, 144)),
        (512, 512, 1120, (1584, 1584)),
        (1, 1, 280, (768, 768)),
        (47, 47, 280, (768, 768)),
        (1, 5000, 280, (48, 280 * 48)),  # a side that rounds to nothing becomes one patch
        (5000, 1, 280, (280 * 48, 48)),
        (10000, 3, 70, (70 * 48, 48)),
        (100, 1, 70, (70 * 48, 48)),
        (300, 2, 70, (70 * 48, 48)),
        (141, 2, 70, (70 * 48, 48)),
        # Exactly 70 columns, or 10 and 7: the reference computes in floats, which fall just below, and so do we.
        (770, 11, 70, (69 * 48, 48)),
        (110, 77, 70, (9 * 48, 7 * 48)),
    ],
)
def test_target_size(width: int, height: int, budget: int, size: tuple[int, int]) -> None:
    assert target_size(width, height, budget) == size


def exact_size(width: int, height: int, budget: int) -> tuple[int, int]:
    """The rule without floats: floor(sqrt(budget * width / height)) columns, and rows likewise."""
    columns, rows = math.isqrt(budget * width // height), math.isqrt(budget * height // width)
    return (columns or 1) * 48 if rows else budget * 48, (rows or 1) * 48 if columns else budget * 48


def on_the_edge(width: int, height: int, budget: int) -> bool:
    """Whether a side is exactly a whole number of patches, where the reference's floats may fall to either side."""
    whole, rest = divmod(budget * width, height)
    return rest == 0 and math.isqrt(whole) ** 2 == whole


def test_target_size_agrees_with_exact_arithmetic() -> None:
    rng = np.random.default_rng(7)
    sizes = np.exp(rng.uniform(0, np.log(20_000), (4000, 2))).astype(int).tolist()
    compared = 0
    for budget in BUDGETS:
        vanishing = [(budget * n + d, n) for n in (1, 2, 3, 7, 48) for d in (-1, 1)]
        for width, height in [*sizes, *vanishing]:
            if not on_the_edge(width, height, budget) and not on_the_edge(height, width, budget):
                assert target_size(width, height, budget) == exact_size(width, height, budget)
                assert target_size(height, width, budget) == exact_size(height, width, budget)
                compared += 1
    assert compared > 19_000


def test_every_size_keeps_to_the_budget() -> None:
    sides = [1, 2, 3, 16, 47, 48, 49, 71, 97, 333, 1080, 1920, 4999, 10_000, 1_000_000]
    for budget in BUDGETS:
        for width in sides:
            for height in sides:
                across, down = target_size(width, height, budget)
                assert across % PATCH_SIDE == 0 == down % PATCH_SIDE
                assert 1 <= soft_tokens(width, height, budget) <= budget
                assert target_size(height, width, budget) == (down, across)


def test_cut_agrees_with_a_slow_one() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (96, 144, 3), dtype=np.uint8)
    slow = []
    for row in range(2):
        for column in range(3):
            patch = [
                rgb[row * 48 + i, column * 48 + j, channel] / 255
                for i in range(48)
                for j in range(48)
                for channel in range(3)
            ]
            slow.append(patch)
    np.testing.assert_allclose(cut(rgb), np.array(slow), atol=1e-7)


def test_positions_are_column_then_row() -> None:
    patches = patchify(Image.new("RGB", (200, 90)), 70)
    expected = [(x, y) for y in range(patches.rows) for x in range(patches.columns)]
    assert patches.columns > patches.rows > 1
    assert [tuple(p) for p in patches.positions.tolist()] == expected


def test_an_image_of_the_target_size_is_not_resampled() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (768, 768, 3), dtype=np.uint8)
    assert np.array_equal(patchify(rgb).pixels, cut(rgb))


def test_values_reach_zero_and_one_and_never_pass_them() -> None:
    pixels = patchify(MEDIA / "checker_96x96.png", 70).pixels
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (256, 144), (300, 200), (403, 302), (108, 640), (96, 96)])
@pytest.mark.parametrize("budget", [70, 280])
def test_bands_have_the_values_of_the_whole(size: tuple[int, int], budget: int) -> None:
    """Large and small, wide and high; sides that cannot be cut, and a height that shrinks far more than the width."""
    noise = np.random.default_rng(3).integers(0, 256, (size[1] * 4, size[0] * 4, 3), dtype=np.uint8)
    for rgb in (Image.fromarray(noise), Image.fromarray(noise[: size[1], : size[0]])):
        box, wanted = (0, 0, *rgb.size), target_size(*rgb.size, budget)
        whole = np.asarray(rgb.resize(wanted, Image.Resampling.BICUBIC))
        for bands in (1, 2, 3, 8):
            assert np.array_equal(resized(rgb, wanted, box, bands), whole)


def test_bands_are_even_where_sides_allow_it() -> None:
    assert whole_edges(4000, 912, 2) == [0, 456, 912]
    assert whole_edges(2560, 1056, 4) == [0, 264, 528, 792, 1056]
    assert whole_edges(4032, 912, 8) == [0, 114, 228, 342, 456, 570, 684, 798, 912]
    assert whole_edges(4001, 912, 8) == [0, 912]


def test_a_large_picture_is_cut_into_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (LARGE // 1024, 1024, 3), dtype=np.uint8)
    monkeypatch.setattr("gemma4gguf.media.image.physical_cores", lambda: 1)
    whole = patchify(noise).pixels
    monkeypatch.setattr("gemma4gguf.media.image.physical_cores", lambda: 4)
    assert np.array_equal(patchify(noise).pixels, whole)
