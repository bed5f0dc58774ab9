"""What the headers of one file may cost, in one place.

A 12B's bundle has 30 MB of headers with 1.6 million strings and 1.1 million numbers; the limits are far above that, and
low enough that a hostile file costs neither much time nor much memory.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds on the headers of a file; all but the last three count over all its sections together."""

    sections: int = 8
    header_bytes: int = 1 << 27  # kept twice while a bundle is open
    entries: int = 1 << 15  # keys, and as many tensors
    numbers: int = 1 << 21  # in arrays: a Python number each, up to 40 bytes
    strings: int = 1 << 22  # in arrays: they stay bytes until they are asked for
    key_bytes: int = 1 << 12
    string_bytes: int = 1 << 24  # of a value that is one string, such as a chat template
    alignment: int = 1 << 20


LIMITS = Limits()
