"""Open a picture, wherever it is, and turn it upright.

A path, bytes, an open file or a PIL image comes in; a PIL image of any mode goes out, with its pixels in memory, or one
InputError. Bounds on what is decoded are here. HEIC is read by pillow-heif, where the extra `media` is installed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import IO, Any, NamedTuple, TypeAlias

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from ..errors import InputError
from ..limits import current
from .icons import ICON, icon_sizes
from .kinds import HEAD_BYTES, kind_of, recognised
from .png import SIGNATURE, without_large_texts
from .source import FileInput, is_file, opened

PictureInput: TypeAlias = FileInput | Image.Image

# Formats that Pillow may read from untrusted bytes: raster images only. Left out on purpose: EPS runs Ghostscript, WMF
# calls the operating system, QOI and DDS are decoded in Python, a microsecond for each pixel, ICNS holds pictures of
# other sizes than it says, and TGA and others have no signature, so they would match files that are not pictures.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "DIB", "PPM"),
    *("JPEG2000", "ICO", "PCX", "SGI", "PSD"),
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
_TURNS = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
# Bytes a pixel that decoding takes at its peak, up to the finished RGB image, as measured with Pillow 13.
_COSTS = {"WEBP": 17, "AVIF": 14, "JPEG2000": 28}
_PLAIN, DEEP = 10, 12
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr"})
_MOST_SHRINKING = 8  # times the limit: a photograph that shrinks while it is decoded; bounds the time
_SCAN = b"\xff\xda"  # begins each scan of a JPEG


class Picture(NamedTuple):
    """An upright picture; `size`: its width and height before it was shrunk; `box`: where in `image` it lies."""

    image: Image.Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def whole(image: Image.Image) -> Picture:
    return Picture(image, image.size, (0, 0, *image.size))


def loaded(image: PictureInput) -> tuple[str, Picture]:
    """A name for messages, and the picture, upright and with its pixels in memory."""
    if isinstance(image, Image.Image):
        name = f"the picture ({image.mode}, {image.width} x {image.height})"
        check_size(name, image.width, image.height, _cost(image))
        with _decoding(name):
            return name, _upright(image)
    if is_file(image):
        with opened(image, "the picture") as (name, file):
            return name, _decode(file, name)
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
        kind = recognised(head, "picture", extra=_heif() is not None)
        known = "not a picture in a known format (PNG, JPEG, WebP, GIF, TIFF, …)"
        raise InputError(f"{name}: {known}" + (f": {kind}" if kind else "")) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: too many pixels to decode safely; make it smaller first") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name}: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = recognised(head, "picture", extra=True)
        damaged = f"the picture is damaged or incomplete ({reason})"
        raise InputError(f"{name}: {damaged}" + (f": {kind}" if kind else "")) from error


def _decode(file: IO[bytes], name: str) -> Picture:
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


def header(data: bytes) -> tuple[str, tuple[int, int]]:
    """The media type of a picture's file, and its width and height before it is turned. Raises InputError."""
    with _lazily(io.BytesIO(data), f"the picture ({len(data):,} bytes)", data[:HEAD_BYTES]) as image:
        return image.get_format_mimetype() or "application/octet-stream", image.size


def _opened(file: IO[bytes], name: str, head: bytes) -> Picture:
    with _lazily(file, name, head) as image:
        size, box = image.size, None
        with _decoding(name):
            box = _shrink(image)
        check_size(name, image.width, image.height, _cost(image))
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            _check_scans(name, file)
        with _decoding(name):
            return _upright(image) if box is None else _upright_part(image, size, box)


def _lazily(file: IO[bytes], name: str, head: bytes) -> ImageFile.ImageFile:
    """A picture whose header is read. JPEG is opened past Pillow's own limit, as it can shrink."""
    for width, height in _icon_sizes(file, name, head):
        check_size(name, width, height, DEEP)
    with _decoding(name, head):
        if head.startswith(b"\xff\xd8\xff"):
            return JpegImagePlugin.JpegImageFile(file)
        kind, heif = kind_of(head), _heif()
        if heif is not None and kind is not None and "HEIC" in kind.what:
            return heif.HeifImageFile(file)  # type: ignore[no-any-return]
        Image.init()
        return Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN])


