"""Videos: which frames are looked at and when, in every container, and what cannot be used.

The reference's own choice is asked for in `parity/test_video.py`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gemma4gguf import Gemma4, Video, sample
from gemma4gguf.errors import InputError
from gemma4gguf.media.audio import SAMPLE_RATE, TRAINED_SECONDS
from gemma4gguf.media.containers import packets
from gemma4gguf.media.timeline import Reader, timeline
from gemma4gguf.media.video import choose, sound, stamp
from tests.support.pictures import encoded
from tests.support.recorded import CONTAINERS, moving, sound_file, sweep, video_file

PICTURES = moving(100, 96, 128)


def shown(found: NDArray[np.uint8]) -> list[int]:
    """Which of PICTURES each frame is."""
    small = np.stack([np.asarray(Image.fromarray(picture).resize((16, 12))) for picture in PICTURES]).astype(int)
    frames = [np.asarray(Image.fromarray(frame).resize((16, 12))).astype(int) for frame in found]
    return [int(np.abs(small - frame).mean(axis=(1, 2, 3)).argmin()) for frame in frames]


EVENLY = [i * 100 // 32 for i in range(32)]

# ── which frames ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("form", "codec", "pixel_format"), CONTAINERS)
def test_the_same_frames_in_every_container(form: str, codec: str, pixel_format: str) -> None:
    data = video_file(form, codec, PICTURES, 25, pixel_format=pixel_format, codec_options={"g": "30"})
    found = sample(data)
    assert shown(found.frames) == EVENLY
    assert found.frames.shape == (32, 336, 432, 3)
    np.testing.assert_allclose(found.stamps, np.array(EVENLY) / 25)


@pytest.mark.parametrize(
    ("form", "codec", "options"),
    [
        ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("webm", "libvpx-vp9", {"live": "1"}),
        ("matroska", "libx264", {"live": "1"}),
    ],
)
def test_a_video_that_does_not_say_how_long_it_is(form: str, codec: str, options: dict[str, str]) -> None:
    found = sample(video_file(form, codec, PICTURES, 25, options=options, codec_options={"g": "30"}))
    assert shown(found.frames) == EVENLY
    np.testing.assert_allclose(found.stamps, np.array(EVENLY) / 25)


HDR = "log-level=none:colorprim=bt2020:colormatrix=bt2020nc:transfer="


@pytest.mark.parametrize(
    ("form", "codec", "pixel_format", "options"),
    [
        ("mp4", "libx265", "yuv420p10le", {"x265-params": HDR + "smpte2084"}),
        ("mov", "libx265", "yuv420p10le", {"x265-params": HDR + "arib-std-b67"}),
        ("webm", "libvpx-vp9", "yuv444p", {}),
        ("mp4", "libsvtav1", "yuv420p10le", {}),
        ("mov", "prores_ks", "yuva444p10le", {}),
        ("matroska", "ffv1", "yuv444p16le", {}),
    ],
)
def test_deep_colours_and_hdr_are_as_ffmpeg_shows_them(
    form: str, codec: str, pixel_format: str, options: dict[str, str]
) -> None:
    """As the reference decodes them: without a mapping of brightness."""
    data = video_file(form, codec, PICTURES[:3], 25, pixel_format=pixel_format, codec_options=options)
    found = sample(data).frames
    with av.open(io.BytesIO(data)) as container:
        whole = [frame.to_image() for frame in container.decode(video=0)]
    size = (found.shape[2], found.shape[1])
    assert len(found) == len(whole) == 3
    for ours, theirs in zip(found, whole, strict=True):
        assert np.array_equal(ours, np.asarray(theirs.resize(size, Image.Resampling.BICUBIC)))
    assert shown(found) == [0, 1, 2]


def test_sides_of_odd_lengths() -> None:
    found = sample(video_file("matroska", "libx264", moving(2, 97, 65), pixel_format="yuv444p"))
    assert found.frames.shape == (2, 480, 288, 3)


def test_an_mpeg_program_stream_is_right_to_a_frame() -> None:
    """It does not say when each of its frames is shown."""
    found = sample(video_file("mpeg", "mpeg2video", PICTURES, 25, codec_options={"g": "30"}))
    assert np.abs(np.array(shown(found.frames)) - EVENLY).max() <= 1


@pytest.fixture(scope="module")
def clip() -> bytes:
    """100 frames in four seconds, one in 30 of them complete."""
    return video_file("mp4", "libx264", PICTURES, 25, codec_options={"g": "30"})


def test_part_of_a_video_and_other_numbers_of_frames(clip: bytes) -> None:
    part = sample(Video(clip, frames=5, start=1, end=2))
    assert shown(part.frames) == [25, 30, 35, 40, 45]
    np.testing.assert_allclose(part.stamps, [1.0, 1.2, 1.4, 1.6, 1.8])
    assert shown(sample(Video(clip, frames=2)).frames) == [0, 50]
    assert shown(sample(Video(clip, start=3.8)).frames) == [95, 96, 97, 98, 99]
    assert shown(sample(Video(clip, frames=1024)).frames) == list(range(100))
    assert sample(Video(clip, frames=1, frame_tokens=280)).frames.shape == (1, 672, 912, 3)


@pytest.mark.parametrize(
    ("form", "codec"), [("matroska", "libx264"), ("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx-vp9")]
)
def test_a_variable_frame_rate_goes_by_time(form: str, codec: str) -> None:
    """Ten frames in the first second, one in each of the next nine."""
    times = [*np.arange(10) / 10, *range(1, 10)]
    data = video_file(form, codec, PICTURES[:19], 10, times=times)
    few = sample(Video(data, frames=5))
    assert shown(few.frames) == [0, 10, 12, 14, 16]
    np.testing.assert_allclose(few.stamps, [0, 1, 3, 5, 7], atol=0.002)
    whole = sample(data)
    assert shown(whole.frames) == list(range(19))
    np.testing.assert_allclose(whole.stamps, times, atol=0.002)


def test_a_frame_that_stays_is_looked_at_once() -> None:
    times = np.array([0.0, 0.1, 0.2, 9.0])
    assert choose(times, None, Video(b"", frames=3)).tolist() == [0, 2]


@pytest.mark.parametrize("form", ["mp4", "mov"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_rotation_is_applied(degrees: int, form: str) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255  # the top left corner
    data = video_file(form, "libx264", [picture] * 3, rotation=degrees)
    frame = sample(data).frames[0]
    assert (frame.shape[0] > frame.shape[1]) == (degrees in (90, 270))
    high, wide = frame.shape[0] // 4, frame.shape[1] // 4
    corners = [int(frame[y, x].mean() > 128) for y in (high, 3 * high) for x in (wide, 3 * wide)]
    assert corners == {0: [1, 0, 0, 0], 90: [0, 0, 1, 0], 180: [0, 0, 0, 1], 270: [0, 1, 0, 0]}[degrees]


def test_a_long_video_takes_a_seek_for_each_frame_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours, a frame a second, one in fifty complete."""
    passed = 0

    def counted(*of: Any) -> Iterator[Any]:
        nonlocal passed
        for packet in packets(*of):
            passed += packet.size > 0
            yield packet

    for module in (timeline.__module__, packets.__module__):
        monkeypatch.setattr(f"{module}.packets", counted)
    pictures = [np.full((32, 32, 3), i % 256, np.uint8) for i in range(7200)]
    data = video_file("mp4", "mpeg4", pictures, 1, codec_options={"g": "50"})
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        line = timeline(container, stream, "it")
        assert passed == 7200  # once
        reader = Reader(container, stream, line, "it")
        chosen = np.arange(32) * 7200 // 32
        found = [frame.to_ndarray(format="gray").mean() for frame in reader.frames(chosen)]
    assert reader.seeks == 32
    assert passed <= 7200 + 32 * 50  # from a complete frame to the one that is wanted
    np.testing.assert_allclose(found, chosen % 256, atol=4)
    assert [stamp(seconds) for seconds in sample(data).stamps[[0, 1, 31]]] == ["00:00", "03:45", "116:15"]


