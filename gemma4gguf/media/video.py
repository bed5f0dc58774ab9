"""Choose a video's frames and read them, as the reference does: 32 of them, evenly spaced, each with its time.

A video comes in: a path, bytes, an open file, or a `Video` that says how to look at it. Small frames and their times go
out. Needs the extra `media`. Memory does not grow with the video's length but for its packets' times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arguments import real, whole
from ..errors import InputError
from ..limits import current
from .audio import SAMPLE_RATE, TRAINED_SECONDS, listen
from .containers import av, damage, demuxed
from .image import check_budget, target_size
from .kinds import EXTRA, HEAD_BYTES, TO_FRAMES, kind_of
from .picture import DEEP, check_size
from .source import FileInput, is_file, opened
from .timeline import Reader, timeline

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

FRAMES = 32  # of a video, where nobody says otherwise
FRAME_TOKENS = 70  # soft tokens of a frame
MOST_FRAMES = 1024
_KNOWN = "MP4, MOV, WebM, MKV, AVI"


@dataclass(frozen=True)
class Video:
    """A video, and how it is looked at.

    `frames`: at most so many, evenly spaced. `frame_tokens`: soft tokens of each (70, 140, 280, 560, 1120). `start`,
    `end`: seconds; only what is shown between them. `sound`: its sound is heard, too; at most 30 s.
    """

    source: FileInput
    frames: int = FRAMES
    frame_tokens: int = FRAME_TOKENS
    start: float = 0.0
    end: float | None = None
    sound: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.source, (bytearray, memoryview)):
            object.__setattr__(self, "source", bytes(self.source))
        whole("frames", self.frames, lambda v: 1 <= v <= MOST_FRAMES, f"a whole number, 1 to {MOST_FRAMES:,}")
        check_budget(self.frame_tokens)
        real("start", self.start, lambda v: v >= 0, "seconds, at least 0")
        if self.end is not None:
            real("end", self.end, lambda v: v > self.start, "seconds, after the start")


VideoInput: TypeAlias = FileInput | Video
Videos: TypeAlias = VideoInput | Sequence[VideoInput] | None


class Sampled(NamedTuple):
    """A video as the model sees it.

    frames  uint8 [n, height, width, 3], upright, both sides multiples of 48 that fill the budget of a frame
    stamps  float64 [n], when each is shown, in seconds
    """

    frames: NDArray[np.uint8]
    stamps: NDArray[np.float64]


def sample(video: VideoInput) -> Sampled:
    """A video's frames and their times. `video`: a path, a file as bytes, an open file, or a `Video`.

    Where the frame rate is constant, frame i of n is number i * count // n, shown at its number / rate seconds: the
    reference's choice. Where it varies, it is the one that is shown at that share of the time, which the reference
    does not look at. A video of fewer frames gives all of them. Raises InputError for anything else than a video.
    Source: transformers 5.24 Gemma4UnifiedVideoProcessor; Pillow's bicubic differs from it by at most 2/255.
    """
    asked = as_video(video)
    with _container(asked.source) as (container, name):
        stream = _picture_stream(container, name)
        line = timeline(container, stream, name)
        chosen = choose(line.times, line.rate, asked)
        if not len(chosen):
            until = "its end" if asked.end is None else f"{asked.end:g} s"
            raise InputError(f"{name}: shows nothing between {asked.start:g} s and {until}")
        found = list(_small(Reader(container, stream, line, name).frames(chosen), asked.frame_tokens, name))
    stamps = line.times[chosen] if line.rate is None else chosen / line.rate
    return Sampled(np.stack(found), np.asarray(stamps, np.float64)[: len(found)])


def _small(frames: Iterator[VideoFrame], frame_tokens: int, name: str) -> Iterator[NDArray[np.uint8]]:
    """Frames as the model sees them, each as soon as it is decoded: upright, and as large as the first one."""
    size: tuple[int, int] | None = None
    for frame in frames:
        with damage(name):
            rgb = frame.to_ndarray(format="rgb24")
        upright = np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))
        size = size or target_size(upright.shape[1], upright.shape[0], frame_tokens)
        picture = Image.fromarray(upright)
        yield np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))
    if size is None:
        raise InputError(f"{name}: none of its frames can be decoded; get the file again")


def as_video(video: VideoInput) -> Video:
    """What was given, with how to look at it."""
    return video if isinstance(video, Video) else Video(video)


def stamp(seconds: float) -> str:
    """A time as the model reads it, rounded down: `mm:ss`."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


