"""Leave texts and colour profiles out of a PNG where they are too large for Pillow.

Pillow refuses a whole picture for a text of more than 1 MB, which protects its memory; some programs write whole
workflows there. A PNG comes in and one without them goes out. Nothing is decompressed here.
"""

from __future__ import annotations

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES = 1 << 20  # of the plain texts that stay; the orientation may be in one of them


def without_large_texts(png: bytes) -> bytes:
    """The same picture without compressed texts and profiles, and without plain texts over 1 MB in all."""
    kept, at, left = [SIGNATURE], len(SIGNATURE), _MOST_BYTES
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")  # length, kind, data, checksum
        kind = png[at + 4 : at + 8]
        text = kind in (b"tEXt", b"iTXt")
        left -= end - at if text else 0
        compressed = kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and _is_compressed(png[at + 8 : end]))
        if not (compressed or (text and left < 0)):
            kept.append(png[at:end])
        at = end
    return b"".join([*kept, png[at:]])


def _is_compressed(itxt: bytes) -> bool:
    """A keyword of at most 79 bytes, NUL, then whether the text is compressed."""
    return itxt[:80].partition(b"\0")[2][:1] == b"\1" or b"\0" not in itxt[:80]
