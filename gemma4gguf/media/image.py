"""Turn pictures into patches, by the reference processor's rule.

A picture (anything that `rgb` reads) and a budget of soft tokens come in. `Patches` go out, one row per soft token.
This module does not know the model: `embedder` turns patches into soft tokens.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bundle.projector import CHANNELS, PATCH_SIDE, PATCH_VALUES
from ..bundle.settings import BUDGETS, DEFAULT_BUDGET
from ..errors import InputError
from ..machine import physical_cores
from .rgb import ImageInput, to_picture

LARGE = 1 << 20  # pixels from which on a picture is resized in bands, one for each core


@dataclass(frozen=True, eq=False)
class Patches:
    """A picture for the embedder: N = rows * columns patches, row by row from the top left.

    pixels     float32 [N, 6912], 0 to 1; each patch in row, column, RGB order (the checkpoint's order)
    positions  int32 [N, 2] as (x, y): the patch's column and row
    rows, columns  the grid
    width, height  pixels of the source picture, after its EXIF orientation and before resizing
    """

    pixels: NDArray[np.float32]
    positions: NDArray[np.int32]
    rows: int
    columns: int
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.pixels)


def patchify(image: ImageInput, max_soft_tokens: int = DEFAULT_BUDGET) -> Patches:
    """Cut a picture into patches: upright, on white, RGB, resized (bicubic) to fill the budget of soft tokens.

    `image` is a path, an encoded file as bytes, a PIL image, or an array as `to_rgb` describes it. Raises InputError.
    Source: transformers 5.24 Gemma4UnifiedImageProcessor; Pillow's bicubic differs from it by at most 2/255.
    """
    check_budget(max_soft_tokens)
    rgb, (width, height), box = to_picture(image)
    size = target_size(width, height, max_soft_tokens)
    bands = physical_cores() if rgb.width * rgb.height >= LARGE else 1
    return replace(patches_of(resized(rgb, size, box, bands)), width=width, height=height)


def resized(
    rgb: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float], bands: int = 1
) -> NDArray[np.uint8]:
    """`box` of a picture as uint8 [height, width, 3] of this size, bicubic.

    `bands`: how many columns of it are made at the same time, where that gives the same values. Pillow makes the pass
    along the rows first, unless the height shrinks by more than twice as many pixels as the width.
    """
    if rgb.size == size:
        return np.asarray(rgb)
    width, height = size
    rows_first = rgb.height - height <= 2 * (rgb.width - width)
    edges = whole_edges(rgb.width, width, bands if rows_first and box == (0, 0, *rgb.size) else 1)
    if len(edges) == 2:
        return np.asarray(rgb.resize(size, Image.Resampling.BICUBIC, box))
    scale = Fraction(rgb.width, width)

    def band(left: int, right: int) -> NDArray[np.uint8]:
        part = int(left * scale), 0, int(right * scale), rgb.height
        return np.asarray(rgb.resize((right - left, height), Image.Resampling.BICUBIC, part))

    with ThreadPoolExecutor(len(edges) - 1, "gemma4gguf-resize") as pool:
        return np.concatenate(list(pool.map(band, edges, edges[1:])), axis=1)


def whole_edges(source: int, target: int, bands: int) -> list[int]:
    """Where `target` pixels are cut into bands: evenly, as far as each begins with a whole pixel of `source`.

    Pillow would round other edges to float32, and some values would differ by 1.
    """
    step = target // math.gcd(source, target)
    return sorted({round(target * i / bands / step) * step for i in range(bands + 1)})


def patches_of(rgb: NDArray[np.uint8]) -> Patches:
    """The patches of a picture that needs no resizing: uint8 [height, width, 3], both sides multiples of 48."""
    height, width = rgb.shape[:2]
    columns, rows = width // PATCH_SIDE, height // PATCH_SIDE
    x, y = np.meshgrid(np.arange(columns, dtype=np.int32), np.arange(rows, dtype=np.int32))  # [rows, columns] each
    positions = np.stack([x, y], axis=-1).reshape(-1, 2)  # [N, 2]
    return Patches(cut(rgb), positions, rows, columns, width, height)


def soft_tokens_of(rgb: NDArray[np.uint8]) -> int:
    """How many patches `patches_of` makes of it."""
    return int(rgb.shape[0] * rgb.shape[1] // PATCH_SIDE**2)


def target_size(width: int, height: int, max_soft_tokens: int = DEFAULT_BUDGET) -> tuple[int, int]:
    """The (width, height) in pixels that a picture is resized to: multiples of 48 that fill the budget.

    The picture is scaled until its area equals the budget's. Then each side is rounded down, and a side of 0 becomes
    one patch; this changes the aspect ratio slightly. Soft tokens = width * height / 48². Raises InputError for a side
    below 1 pixel.
    """
    check_budget(max_soft_tokens)
    if width < 1 or height < 1:
        what = f"a picture of {width} x {height} pixels at a budget of {max_soft_tokens} soft tokens"
        raise InputError(f"{what}: both sides must be at least 1 pixel")
    scale = math.sqrt(max_soft_tokens * PATCH_SIDE**2 / (width * height))
    columns, rows = math.floor(scale * width / PATCH_SIDE), math.floor(scale * height / PATCH_SIDE)
    # A side rounds to 0 only if the other is more than `max_soft_tokens` times as long. Then one row or column is used.
    if not rows:
        columns, rows = max_soft_tokens, 1
    elif not columns:
        columns, rows = 1, max_soft_tokens
    return columns * PATCH_SIDE, rows * PATCH_SIDE


def soft_tokens(width: int, height: int, max_soft_tokens: int = DEFAULT_BUDGET) -> int:
    """The soft tokens of a picture of this size (pixels, after its EXIF orientation) at this budget."""
    across, down = target_size(width, height, max_soft_tokens)
    return across * down // PATCH_SIDE**2


def check_budget(max_soft_tokens: int) -> None:
    """Raise InputError unless `max_soft_tokens` is one of `BUDGETS`."""
    if isinstance(max_soft_tokens, bool) or max_soft_tokens not in BUDGETS:
        choices = ", ".join(map(str, BUDGETS))
        raise InputError(f"an image budget of {max_soft_tokens!r} soft tokens: choose one of {choices}")


def cut(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [H, W, 3], both sides multiples of 48 -> float32 [H/48 * W/48, 6912], 0 to 1."""
    rows, columns = rgb.shape[0] // PATCH_SIDE, rgb.shape[1] // PATCH_SIDE
    blocks = rgb.reshape(rows, PATCH_SIDE, columns, PATCH_SIDE, CHANNELS).swapaxes(1, 2)
    blocks = blocks.reshape(rows * columns, PATCH_VALUES)  # [N, 6912], uint8: a quarter of the float copy
    return np.asarray(blocks * np.float32(1 / 255), np.float32)
