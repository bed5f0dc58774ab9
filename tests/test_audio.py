"""Sound to frames: counts, scaling, mixing, resampling, every container, and what cannot be used."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from gemma4gguf.bundle.projector import FRAME_SAMPLES
from gemma4gguf.errors import InputError
from gemma4gguf.limits import Limits
from gemma4gguf.media.audio import (
    BLOCK_SAMPLES,
    FRAME_SECONDS,
    SAMPLE_RATE,
    TRAINED_SECONDS,
    AudioWarning,
    frame,
    listen,
)


def noise(count: int, channels: int = 0, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = (count, channels) if channels else (count,)
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).clip(-1, 1).astype(np.float32)


def encoded(samples: Any, rate: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore::gemma4gguf.media.audio.AudioWarning")
@pytest.mark.parametrize(
    ("count", "frames"), [(1, 1), (639, 1), (640, 1), (641, 2), (1280, 2), (480_000, 750), (480_001, 751)]
)
def test_the_last_frame_is_kept_and_padded(count: int, frames: int) -> None:
    samples: Any = noise(count)
    result = frame((samples, SAMPLE_RATE))
    assert result.shape == (frames, FRAME_SAMPLES)
    assert result.dtype == np.float32
    assert np.array_equal(result.reshape(-1)[:count], samples)
    assert not result.reshape(-1)[count:].any()


def test_an_empty_clip_is_an_error() -> None:
    empty: list[Any] = [[], np.zeros(0, np.float32), np.zeros((0, 2), np.int16)]
    for samples in empty:
        with pytest.raises(InputError, match="has no samples"):
            frame((samples, SAMPLE_RATE))
    with pytest.raises(InputError, match="has no samples"):
        frame(encoded(np.zeros(0, np.float32), SAMPLE_RATE, "WAV"))


def test_agrees_with_a_slow_one() -> None:
    samples = noise(3000, channels=2)
    slow = []
    for start in range(0, 3000, 640):
        row = [(float(left) + float(right)) / 2 for left, right in samples[start : start + 640]]
        slow.append(row + [0.0] * (640 - len(row)))
    np.testing.assert_allclose(frame((samples, SAMPLE_RATE)), np.array(slow), atol=1e-8)


def test_over_thirty_seconds_warns_with_the_length() -> None:
    assert FRAME_SECONDS == 0.04
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame((np.zeros(TRAINED_SECONDS * SAMPLE_RATE, np.float32), SAMPLE_RATE))
    with pytest.warns(AudioWarning, match=r"30\.04 s long, the model was trained on up to 30 s"):
        frame((np.zeros(TRAINED_SECONDS * SAMPLE_RATE + 1, np.float32), SAMPLE_RATE))
    with pytest.warns(AudioWarning, match=r"45\.00 s long"):
        assert len(frame((np.zeros(45 * 8000, np.int16), 8000))) == 45 / FRAME_SECONDS  # nothing is cut


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("dtype", "low", "middle", "high"),
    [
        (np.int8, -128, 0, 64),
        (np.int16, -32_768, 0, 16_384),
        (np.int32, -(2**31), 0, 2**30),
        (np.uint8, 0, 128, 192),
        (np.uint16, 0, 32_768, 49_152),
        (np.uint32, 0, 2**31, 3 * 2**30),
        (np.float16, -1, 0, 0.5),
        (np.float32, -1, 0, 0.5),
        (np.float64, -1, 0, 0.5),
    ],
)
def test_every_type_is_scaled_by_its_range(dtype: Any, low: float, middle: float, high: float) -> None:
    result = frame((np.array([low, middle, high], dtype), SAMPLE_RATE))
    assert result[0, :3].tolist() == [-1.0, 0.0, 0.5]


def test_a_quiet_clip_stays_quiet() -> None:
    # The embedder's RMS norm hides a wrong scale on loud clips; on quiet ones its epsilon shows.
    result = frame((np.array([3, -2, 1], np.int16), SAMPLE_RATE))
    np.testing.assert_allclose(result[0, :3], np.array([3, -2, 1]) / 32_768, rtol=1e-7)


def test_plain_lists_and_read_only_arrays() -> None:
    assert frame(([0.5, -0.5], SAMPLE_RATE))[0, :3].tolist() == [0.5, -0.5, 0.0]
    samples = noise(700)
    samples.flags.writeable = False
    assert np.array_equal(frame((samples, SAMPLE_RATE)).reshape(-1)[:700], samples)


def test_channels_are_averaged_not_chosen() -> None:
    samples = noise(2000, channels=5)
    expected = samples.astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(frame((samples, SAMPLE_RATE)).reshape(-1)[:2000], expected, atol=1e-7)
    assert not frame((np.array([[1.0, -1.0]] * 640), SAMPLE_RATE)).any()


@pytest.mark.parametrize("closed_after", [1, 2])
def test_a_file_that_is_read_ahead_can_be_left(tmp_path: Path, closed_after: int) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(noise(4 * BLOCK_SAMPLES, channels=2), SAMPLE_RATE, "WAV"))
    before = {*threading.enumerate()}
    with path.open("rb") as file:
        blocks = listen(file)
        assert isinstance(blocks, Generator)
        for _ in range(closed_after):
            next(blocks)
        blocks.close()
        assert not [new for new in {*threading.enumerate()} - before if "gemma4gguf-decode" in new.name]


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000, 16_001, 44_100.5])
def test_any_rate_becomes_16_khz(rate: float) -> None:
    seconds = 0.5
    time = np.arange(round(rate * seconds)) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    flat = frame((tone, rate)).reshape(-1)
    wanted = -(-len(tone) * SAMPLE_RATE // rate)
    assert len(flat) == -(-wanted // FRAME_SAMPLES) * FRAME_SAMPLES
    middle = slice(1000, 7000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / SAMPLE_RATE)
    np.testing.assert_allclose(flat[middle], expected[middle], atol=2e-4)


@pytest.mark.filterwarnings("ignore::gemma4gguf.media.audio.AudioWarning")
@pytest.mark.parametrize("count", [1, 2, 3, 1000, 44_101, BLOCK_SAMPLES, 2 * BLOCK_SAMPLES + 7])
def test_resampling_in_blocks_equals_resampling_at_once(count: int) -> None:
    samples = noise(count)
    wanted = -(-count * SAMPLE_RATE // 44_100)
    whole = np.zeros(wanted, np.float32)
    once = soxr.resample(samples, 44_100, SAMPLE_RATE, quality="HQ")[:wanted]
    whole[: len(once)] = once
    flat = frame((samples, 44_100)).reshape(-1)
    assert len(flat) == -(-wanted // FRAME_SAMPLES) * FRAME_SAMPLES
    assert np.array_equal(flat[:wanted], whole)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 127),
        ("WAV", "PCM_16", 1 / 32_767),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-7),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_16", 1 / 32_767),
        ("FLAC", "PCM_24", 1e-6),
        ("AIFF", "PCM_16", 1 / 32_767),
        ("OGG", "VORBIS", None),
        ("OGG", "OPUS", None),
        ("MP3", "MPEG_LAYER_III", None),
    ],
)
def test_containers(kind: str, subtype: str, tolerance: float | None) -> None:
    tone = (0.5 * np.sin(np.arange(16_000) * 0.2)).astype(np.float32)
    result = frame(encoded(tone, SAMPLE_RATE, kind, subtype))
    assert result.shape == (25, FRAME_SAMPLES)
    if tolerance is not None:
        np.testing.assert_allclose(result.reshape(-1), tone, atol=tolerance)
    else:  # lossy: the same tone
        assert np.corrcoef(result.reshape(-1)[1000:15_000], tone[1000:15_000])[0, 1] > 0.99


def test_path_bytes_and_samples_give_the_same_frames(tmp_path: Path) -> None:
    samples = noise(5000, channels=2)
    data = encoded(samples, 44_100, "WAV", "FLOAT")
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    expected = frame((samples, 44_100))
    for source in (path, str(path), data, bytearray(data), memoryview(data)):
        assert np.array_equal(frame(source), expected)


def test_a_wrong_file_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp3"
    path.write_bytes(encoded(noise(640), SAMPLE_RATE, "FLAC"))
    assert frame(path).shape == (1, FRAME_SAMPLES)


def test_a_pipe(tmp_path: Path) -> None:
    data = encoded(noise(5000), SAMPLE_RATE, "WAV", "FLOAT")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    frames = frame(pipe)
    writer.join()
    assert np.array_equal(frames, frame(data))


def test_a_file_that_ends_early() -> None:
    tone = (0.5 * np.sin(np.arange(16_000) * 0.2)).astype(np.float32)
    with pytest.warns(AudioWarning, match=r"ends after 0\.50 s, its header says 1\.00 s"):
        assert len(frame(encoded(tone, SAMPLE_RATE, "WAV")[:16_044])) == 13  # cut off while it was copied
    flac = encoded(noise(16_000), SAMPLE_RATE, "FLAC")
    with pytest.raises(InputError, match="cannot be read as sound"):
        frame(flac[: len(flac) // 2])
    mp3 = encoded(noise(16_000), SAMPLE_RATE, "MP3")
    with pytest.warns(AudioWarning, match=r"ends after 0\.\d\d s, its header says 1\.00 s"):
        assert len(frame(mp3[: len(mp3) // 2])) < 25


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_damaged_files_raise_nothing_but_input_errors() -> None:
    rng = np.random.default_rng(5)
    refused: list[str] = []
    for kind in ("WAV", "FLAC", "OGG", "AIFF"):
        data = np.frombuffer(encoded(noise(2000), SAMPLE_RATE, kind), np.uint8)
        for _ in range(50):
            damaged = data.copy()
            damaged[rng.integers(0, 100, 3)] = rng.integers(0, 256, 3)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AudioWarning)
                    assert frame(damaged.tobytes()).shape[1] == FRAME_SAMPLES
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in message for message in refused)


# ── what cannot be used ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "a clip given as int: expected a path, bytes, an open file, or"),
        (np.zeros(640, np.float32), "a clip given as ndarray: expected a path, bytes, an open file, or"),
        (b"", r"0 bytes\): cannot be read as sound"),
        (b"hello" * 100, "cannot be read as sound"),
        ("no/such/clip.wav", "no/such/clip.wav: No such file"),
        ("a\0b.wav", "embedded null"),
        (Path(__file__).parent, "Is a directory|Permission denied"),
        (Path(__file__), r"test_audio.py: cannot be read as sound"),
        ((SAMPLE_RATE, np.zeros(4)), r"expected \(samples, rate in Hz\), in this order"),
        ((np.zeros(4), "16000"), r"expected \(samples, rate in Hz\)"),
        ((np.zeros(4), 0), "a sample rate of 0 Hz: expected 1,000 to 1,000,000 Hz"),
        ((np.zeros(4), float("nan")), "a sample rate of nan Hz"),
        ((np.zeros(4), -16_000), "sample rate"),
        ((np.zeros((2, 16_000)), SAMPLE_RATE), r"shape \(2, 16000\): expected \[n\] or \[n, channels\]"),
        ((np.zeros((4, 0)), SAMPLE_RATE), "shape"),
        ((np.zeros((2, 2, 2)), SAMPLE_RATE), "shape"),
        ((np.zeros(4, np.int64), SAMPLE_RATE), "int64: expected floats from -1 to 1, or integers of 8 to 32 bits"),
        ((np.zeros(4, bool), SAMPLE_RATE), "bool"),
        ((np.zeros(4, complex), SAMPLE_RATE), "complex"),
        ((["a", "b"], SAMPLE_RATE), "samples of type"),
        (([[0.1], [0.1, 0.2]], SAMPLE_RATE), "not an array"),
        ((np.array([0, np.nan]), SAMPLE_RATE), "sample 1 is not finite"),
        ((np.array([0, 0, np.inf]), 44_100), "sample 2 is not finite"),
        ((np.array([1e300]), SAMPLE_RATE), "sample 0 is not finite"),
        ((np.array([0, 12_000.0], np.float32), SAMPLE_RATE), "a sample of 12000, expected -1 to 1; divide"),
    ],
)
def test_bad_clips(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        frame(source)
    assert "\n" not in str(raised.value)


def test_non_finite_samples_in_a_file() -> None:
    samples = noise(1000)
    samples[700] = np.nan
    with pytest.raises(InputError, match="sample 700 is not finite"):
        frame(encoded(samples, SAMPLE_RATE, "WAV", "FLOAT"))


def test_slightly_over_full_scale_is_kept() -> None:
    assert frame((np.array([1.5, -2.0]), SAMPLE_RATE))[0, :2].tolist() == [1.5, -2.0]


def test_a_clip_that_is_too_long_is_refused() -> None:
    endless = np.broadcast_to(np.int8(0), (int(Limits().sound_seconds * 1000) + 1,))
    with pytest.raises(InputError, match="longer than 1,800 s; cut it"):
        frame((endless, 1000))


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError])
def test_an_error_of_our_own_is_not_called_damage(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def broken(block: object) -> None:
        raise error("ours")

    monkeypatch.setattr("gemma4gguf.media.audio._mono", broken)
    with pytest.raises(error, match="ours") as raised:
        frame(encoded(noise(640), SAMPLE_RATE, "WAV"))
    assert raised.type is error