# ── files as they come ───────────────────────────────────────────────────────────────────────────────────────────


def test_path_bytes_and_open_file(clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    path.write_bytes(clip)
    with open(path, "rb") as file:
        for source in (path, str(path), bytearray(clip), memoryview(clip), file, Video(bytearray(clip))):
            assert np.array_equal(sample(source).frames, sample(clip).frames)


@pytest.mark.parametrize(
    ("form", "codec", "options"),
    [
        *(("matroska", "libx264", {}), ("webm", "libvpx-vp9", {}), ("mpegts", "libx264", {}), ("avi", "mpeg4", {})),
        *(("flv", "libx264", {}), ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"})),
    ],
)
def test_a_video_that_is_cut_off_shows_what_is_there(form: str, codec: str, options: dict[str, str]) -> None:
    data = video_file(form, codec, PICTURES, 25, options=options, codec_options={"g": "30"})
    found = sample(data[: len(data) // 2])
    assert 0 < len(found.frames) <= 32
    assert len(found.frames) == len(found.stamps)
    assert found.stamps[-1] < 2.5


@pytest.mark.parametrize(("form", "codec"), [("webm", "libvpx-vp9"), ("matroska", "libx264"), ("avi", "mpeg4")])
def test_what_follows_a_damaged_packet_is_shown(form: str, codec: str) -> None:
    data = bytearray(video_file(form, codec, PICTURES, 25, codec_options={"g": "10"}))
    with av.open(io.BytesIO(data)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][45]
        start, end = (packet.pos or 0) + 12, (packet.pos or 0) + packet.size - 2
    data[start:end] = b"\xff" * (end - start)
    found = sample(Video(bytes(data), frames=1024))
    assert len(found.frames) == len(found.stamps) == 100
    assert shown(found.frames)[60:] == list(range(60, 100))


def test_damaged_videos_raise_nothing_but_input_errors(clip: bytes) -> None:
    whole = np.frombuffer(clip, np.uint8)
    rng = np.random.default_rng(7)
    refused: list[str] = []
    for most in (len(whole), 3000):
        for _ in range(10):
            damaged = whole.copy()
            damaged[rng.integers(0, most, 20)] = rng.integers(0, 256, 20)
            try:
                found = sample(damaged.tobytes())
                assert len(found.frames) == len(found.stamps) > 0
            except InputError as error:
                refused.append(str(error))
    assert all(map(str.isprintable, refused))


def test_sound_that_begins_long_after_the_pictures() -> None:
    """FFmpeg then finds the track only while it reads the file; PyAV has no place for it."""
    written = video_file("flv", "libx264", moving(100, 48, 64), 1, samples=sweep(SAMPLE_RATE, 0.3))
    tags: list[bytes] = []
    at = 13
    while at < len(written):
        end = at + 15 + int.from_bytes(written[at + 1 : at + 4], "big")
        tags.append(written[at:end])
        at = end
    tags.sort(key=lambda tag: tag[0] == 8)  # sound behind the pictures
    assert len(sample(written[:4] + b"\1" + written[5:13] + b"".join(tags)).frames) == 32


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "a video given as int: expected a path"),
        ("no/such.mp4", "no/such.mp4: No such file"),
        (b"", r"not a video in a known format \(MP4, .*\): it is an empty file; get the file again"),
        (encoded(Image.new("RGB", (4, 4))), "it is a picture; give it as an image"),
        (sound_file("ipod", "aac", sweep(16_000, 0.2), 16_000), "it has no video track; give its sound as audio"),
        (b"hello", "not a video in a known format"),
        (b"\0\0\0\x18ftypisom" + bytes(500), "damaged or incomplete"),
    ],
)
def test_what_is_no_video(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(source)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"frames": 0}, "frames is 0, expected a whole number, 1 to 1,024"),
        ({"frame_tokens": 71}, "choose one of 70, 140, 280, 560, 1120"),
        ({"start": -1}, "start is -1, expected seconds"),
        ({"start": 2, "end": 2}, "end is 2, expected seconds, after the start"),
        ({"start": 9}, "shows nothing between 9 s and its end"),
    ],
)
def test_what_cannot_be_asked(how: dict[str, Any], message: str, clip: bytes) -> None:
    with pytest.raises(InputError, match=message):
        sample(Video(clip, **how))


