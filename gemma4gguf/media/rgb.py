"""Turn any picture into an upright RGB image.

A picture comes in: a path, bytes, an open file, a PIL image or an array. An RGB image goes out, or one InputError. This
module does not know patches or budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .picture import DEEP, Picture, PictureInput, check_size, loaded, whole
from .picture import FORMATS as FORMATS

ImageInput: TypeAlias = PictureInput | NDArray[Any]
Images: TypeAlias = ImageInput | Sequence[ImageInput] | None

_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_GREY_16 = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_MAX_16 = 65_535
_BAND = 1 << 22  # pixels that are put on white at a time


def to_rgb(image: ImageInput) -> Image.Image:
    """Any picture as an upright RGB image, transparency composited on white. Raises InputError.

    Files: the first frame of an animation. PIL images: any mode, at their current frame; 16-bit grey and `I` hold 0 to
    65535 and are scaled, `F` holds 0 to 1. Arrays: [H, W] or [H, W, 1, 3 or 4] (grey, RGB, RGBA) of bool, uint8,
    uint16 (0 to 65535, scaled) or floats from 0 to 1. Unreadable EXIF is ignored. A picture that would take more than
    `Limits.picture_bytes` is refused before it is decoded; a JPEG of up to 400 million pixels shrinks meanwhile.
    """
    return to_picture(image).image


def to_picture(image: ImageInput) -> Picture:
    """`to_rgb`, and what it takes to resize the picture. Raises InputError."""
    if isinstance(image, np.ndarray):
        if image.ndim > 1:
            check_size(f"a picture array of shape {image.shape}", image.shape[1], image.shape[0], DEEP)
        return whole(_on_white(_from_array(image)))
    name, found = loaded(image)
    try:
        return found._replace(image=_on_white(found.image))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _on_white(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise InputError("has no pixels")
    if image.mode in _GREY_16 or image.mode == "F":
        image = _grey_to_8_bits(image)
    if image.mode == "La":  # Pillow converts it only to LA
        image = image.convert("LA")
    if image.mode not in _ALPHA_MODES and image.info.get("transparency") is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    out = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):  # in bands: whole copies would take four times the picture's memory
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        white = Image.new("RGBA", band.size, "white")
        white.alpha_composite(band.convert("RGBA"))
        out.paste(white.convert("RGB"), (0, top))
    return out


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """A 16-bit or float grey image as L, or as LA if one value is marked transparent."""
    values = np.asarray(image)
    grey = _unit_to_8_bits(values) if image.mode == "F" else _16_to_8_bits(values)
    key = image.info.get("transparency")
    if not isinstance(key, (int, float)):
        return Image.fromarray(grey)
    alpha = np.where(values == key, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([grey, alpha], axis=-1))


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise InputError(
            f"a picture array of shape {array.shape}: expected [H, W] or [H, W, 1, 3 or 4], none of them 0"
        )
    if array.dtype == np.uint8:
        values = array
    elif array.dtype == np.bool_:
        values = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        values = _16_to_8_bits(array)
    elif array.dtype.kind == "f":
        values = _unit_to_8_bits(array)
    else:
        raise InputError(f"a picture array of {array.dtype}: expected uint8, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(values))


def _16_to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MAX_16:
        raise InputError(f"grey values from {low} to {high}: expected 0 to {_MAX_16}; give an array scaled to uint8")
    return _in_bands(values, lambda band: (band.astype(np.uint32) + 128) // 257)  # round(v * 255 / 65535)


def _unit_to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise InputError(f"float pixel values from {low:g} to {high:g}: expected 0 to 1; divide 8-bit values by 255")
    return _in_bands(values, lambda band: np.rint(band.astype(np.float32) * 255))


def _in_bands(values: NDArray[Any], scale: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.uint8]:
    """`scale` of some rows at a time, so that its wider numbers take little memory."""
    out = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND // max(1, values[0].size))
    for top in range(0, len(values), rows):
        out[top : top + rows] = scale(values[top : top + rows])
    return out