def _heif() -> Any | None:
    """pillow-heif, where it is installed."""
    try:
        return import_module("pillow_heif")
    except ImportError:
        return None


def _shrink(image: Image.Image) -> tuple[float, float] | None:
    """Have a JPEG that is too large decoded at 1/2 or 1/4 of its sides, where that takes no memory for the whole.

    Returns the sides of what belongs to the picture, without the last blocks' rests. What is left is several times as
    wide as any budget, so that photographs keep their values within 2/255.
    """
    data, most = image.width * image.height * _PLAIN, current().picture_bytes
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not most < data <= _MOST_SHRINKING * most:
        return None
    if image.info.get("progressive") or not _in_one_scan(image):
        return None  # kept whole while it is decoded
    scale = 2 if data <= 4 * most else 4
    drafted = image.draft(image.mode, (image.width // scale, image.height // scale))
    return drafted and drafted[1][2:]


def _in_one_scan(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Whether the first scan has all colours. Pillow stops reading behind its header, which says how many it has."""
    length = 6 + 2 * image.layers
    assert image.fp is not None
    image.fp.seek(-length - 2, os.SEEK_CUR)
    return image.fp.read(5) == _SCAN + length.to_bytes(2, "big") + bytes([image.layers])


def _icon_sizes(file: IO[bytes], name: str, head: bytes) -> list[tuple[int, int]]:
    """Of an ICO's pictures, because Pillow decodes the largest while it opens the file. None for other formats."""
    if not head.startswith(ICON):
        return []
    with _decoding(name):
        start = file.tell()
        sizes = icon_sizes(file)
        file.seek(start)
    return sizes


def _cost(image: Image.Image) -> int:
    """Bytes a pixel."""
    return _COSTS.get(image.format or "", _PLAIN if image.mode in _PLAIN_MODES else DEEP)


def check_size(name: str, width: int, height: int, cost: int) -> None:
    """Raise InputError where so many pixels would take too much. `cost`: bytes for each."""
    if width * height > (most := current().picture_bytes // cost):
        raise InputError(
            f"{name}: {width:,} x {height:,} pixels are too many pixels to decode safely (at most {most:,}); make it "
            "smaller first"
        )


def _check_scans(name: str, file: IO[bytes]) -> None:
    with _decoding(name):
        at = file.tell()
        file.seek(0)
        count = sum(block.count(_SCAN) for block in iter(partial(file.read, 1 << 20), b""))
        file.seek(at)
    if count > (most := current().picture_scans):
        raise InputError(f"{name}: a JPEG of {count:,} scans, expected at most {most:,}; save it again")


def _upright(image: Image.Image) -> Picture:
    image.load()  # first, because the TIFF reader applies and removes the orientation while loading
    method = _method(image)
    return whole(image if method is None else image.transpose(method))


def _upright_part(image: Image.Image, size: tuple[int, int], sides: tuple[float, float]) -> Picture:
    """A picture of `size` that was shrunk to `sides`, upright; what more there is of it lies to the right and below."""
    image.load()
    method = _method(image)
    if method is None:
        return Picture(image, size, (0, 0, *sides))
    upright = image.transpose(method)
    mark = Image.new("1", (2, 2))
    mark.putpixel((1, 1), 1)
    right, below = (mark.transpose(method).getbbox() or (1, 1))[:2]  # where the rests are now
    if method in _TURNS:
        size, sides = size[::-1], sides[::-1]
    left, top = (1 - right) * (upright.width - sides[0]), (1 - below) * (upright.height - sides[1])
    return Picture(upright, size, (left, top, left + sides[0], top + sides[1]))


def _method(image: Image.Image) -> Image.Transpose | None:
    """The transposition that puts a picture upright."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block does not make the picture unreadable
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
