"""Turn sound into frames of 40 ms.

A clip comes in: a path, bytes, or samples with their rate. Frames go out: float32 [N, 640], 16 kHz mono, one row per
soft token. This module does not know the model: `embedder` turns frames into soft tokens.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from numbers import Real
from typing import IO, Any, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import ArrayLike, NDArray

from ..bundle.projector import FRAME_SAMPLES
from ..errors import InputError
from ..limits import Limits, current
from . import containers
from .kinds import EXTRA, HEAD_BYTES, TO_WAV, kind_of, recognised
from .promise import promise
from .source import FileInput, is_file, opened

SAMPLE_RATE = 16_000  # Hz
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE  # 0.04 s
TRAINED_SECONDS = 30  # s; the longest clips that the model was trained on
SOURCE_RATES = (1_000, 1_000_000)  # Hz; any other rate is taken for an error in a header or an argument
MAX_CHANNELS = 64  # an array with more is taken for a transposed one
LOUDEST = 16.0  # times full scale; louder floats are taken for integer samples that were not scaled
# Formats that libsndfile may read from untrusted bytes. Nobody sends the others that it knows. One of them, SDS, prints
# what is wrong with a file: thousands of lines, where the answer goes.
_FORMATS = re.compile(
    rb"RIF[FX]....WAVE|RF64....WAVE|riff\x2e\x91\xcf\x11|fLaC|OggS|FORM....AIF[FC]|\.snd|dns\.|caff|\xff[\xe0-\xff]",
    re.DOTALL,
)
_NO_LENGTH = 1 << 62  # libsndfile's `frames` of a file whose length is unknown are above it
_OTHER_ENCODING = frozenset({4, 161})  # libsndfile's codes: a known container, but not what is in it
_LOOSE_SECONDS = 0.1  # by which other programs' headers differ from what they hold
BLOCK_SAMPLES = 1 << 18  # decoded and resampled at a time: memory use follows the data, not the length in the header

AudioInput: TypeAlias = FileInput | tuple[ArrayLike, float]
Clips: TypeAlias = AudioInput | Sequence[AudioInput] | None

_Samples: TypeAlias = "NDArray[np.float32]"


class AudioWarning(UserWarning):
    """A clip can be used, but the answer may be poor: it is longer than the clips in training, or ends early."""


def frame(audio: AudioInput) -> NDArray[np.float32]:
    """A clip as float32 [N, 640]: 16 kHz mono, -1 to 1, the last frame zero-padded, N = ceil(samples / 640).

    `audio` is a path or an encoded file as bytes (WAV, FLAC, OGG, MP3, AIFF, …), or (samples, rate in Hz) with samples
    [n] or [n, channels]: floats from -1 to 1, or integers of 8, 16 or 32 bits, scaled by their type's range.
    Channels are averaged, other rates resampled (soxr HQ) to ceil(n * 16000 / rate) samples.

    Raises InputError if the clip is unreadable, empty, not finite, or longer than `Limits` allows.
    Warns with AudioWarning over 30 s (nothing is cut), if a file is shorter than its header says, and if a WAV, AIFF or
    AU header does not say how long it is, as a recorder leaves it that was stopped early.
    Source: transformers 5.24 Gemma4UnifiedAudioFeatureExtractor and load_audio.
    """
    samples = np.concatenate(list(listen(audio, bounded=True)))
    count = -(-len(samples) // FRAME_SAMPLES)
    frames = np.zeros((count, FRAME_SAMPLES), np.float32)
    frames.reshape(-1)[: len(samples)] = samples
    if len(samples) > TRAINED_SECONDS * SAMPLE_RATE:
        _warn(
            f"the clip is {count * FRAME_SECONDS:.2f} s long, the model was trained on up to {TRAINED_SECONDS} s: "
            "it may lose track; shorter clips work better, and `gemma4gguf transcribe` takes any length"
        )
    return frames


def listen(audio: AudioInput, *, bounded: bool = False) -> Iterator[NDArray[np.float32]]:
    """A clip as blocks of float32 [n]: 16 kHz mono, -1 to 1. For `audio` and errors see `frame`; no length warns.

    `bounded`: the clip is held to `Limits`, for whoever keeps all of it.
    """
    most = current() if bounded else None
    if isinstance(audio, tuple) and len(audio) == 2:
        yield from _from_samples(*audio, most)
    elif is_file(audio):
        with opened(audio, "the clip") as (name, file):
            yield from _decode(file, name, most)
    else:
        raise InputError(
            f"a clip given as {type(audio).__name__}: expected a path, bytes, an open file, or (samples, rate)"
        )


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Seekable:
    """A file for libsndfile: an invalid seek does nothing.

    Damaged headers cause invalid seeks. soundfile would print a traceback for each of them and go on. A length that a
    recorder left at 0 is read as the largest one, which libsndfile takes for "up to the end".
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.tell = self.file.tell
        self.head = self.file.read(HEAD_BYTES)
        self.known = bool(_FORMATS.match(self._behind_tags()))
        self.promise = promise(self.file)
        self.size = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)

    def _behind_tags(self) -> bytes:
        """The bytes that tell the format: the file's first ones, or those behind ID3 tags."""
        at, head = 0, self.head[:16]
        while head[:3] == b"ID3" and len(head) > 10:
            at += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            self.file.seek(at)
            head = self.file.read(16)
        return head

    def read(self, count: int) -> bytes:
        start = self.file.tell()
        data = self.file.read(count)
        at = self.promise.length_at - start if self.promise and self.promise.stated is None else -4
        if not -4 < at < len(data):
            return data
        patched = bytearray(data)
        for index in range(max(at, 0), min(at + 4, len(data))):
            patched[index] = 0xFF
        return bytes(patched)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with suppress(OSError, ValueError):
            self.file.seek(offset, whence)
        return self.file.tell()


