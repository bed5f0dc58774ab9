"""Turn any picture into an upright RGB image.

A picture comes in: a path, bytes, an open file, a PIL image or an array. An RGB image goes out, or one InputError. This
module does not know patches or budgets.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ..arguments import local_path
from ..errors import InputError
from .kinds import HEAD_BYTES, recognised
from .png import SIGNATURE, without_large_texts

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]
Images: TypeAlias = ImageInput | Sequence[ImageInput] | None

# Formats that Pillow may read from untrusted bytes: raster images only. Left out on purpose: EPS runs Ghostscript, WMF
# calls the operating system, and TGA and others have no signature, so they would match files that are not pictures.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "DIB", "PPM"),
    *("JPEG2000", "ICO", "ICNS", "QOI", "PCX", "SGI", "DDS", "PSD"),
)

# EXIF orientation -> the transposition that puts the picture upright. 1 is upright; unknown values are ignored.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_GREY_16 = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_MAX_16 = 65_535
MAX_BYTES = 1 << 29  # of a decoded picture; a small file may decode to gigabytes
_PIXEL_BYTES = 4  # Pillow keeps RGB in as many, and every picture becomes RGB
_BAND = 1 << 22  # pixels that are put on white at a time


def to_rgb(image: ImageInput) -> Image.Image:
    """Any picture as an upright RGB image, transparency composited on white. Raises InputError.

    Files: the first frame of an animation. PIL images: any mode, at their current frame; 16-bit grey and `I` hold 0 to
    65535 and are scaled, `F` holds 0 to 1. Arrays: [H, W] or [H, W, 1, 3 or 4] (grey, RGB, RGBA) of bool, uint8,
    uint16 (0 to 65535, scaled) or floats from 0 to 1. Unreadable EXIF is ignored. A picture of more than 134 million
    pixels (512 MiB) is refused before it is decoded.
    """
    if isinstance(image, np.ndarray):
        if image.ndim > 1:
            _check_size(f"a picture array of shape {image.shape}", image.shape[1], image.shape[0])
        return _on_white(_from_array(image))
    name, loaded = _loaded(image)
    try:
        return _on_white(loaded)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _loaded(
    image: str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image,
) -> tuple[str, Image.Image]:
    """A name for messages, and the picture, upright and with its pixels in memory."""
    if isinstance(image, Image.Image):
        name = f"the picture ({image.mode}, {image.width} x {image.height})"
        _check_size(name, image.width, image.height)
        with _decoding(name):
            return name, _upright(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        name = f"the picture ({len(image):,} bytes)"
        return name, _decode(io.BytesIO(image), name)
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        with _decoding(name):
            file = open(local_path(image), "rb")  # noqa: SIM115 (closed below)
        with file:
            return name, _decode(file if file.seekable() else io.BytesIO(file.read()), name)
    if hasattr(image, "read"):
        return "the open file", _decode(image, "the open file")
    raise InputError(
        f"a picture given as {type(image).__name__}: expected a path, bytes, an open file, a PIL image or an array"
    )


@contextmanager
def _decoding(name: str, head: bytes = b"") -> Iterator[None]:
    """Turn what the decoder raises into an InputError that begins with the picture's name.

    `head`: the file's first bytes, by which its kind can be told.

    Pillow lets exceptions of many types out of damaged files, so all are caught. Nothing but Pillow may run inside: an
    error of our own is not damage.
    """
    try:
        yield
    except UnidentifiedImageError as error:
        kind = recognised(head, "picture")
        known = "not a picture in a known format (PNG, JPEG, WebP, GIF, TIFF, …)"
        raise InputError(f"{name}: {known}" + (f": {kind}" if kind else "")) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: too many pixels to decode safely; make it smaller first ({error})") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name}: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: the picture is damaged or incomplete ({reason})") from error


def _decode(file: IO[bytes], name: str) -> Image.Image:
    with _decoding(name):
        start = file.tell()
        head = file.read(HEAD_BYTES)
        file.seek(start)
    try:
        return _opened(file, name, head)
    except InputError as error:
        if not (head.startswith(SIGNATURE) and isinstance(error.__cause__, ValueError)):
            raise
    with _decoding(name):
        file.seek(start)
        lighter = without_large_texts(file.read())
    return _opened(io.BytesIO(lighter), name, head)


def _opened(file: IO[bytes], name: str, head: bytes) -> Image.Image:
    Image.init()
    with _decoding(name, head):
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    with image:
        _check_size(name, image.width, image.height)
        with _decoding(name):
            return _upright(image)


def _check_size(name: str, width: int, height: int) -> None:
    if width * height * _PIXEL_BYTES > MAX_BYTES:
        raise InputError(
            f"{name}: {width:,} x {height:,} pixels are too many pixels to decode safely (at most "
            f"{MAX_BYTES // _PIXEL_BYTES:,}); make it smaller first"
        )


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first, because the TIFF reader applies and removes the orientation while loading
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block does not make the picture unreadable
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


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
