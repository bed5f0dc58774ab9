"""The sizes of the pictures inside an icon's file, which may be others than its list says.

An open ICO file comes in; sizes in pixels go out. Nothing is decoded here.
"""

from __future__ import annotations

import struct
from typing import IO

from .png import SIGNATURE

ICON = b"\0\0\1\0"
_ENTRY = struct.Struct("<12xI")  # of the list: where its picture begins
_PNG_SIZE = struct.Struct(">16xII")
_BITMAP_SIZE = struct.Struct("<4xii")  # a mask follows the picture: the height counts both


def icon_sizes(file: IO[bytes]) -> list[tuple[int, int]]:
    """Width and height of every picture in an ICO, as its own header states them. Raises struct.error."""
    file.seek(len(ICON))
    entries = file.read(_ENTRY.size * int.from_bytes(file.read(2), "little"))
    sizes = []
    for (at,) in _ENTRY.iter_unpack(entries[: len(entries) // _ENTRY.size * _ENTRY.size]):
        file.seek(at)
        head = file.read(24).ljust(24, b"\0")
        width, height = (_PNG_SIZE if head.startswith(SIGNATURE) else _BITMAP_SIZE).unpack_from(head)
        sizes.append((abs(width), abs(height)))
    return sizes