class _FrontToEnd(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file that is only read on. soundfile would seek after each block; a FLAC of unknown length cannot."""

    def seekable(self) -> bool:
        return False


def _decode(file: IO[bytes], name: str, most: Limits | None) -> Iterator[_Samples]:
    with _decoding(name):
        source = _Seekable(file)
    try:
        with _decoding(name, source.head):
            if not source.known:
                raise ValueError("not a known format")
            sound = _FrontToEnd(source)
    except InputError as refused:
        demuxer = _demuxer(source.head, refused.__cause__)
        if not demuxer or containers.av() is None:
            raise
        yield from _by_pyav(source, demuxer, name, refused, most)
        return
    with sound, closing(_blocks(sound, name, source)) as blocks:
        yield from _at_model_rate(_mixed(blocks, name, most), sound.samplerate, name, most)


def _demuxer(head: bytes, refused: BaseException | None) -> str:
    """PyAV's name for a file that libsndfile has refused; empty where PyAV has none, or is not asked.

    It is not asked about damaged files of libsndfile's own kinds: it would make noise of them.
    """
    kind = kind_of(head)
    if kind is None:
        return ""
    return kind.demuxer if kind.extra or getattr(refused, "code", 0) in _OTHER_ENCODING else ""


def _by_pyav(
    source: _Seekable, demuxer: str, name: str, refused: InputError, most: Limits | None
) -> Iterator[_Samples]:
    done = 0

    def blocks(sound: containers.Sound) -> Iterator[_Samples]:
        nonlocal done
        for block in sound.blocks():
            done += len(block)
            yield block

    try:
        with containers.demuxed(source.file, demuxer, name) as container:
            sound = containers.Sound(container, demuxer, name)
            yield from _at_model_rate(_mixed(blocks(sound), name, most), sound.rate, name, most)
    except containers.NoSoundError:
        raise
    except InputError as error:
        raise InputError(f"{error}; {recognised(source.head, 'sound', extra=True)}".rstrip("; ")) from refused
    seconds, stated = done / sound.rate, sound.stated or 0
    if sound.damaged:
        _warn(f"{name}: {sound.damaged:,} of its packets are damaged and were left out; {seconds:.2f} s were read")
    elif stated - seconds > _LOOSE_SECONDS:
        _warn(f"{name}: ends after {seconds:.2f} s, its header says {stated:.2f} s: it may be cut off")


def _blocks(sound: Any, name: str, source: _Seekable) -> Generator[_Samples]:
    """Blocks [n, channels], up to the end of the data. The length in the header may be wrong."""
    done, size = 0, max(1, min(BLOCK_SAMPLES, 8 * BLOCK_SAMPLES // sound.channels))

    def read() -> _Samples:
        with _decoding(name):
            block: _Samples = sound.read(size, dtype="float32", always_2d=True)
            return block

    with ThreadPoolExecutor(1, "gemma4gguf-decode") as ahead:
        coming = ahead.submit(read)
        while len(block := coming.result()):
            coming = ahead.submit(read)  # decodes while this block is mixed and resampled
            done += len(block)
            yield block
    seconds, promised = done / sound.samplerate, _promised(sound.frames, done, source) / sound.samplerate
    if done and source.promise and source.promise.stated is None:
        _warn(f"{name}: its header does not say how long it is; all {seconds:.2f} s were read, it may be cut off")
    elif promised - seconds > FRAME_SECONDS and sound.frames < _NO_LENGTH:
        _warn(f"{name}: ends after {seconds:.2f} s, its header says {promised:.2f} s: it may be cut off")


def _promised(frames: int, done: int, source: _Seekable) -> float:
    """The samples per channel that the header states. libsndfile's `frames` are those that the file has room for."""
    if not source.promise or source.promise.stated is None or source.size <= source.promise.start:
        return frames
    return max(frames, done * source.promise.stated / (source.size - source.promise.start))


@contextmanager
def _decoding(name: str, head: bytes | None = None) -> Iterator[None]:
    """Turn what opening and decoding a file raises into an InputError that begins with its name.

    `head`: the file's first bytes, by which its kind can be told.

    Nothing but libsndfile's binding may run inside: an error of our own is not damage.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    except (soundfile.SoundFileError, TypeError, ValueError, RuntimeError) as error:
        if head is not None and (kind := recognised(head, "sound")):
            raise InputError(f"{name}: cannot be read as sound: {kind}") from error
        reason = getattr(error, "error_string", None) or f"{error}"
        reason = " ".join(reason.split()).rstrip(".") or "damaged or incomplete"
        cure = "WAV, FLAC, OGG or MP3 works"
        if head is not None and containers.av() is None and _demuxer(head, error):
            cure = f"{EXTRA} lets it be read, or {TO_WAV}"
        raise InputError(f"{name}: cannot be read as sound ({reason}); {cure}") from error


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_samples(samples: ArrayLike, rate: float, most: Limits | None) -> Iterator[_Samples]:
    if not isinstance(rate, Real) or isinstance(samples, Real):
        raise InputError("a clip given as two values: expected (samples, rate in Hz), in this order")
    array = columns(samples)
    _check_rate(rate, "the clip")
    _check_length(len(array), rate, "the clip", most)
    yield from _at_model_rate(mono_blocks(array), rate, "the clip", most)


def columns(samples: ArrayLike) -> NDArray[Any]:
    """Samples [n] or [n, channels] as [n, channels]. Raises InputError."""
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise InputError(f"the clip's samples are not an array: {error}") from error
    if array.ndim == 1:
        array = array[:, None]  # [n, 1]
    # A [channels, n] array is recognised by its many channels.
    if array.ndim != 2 or array.shape[1] > MAX_CHANNELS or not array.shape[1]:
        raise InputError(
            f"samples of shape {array.shape}: expected [n] or [n, channels], at most {MAX_CHANNELS} channels"
        )
    return array


def mono_blocks(array: NDArray[Any]) -> Iterator[_Samples]:
    """[n, channels] of any accepted type -> blocks of float32 [n], -1 to 1."""
    for start in range(0, len(array), BLOCK_SAMPLES):
        yield _mono(_scaled(array[start : start + BLOCK_SAMPLES]))


def _scaled(array: NDArray[Any]) -> _Samples:
    """Any accepted dtype to float32, -1 to 1."""
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f":
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which is refused later
            return array.astype(np.float32)
    if kind not in "iu" or bits > 32:
        raise InputError(f"samples of type {array.dtype}: expected floats from -1 to 1, or integers of 8 to 32 bits")
    full_scale = 2.0 ** (bits - 1)
    middle = full_scale if kind == "u" else 0.0  # silence in unsigned samples
    return np.asarray((array - np.float64(middle)) / full_scale, np.float32)


def _mono(block: _Samples) -> _Samples:
    """[n, channels] -> [n], their mean. Column after column: ten times as fast as numpy's mean of short rows."""
    first, *others = block.T
    return np.asarray(sum(others, start=first) / np.float32(len(block.T)), np.float32)


def _mixed(blocks: Iterable[_Samples], name: str, most: Limits | None) -> Iterator[_Samples]:
    """Blocks [n, channels] of a file -> mono blocks, within the limit on samples: silence takes no room in a file."""
    count = 0
    for block in blocks:
        count += block.size
        if most and count > most.sound_samples:
            raise InputError(f"{name}: more than {most.sound_samples:,} samples in all channels; cut it")
        yield _mono(block)


def _at_model_rate(blocks: Iterable[_Samples], rate: float, name: str, most: Limits | None) -> Iterator[_Samples]:
    """Mono blocks at `rate` Hz -> blocks at 16 kHz, ceil(n * 16000 / rate) samples in all."""
    resampler = ModelRate(rate, name, most)
    for block in blocks:
        yield resampler.feed(block)
    yield resampler.end()


class ModelRate:
    """Mono blocks at `rate` Hz, one after another -> samples at 16 kHz. Where the sound is cut makes no difference."""

    def __init__(self, rate: float, name: str, most: Limits | None = None) -> None:
        """`name`: of the sound, for errors. `most`: what it is held to. Raises InputError for a rate that is none."""
        _check_rate(rate, name)
        self._rate, self._name, self._most = rate, name, most
        same = rate == SAMPLE_RATE
        self._stream = None if same else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._count = self._given = 0

    def feed(self, block: _Samples) -> _Samples:
        """What is certain of float32 [n] and of what came before. Raises InputError."""
        _check(block, self._count, self._name)
        self._count += len(block)
        _check_length(self._count, self._rate, self._name, self._most)
        out: _Samples = self._stream.resample_chunk(block) if self._stream else block
        self._given += len(out)
        return out

    def end(self) -> _Samples:
        """The rest, so that there are ceil(n * 16000 / rate) samples in all. Raises InputError where there are none."""
        if not self._count:
            raise InputError(f"{self._name}: has no samples: it is empty or cut off; give a clip with sound in it")
        if self._stream is None:
            return np.zeros(0, np.float32)
        left = int(-(-self._count * SAMPLE_RATE // self._rate)) - self._given
        rest = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)[:left]
        return np.pad(rest, (0, left - len(rest)))


def _check_rate(rate: float, name: str) -> None:
    low, high = SOURCE_RATES
    if not low <= rate <= high:
        raise InputError(f"{name}: a sample rate of {rate} Hz: expected {low:,} to {high:,} Hz")


def _check_length(count: int, rate: float, name: str, most: Limits | None) -> None:
    if most and count > most.sound_seconds * rate:
        raise InputError(f"{name}: longer than {most.sound_seconds:,.0f} s; cut it")


def _check(block: _Samples, start: int, name: str) -> None:
    peak = float(max(-block.min(initial=0.0), block.max(initial=0.0)))  # NaN where one sample is
    if not math.isfinite(peak):
        at = start + int(np.isfinite(block).argmin())
        raise InputError(f"{name}: sample {at:,} is not finite (NaN or infinity)")
    if peak > LOUDEST:
        raise InputError(f"{name}: a sample of {peak:g}, expected -1 to 1; divide 16-bit values by 32768")


def _warn(message: str) -> None:
    warnings.warn(message, AudioWarning, stacklevel=3)
