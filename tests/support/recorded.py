"""Sound and video files as phones and programs write them, made with PyAV in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# of videos: FFmpeg's format, codec and pixel format
CONTAINERS = (
    *(("mp4", "libx264", "yuv420p"), ("mp4", "libx265", "yuv420p10le"), ("mp4", "libsvtav1", "yuv420p")),
    *(("mov", "prores", "yuv422p10le"), ("webm", "libvpx", "yuv420p"), ("webm", "libvpx-vp9", "yuv420p")),
    *(("matroska", "libx264", "yuv444p"), ("matroska", "ffv1", "yuv420p"), ("avi", "mpeg4", "yuv420p")),
    *(("avi", "libx264", "yuv420p"), ("flv", "libx264", "yuv420p"), ("asf", "wmv2", "yuv420p")),
    *(("mpegts", "libx264", "yuv420p"), ("3gp", "h263", "yuv420p")),
)


def sweep(rate: int, seconds: float = 1.0) -> Floats:
    """A tone that rises from 150 to 450 Hz: [n], at half of full scale. A delay shows in it."""
    time = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * (150 * time + 150 * time**2 / seconds))).astype(np.float32)


def sound_file(
    form: str,
    codec: str,
    samples: Floats,
    rate: int,
    layout: str = "mono",
    *,
    options: dict[str, str] | None = None,
) -> bytes:
    """`samples` [n] in every channel, as a file of FFmpeg's format `form`."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form, options=options or {}) as container:
        _write_sound(container, _sound_stream(container, codec, rate, layout), samples, rate, layout)
    return buffer.getvalue()


def video_file(
    form: str,
    codec: str,
    pictures: Sequence[Pixels],
    fps: Fraction | int = 25,
    *,
    times: Sequence[float] | None = None,
    pixel_format: str = "yuv420p",
    samples: Floats | None = None,
    sound_codec: str = "aac",
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    rotation: int = 0,
) -> bytes:
    """Pictures uint8 [height, width, 3] as a video; `times`: when each is shown, in seconds, else by `fps`.

    `samples`: sound at 48 kHz. `rotation`: what a player turns it by, counterclockwise, in degrees.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form, options=options or {}) as container:
        height, width = pictures[0].shape[:2]
        stream: Any = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.options = codec_options or {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        sound = None if samples is None else _sound_stream(container, sound_codec, 48_000, "stereo")
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index if times is None else round(times[index] * 1000)
            frame.time_base = 1 / Fraction(fps) if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None and samples is not None:
            _write_sound(container, sound, samples, 48_000, "stereo")
    return buffer.getvalue()


def _sound_stream(container: Any, codec: str, rate: int, layout: str) -> Any:
    stream = container.add_stream(codec, rate=rate, layout=layout)
    stream.bit_rate = 64_000 * av.AudioLayout(layout).nb_channels
    return stream


def _write_sound(container: Any, stream: Any, samples: Floats, rate: int, layout: str) -> None:
    context = stream.codec_context
    context.open(strict=False)
    channels = av.AudioLayout(layout).nb_channels
    whole = av.AudioFrame.from_ndarray(np.repeat(samples, channels)[None], format="flt", layout=layout)
    whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
    shaped = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size or None)
    for frame in [*shaped.resample(whole), *shaped.resample(None)]:
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def moving(count: int, height: int, width: int, seed: int = 0) -> list[Pixels]:
    """Pictures of coloured squares, all different: uint8 [height, width, 3] each."""
    draw = np.random.default_rng(seed)
    squares = draw.integers(0, 256, (count, -(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return [np.kron(each, np.ones((16, 16, 1), np.uint8))[:height, :width] for each in squares]
