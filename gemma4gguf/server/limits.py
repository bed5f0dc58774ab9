"""Messages whose media were held against the limits.

In: a request's messages, as a stranger sent them. Out: the same messages, pictures as bytes and sound as samples.
Raises InputError or RequestError before anything is computed. Opens no path and no address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..chat.messages import prepare_messages
from ..errors import InputError
from ..media.audio import SAMPLE_RATE, listen
from ..media.picture import header
from ..records import Message
from .failure import RequestError
from .settings import Limits


def bounded(messages: Sequence[Message], limits: Limits) -> list[Message]:
    """Checked messages whose media are bytes and samples, within the limits."""
    prepared, media = prepare_messages(messages, local_files=False)
    pictures = sum(kind == "image" for kind, _ in media)
    if pictures > limits.pictures:
        raise RequestError("large", f"{pictures} pictures in a request, expected at most {limits.pictures}")
    waiting, left = iter(media), limits.sound
    for message in prepared:
        content = message["content"]
        for part in content if isinstance(content, list) else ():
            if part["type"] == "text":
                continue
            _, medium = next(waiting)
            if part["type"] == "image":
                part["image"] = _picture(medium, limits.pixels)
            elif part["type"] == "audio":
                samples = _heard(medium, left)
                left -= len(samples) / SAMPLE_RATE
                part["audio"] = samples, SAMPLE_RATE
            else:
                part["video"] = medium  # how much of it is decoded is bounded where its frames are read
    return list(prepared)


def _heard(clip: bytes, most_s: float) -> NDArray[np.float32]:
    """A clip's samples. What is longer is not decoded to its end: a small file may be hours long."""
    return np.concatenate(list(_blocks(clip, most_s)))


def seconds(clip: bytes, most_s: float) -> float:
    """How long a clip is. Nothing of it is kept."""
    return sum(map(len, _blocks(clip, most_s))) / SAMPLE_RATE


def _blocks(clip: bytes, most_s: float) -> Iterator[NDArray[np.float32]]:
    count = 0
    for block in listen(clip, bounded=True):
        count += len(block)
        if count > most_s * SAMPLE_RATE:
            raise RequestError("large", f"more sound in a request than expected: {most_s:g} s were left for this clip")
        yield block


def _picture(data: bytes, most: int) -> bytes:
    """The picture's file, if its header names no more pixels. A damaged one is for its reader to tell."""
    try:
        _, (width, height) = header(data)
    except InputError:
        return data
    if width * height > most:
        raise RequestError("large", f"a picture of {width:,} x {height:,} pixels, expected at most {most:,} pixels")
    return data
