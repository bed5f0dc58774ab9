"""When each frame of a video is shown, and the decoding of some of them without decoding all.

An open container comes in (see `containers`). Times go out after one pass over its packets, then frames, each after at
most one seek, where the container is sound. Which frames is decided in `video`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .containers import damage, decoded, packets

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

DEFAULT_FPS = 24.0  # of a video that does not say
MOST_PACKETS = 10_000_000  # of a video: 46 hours at 60 frames a second
_COUNTED = frozenset({"avi"})
_BACK = (0, 1, 4, 16, 1 << 20)  # seconds; some containers seek to what is near, perhaps behind


class Timeline(NamedTuple):
    """`pts`: when frames are shown, in the stream's unit, rising; `times`: in seconds from the first; `keys`: the pts
    of frames that can be decoded without others; `rate`: frames a second where it is constant; `counted`: the
    container knows only the order of decoding, and decoded frames have no times that can be used.
    """

    pts: NDArray[np.int64]
    times: NDArray[np.float64]
    keys: NDArray[np.int64]
    rate: float | None
    counted: bool


def timeline(container: InputContainer, stream: VideoStream, name: str) -> Timeline:
    """One pass over the packets: a header may be wrong about their number and their times."""
    pts: list[int] = []
    keys: list[int] = []
    with damage(name):
        for packet in packets(container, stream):
            at = packet.dts if packet.pts is None else packet.pts
            if at is None and pts and packet.size and packet.duration:  # some containers leave out what can be guessed
                at = pts[-1] + packet.duration
            if at is None or packet.is_discard:
                continue
            pts.append(at)
            if packet.is_keyframe:
                keys.append(at)
            if len(pts) > MOST_PACKETS:
                raise InputError(f"{name}: over {MOST_PACKETS:,} frames; cut it")
    if not pts:
        raise InputError(f"{name}: has no frames: it is empty or cut off; give a video that plays")
    shown = np.unique(np.array(pts, np.int64))
    unit = float(stream.time_base or 1 / DEFAULT_FPS)
    times = (shown - shown[0]) * unit
    rate = float(stream.average_rate or DEFAULT_FPS)
    even, counted = is_constant(times, unit, rate), container.format.name in _COUNTED
    return Timeline(shown, times, np.unique(np.array(keys, np.int64)), rate if even else None, counted)


def is_constant(times: NDArray[np.float64], unit: float, rate: float) -> bool:
    """Whether frames are shown when their rate says, but for rounding to `unit` seconds."""
    late = times - np.arange(len(times)) / rate
    return bool(np.abs(late - late.mean()).max() <= max(unit, 0.25 / rate))


class Reader:
    """Decodes the frames of a timeline that somebody asks for, in their order. `seeks`: how many it took."""

    def __init__(self, container: InputContainer, stream: VideoStream, line: Timeline, name: str) -> None:
        self._container, self._stream, self._line, self._name = container, stream, line, name
        self._frames: Iterator[VideoFrame | None] = iter(())
        self._at: int | None = None  # the pts of the last frame that was decoded
        self._frame: Any = None
        self._number = 0  # of the next frame, where frames are counted
        self.seeks = 0

    def frames(self, chosen: NDArray[np.intp]) -> Iterator[VideoFrame]:
        """The frames of these numbers, which rise; the next one in place of one that is damaged."""
        for pts in map(int, self._line.pts[chosen]):
            between = (self._line.keys > (self._at or 0)) & (self._line.keys <= pts)
            if self._at is None or np.any(between):
                self._go_to(pts)
            while self._frame is not None and self._at is not None and self._at < pts:
                self._step()
            if self._frame is None:
                return
            yield self._frame

    def _go_to(self, pts: int) -> None:
        """Decode the frame from which the one at `pts` can be decoded."""
        first, unit = int(self._line.pts[0]), float(self._stream.time_base or 1 / DEFAULT_FPS)
        key = int(max(self._line.keys[self._line.keys <= pts], default=first))
        for back in _BACK:
            with damage(self._name):
                self._container.seek(key - round(back / unit), stream=self._stream, backward=True)
            self._frames = decoded(self._container, self._stream, self._name)
            self.seeks += 1
            self._number = int(np.searchsorted(self._line.pts, key))
            self._step()
            if self._line.counted or (self._frame is not None and self._at is not None and self._at <= pts):
                return

    def _step(self) -> None:
        """Decode one frame more, behind damaged packets; none at the end."""
        self._frame = None
        while self._frame is None:
            try:
                self._frame = next(self._frames)
            except StopIteration:
                return
            self._number += 1
        if self._line.counted:
            self._at = int(self._line.pts[min(self._number, len(self._line.pts)) - 1])
        else:
            self._at = self._frame.dts if self._frame.pts is None else self._frame.pts
