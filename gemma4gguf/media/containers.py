"""Decode what libsndfile does not, with PyAV: the sound of M4A, MP4, WebM, WMA, AMR and others, and of videos.

An open file and its demuxer come in (see `kinds`); blocks of samples go out. FFmpeg never guesses what a file is, and
opens nothing that a file names. Without the extra `media` there is no PyAV, and `av()` is None.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

_OPTIONS = {"protocol_whitelist": "", "enable_drefs": "0", "use_absolute_path": "0"}  # no other file, no address
_STATING = frozenset({"mov", "matroska"})  # demuxers whose lengths come from the header, not from an estimate
MOST_DAMAGED = 1000  # packets


def av() -> Any | None:
    """PyAV, where it is installed."""
    try:
        return import_module("av")
    except ImportError:
        return None


class _Whole:
    """A file for PyAV: only what it needs of one, from its beginning."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell
        file.seek(0, os.SEEK_SET)


@contextmanager
def demuxed(file: IO[bytes], demuxer: str, name: str) -> Iterator[InputContainer]:
    """A container, closed again afterwards. Raises InputError where it is damaged."""
    library = av()
    assert library is not None
    with damage(name):
        container = library.open(_Whole(file), mode="r", format=demuxer, options=_OPTIONS, metadata_errors="ignore")
    with container:
        yield container


@contextmanager
def damage(name: str) -> Iterator[None]:
    """Turn what PyAV raises into an InputError. An InputError passes; any other error of ours would pass for damage."""
    library = av()
    assert library is not None
    try:
        yield
    except InputError:
        raise
    except (library.error.FFmpegError, OSError, ValueError, EOFError, MemoryError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: damaged or incomplete ({reason}); get the file again") from error


def packets(container: InputContainer, stream: AudioStream | VideoStream) -> Iterator[Any]:
    """A stream's packets in turn. PyAV has no place for those of a stream that begins in the middle of a file, and ends
    with an IndexError there: they are left out. Raises what PyAV raises otherwise.
    """
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            continue


def decoded(container: InputContainer, stream: AudioStream | VideoStream, name: str) -> Iterator[Any]:
    """A stream's frames in turn, and None for each packet that is damaged. Raises InputError."""
    library = av()
    assert library is not None
    coming = packets(container, stream)
    while True:
        try:
            with damage(name):
                packet = next(coming, None)
        except InputError as error:
            if not isinstance(error.__cause__, library.error.InvalidDataError):
                raise
            yield None  # the rest cannot be told apart
            return
        if packet is None:
            return
        try:
            frames: list[Any] = packet.decode()
        except library.error.FFmpegError:
            frames = [None]
        yield from frames


def _stated(container: InputContainer, stream: AudioStream) -> float | None:
    """Seconds of a sound by its header, or of the whole file where there is nothing else in it."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / 1e6 if alone and container.duration else None


class NoSoundError(InputError):
    """A whole file, but without sound."""


class Sound:
    """The first sound of a container, read once from front to end.

    `rate`: samples a second. `stated`: seconds by the header, or None. `damaged`: packets left out so far.
    """

    def __init__(self, container: InputContainer, demuxer: str, name: str) -> None:
        known = [stream for stream in container.streams.audio if stream.codec_context is not None]
        if not container.streams.audio:
            cure = "; give it as a video" if container.streams.video else ""
            raise NoSoundError(f"{name}: it has no sound track{cure}")
        if not known:
            raise InputError(f"{name}: cannot be read as sound: it has a sound track of an unknown kind")
        self._container, self._name, self._stream = container, name, known[0]
        self.rate = self._stream.codec_context.sample_rate
        self.damaged = 0
        self.stated = _stated(container, self._stream) if demuxer in _STATING else None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Arrays [n, channels], -1 to 1."""
        library = av()
        assert library is not None
        # One plane: PyAV 18 reads past the end of a frame with eight planes or more.
        packed = library.AudioResampler(format="flt")
        for frame in decoded(self._container, self._stream, self._name):
            if frame is None:
                self.damaged += 1
                if self.damaged > MOST_DAMAGED:
                    raise InputError(f"{self._name}: over {MOST_DAMAGED:,} of its packets are damaged")
                continue
            if frame.sample_rate != self.rate:
                raise InputError(
                    f"{self._name}: its sample rate changes from {self.rate:,} to {frame.sample_rate:,} Hz; "
                    "convert it with: ffmpeg -i FILE clip.wav"
                )
            with damage(self._name):
                arrays = [np.asarray(out.to_ndarray(), np.float32) for out in packed.resample(frame)]
            for array in arrays:
                yield array.reshape(-1, frame.layout.nb_channels)  # from [1, n * channels]
