"""Pictures and sound as bytes that keep: what a conversation holds, whatever becomes of the file or the array.

Anything that `to_rgb` or `frame` takes comes in. The bytes of a file go out, as they are, or encoded without loss.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
from PIL import Image

from ..errors import InputError
from .audio import SAMPLE_RATE, AudioInput, frame
from .picture import header
from .rgb import ImageInput, to_rgb
from .source import is_file, opened, told

SOUND = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"FORM": "aiff"}  # a file's first four bytes


def picture_bytes(image: ImageInput) -> bytes:
    """A picture's file, or a PNG of the upright RGB picture. Raises InputError."""
    return _own_bytes(image) or _png(image)


def clip_bytes(audio: AudioInput) -> bytes:
    """A clip's file, or a WAV of its frames: 16 kHz, mono, float32. Raises InputError."""
    return _own_bytes(audio) or _wav(audio)


def picture_type(data: bytes) -> str:
    """The media type of a picture's file, by its content; application/octet-stream where none is known."""
    try:
        return header(data)[0]
    except InputError:  # damaged: who reads it says so
        return "application/octet-stream"


def clip_format(data: bytes) -> str:
    """The name of a sound file's format, by its first bytes."""
    return SOUND.get(data[:4], "mp3")


def _own_bytes(medium: object) -> bytes:
    """The bytes of a path, an open file or a file in memory; none for anything else."""
    if isinstance(medium, Image.Image) or not is_file(medium):
        return b""
    with opened(medium, "the file") as (name, file), told(name):  # type: ignore[arg-type]
        data = file.read()
    if not isinstance(data, bytes) or not data:
        raise InputError(f"{name}: has no bytes; open files in binary mode")
    return data


def _png(image: ImageInput) -> bytes:
    out = io.BytesIO()
    to_rgb(image).save(out, "PNG")
    return out.getvalue()


def _wav(audio: AudioInput) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.ravel(frame(audio)), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()