def sound(video: Video) -> tuple[NDArray[np.float32], int]:
    """The sound of what is shown, as samples and their rate. Raises InputError over 30 s."""
    first = round(video.start * SAMPLE_RATE)
    most = first + TRAINED_SECONDS * SAMPLE_RATE
    last = most + 1 if video.end is None else min(most + 1, round(video.end * SAMPLE_RATE))
    kept: list[NDArray[np.float32]] = []
    at = 0
    for block in listen(video.source):
        kept.append(block[max(0, first - at) : max(0, last - at)])
        at += len(block)
        if at >= last:
            break
    samples = np.concatenate(kept)
    if len(samples) > TRAINED_SECONDS * SAMPLE_RATE:
        raise InputError(
            f"the video's sound is longer than {TRAINED_SECONDS} s, the most that the model hears at a time: choose a "
            "part by start and end, or write it down first with `gemma4gguf transcribe`"
        )
    return samples, SAMPLE_RATE


# ── which frames ─────────────────────────────────────────────────────────────────────────────────────────────────


def choose(times: NDArray[np.float64], rate: float | None, video: Video) -> NDArray[np.intp]:
    """The numbers of the frames to show, of those shown at `times` in seconds, [count], rising.

    `rate`: frames a second where it is constant.
    """
    shown = np.arange(len(times)) / rate if rate is not None else times
    inside = np.flatnonzero((shown >= video.start) & (shown < (np.inf if video.end is None else video.end)))
    count, wanted = len(inside), video.frames
    if count <= wanted:
        return inside
    if rate is not None:
        return np.asarray(inside[0] + np.arange(wanted) * count // wanted, np.intp)
    first, last = shown[inside[0]], shown[inside[-1]] + float(np.median(np.diff(times)))
    moments = first + np.arange(wanted) * (last - first) / wanted
    return np.unique(np.searchsorted(times, moments, "right") - 1)


# ── opening it ──────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _container(source: FileInput) -> Iterator[tuple[InputContainer, str]]:
    """An open container, and a name for messages."""
    if not is_file(source):
        raise InputError(f"a video given as {type(source).__name__}: expected a path, bytes, an open file or a Video")
    with opened(source, "the video") as (name, file):
        file.seek(0)
        kind = kind_of(file.read(HEAD_BYTES))
        if kind and kind.video and av() is None:
            raise InputError(f"{name}: it is {kind.what}; {EXTRA} lets it be read, or {TO_FRAMES}")
        if kind is None or not kind.demuxer or av() is None:
            found = f": it is {kind.what}; {kind.as_picture or 'give it as an image'}" if kind else ""
            raise InputError(f"{name}: not a video in a known format ({_KNOWN}){found}")
        with demuxed(file, kind.demuxer, name) as container:
            yield container, name


def _picture_stream(container: InputContainer, name: str) -> VideoStream:
    """The first video of a container; the cover of an album is none."""
    for stream in container.streams.video:
        context = stream.codec_context
        if context is None or "attached_pic" in str(stream.disposition):
            continue
        check_size(f"{name}: a frame", context.width, context.height, DEEP)
        context.options = {"max_pixels": str(current().picture_bytes // DEEP)}
        stream.thread_type = "AUTO"
        return stream
    raise InputError(f"{name}: it has no video track; give its sound as audio")