# ── in a question ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Any:
    with Gemma4(tiny_bundle, context=4096, draft="off") as opened:
        yield opened


def test_a_question_and_a_message_hold_the_same_video(model: Gemma4, clip: bytes) -> None:
    asked = model.generate("What is this?", videos=clip, temperature=0, max_tokens=8)
    part = {"type": "input_video", "input_video": {"data": clip, "format": "mp4"}}
    message = {"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}
    told = model.chat([message], temperature=0, max_tokens=8)
    assert asked.tokens.image == told.tokens.image == 32 * 63
    assert asked.tokens.prompt == told.tokens.prompt == model.count_tokens([message]).prompt
    assert asked.text == told.text
    assert told.tokens.reused > 32 * 63  # frames are known by their content


def test_a_video_in_a_full_conversation_is_read_once(
    model: Gemma4, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []

    def counting(video: Any) -> Any:
        read.append(video)
        return sample(video)

    monkeypatch.setattr("gemma4gguf.runtime.composer.sample", counting)
    part = {"type": "input_video", "input_video": {"data": clip, "format": "mp4"}}
    old = [{"role": "user", "content": "Hi " * 300}, {"role": "assistant", "content": "Hello."}] * 6
    new = {"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}
    result = model.chat([*old, new], on_full="drop", max_tokens=4)
    assert result.dropped_turns
    assert len(read) == 1


def test_the_sound_of_a_video_comes_first() -> None:
    data = video_file("mp4", "libx264", PICTURES[:50], 25, samples=sweep(48_000, 2.0))
    samples, rate = sound(Video(data, start=0.5, end=1.5))
    assert (len(samples), rate) == (SAMPLE_RATE, SAMPLE_RATE)
    np.testing.assert_allclose(samples[100:-100], sweep(SAMPLE_RATE, 2.0)[8100:23_900], atol=0.05)


def test_a_video_with_its_sound(model: Gemma4) -> None:
    data = video_file("mp4", "libx264", PICTURES[:50], 25, samples=sweep(48_000, 2.0))
    counted = model.count_tokens("What?", videos=Video(data, sound=True))
    assert counted.image == 32 * 63
    assert counted.audio == pytest.approx(50, abs=3)
    *_, last = model.stream("What?", videos=Video(data, sound=True), max_tokens=2)
    assert last.result is not None


def test_sound_beyond_what_the_model_hears() -> None:
    long = video_file("mp4", "libx264", PICTURES[:2], 1, samples=sweep(48_000, TRAINED_SECONDS + 1.0))
    with pytest.raises(InputError, match="longer than 30 s"):
        sound(Video(long))


def test_a_frame_larger_than_a_micro_batch(model: Gemma4, clip: bytes) -> None:
    with pytest.raises(InputError, match="frame_tokens is 1120, 512 is the most here; open it with image_tokens=1120"):
        model.generate("What?", videos=Video(clip, frame_tokens=1120))
