#!/usr/bin/env python3
"""Long checks of hearing on the small model, as fast as it can hear. Each prints what it found, and fails where bad.

answers: clips that are read while they are spoken, and whole: the same answers.
turns: a conversation of so many minutes in turns: every turn is answered, and memory stays flat.
transcript: a file of so many minutes of words, pauses and noise is written down: as right as its clips alone, on time,
    memory flat; a run of the command that is killed in the middle goes on there.

With --log what was found is added to docs/listening.log.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import webvtt
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from gemma4gguf import Chunk, Ear, Gemma4, GenerateOptions, Segment  # noqa: E402
from gemma4gguf.media.speech import detector, spoken  # noqa: E402
from gemma4gguf.tools.listening import talk  # noqa: E402
from gemma4gguf.tools.subtitles import FORMATS  # noqa: E402
from gemma4gguf.tools.transcripts import transcribe_file  # noqa: E402
from tests.support.private import private_mb  # noqa: E402
from tests.support.spoken import RATE, Word, clips, memo, named  # noqa: E402

LOG = ROOT / "docs" / "listening.log"
ASK = "What is said?"
PAUSES = 0.2  # of the pieces are followed by one
MOST_GROWTH = 16  # MB after the first quarter
MOST_WORSE = 1.0  # points of word error rate, beside single clips
MOST_OFF = 0.3  # s, of a stamp
# In float32, so that it makes no difference in how many pieces a prompt is read.
EXACT: Any = {"threads": 1, "kv_type": "f32", "flash_attention": "off"}


class Told:
    """Prints what is found, and adds it to the log."""

    def __init__(self, check: str, log: bool) -> None:
        git = ("git", "-C", str(ROOT), "describe", "--always", "--dirty")
        self._check, self._log = check, log
        self._commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"

    def __call__(self, found: str) -> None:
        line = f"{datetime.now(timezone.utc):%Y-%m-%d} {self._check}: {found} commit={self._commit}"
        print(line, flush=True)
        if self._log:
            with LOG.open("a", encoding="utf-8") as file:
                print(line, file=file)


class Memory:
    """What this process holds for itself while it hears, by the minute of sound."""

    def __init__(self) -> None:
        self._held: list[float] = []  # MB

    def note(self, seconds: float, more: str) -> None:
        """At so many seconds of sound."""
        while len(self._held) <= seconds / 60:
            self._held.append(private_mb())
            if len(self._held) % 5 == 1:
                print(f"{seconds / 60:5.1f} min heard, {more}, {self._held[-1]:.1f} MB held", flush=True)

    def growth(self) -> float:
        """MB, at most, after the first quarter."""
        return max(self._held) - self._held[len(self._held) // 4]

    def __str__(self) -> str:
        every = max(1, len(self._held) // 12)
        shown = ", ".join(f"{held:.0f}" for held in self._held[::every])
        return f"memory {self.growth():+.1f} MB at most after the first quarter (MB every {every} min: {shown})"


def answers(bundle: Path, asked: argparse.Namespace, told: Told) -> bool:
    """Clips of several loudnesses and noises, fed in pieces of several sizes, with pauses between some of them."""
    draw, others = np.random.default_rng(0), 0
    with Gemma4(bundle, context=asked.context, **EXACT) as model:
        for number in range(asked.clips):
            _, clip = clips()[number % len(clips())]
            clip = (clip * draw.uniform(0.3, 1.2) + draw.normal(0, draw.uniform(0, 0.003), len(clip))).astype("f4")
            piece = int(draw.integers(100, 5000))
            whole = model.conversation().say(ASK, audio=[(clip, RATE)], temperature=0, max_tokens=24)
            model.engine.scheduler.places.forget()
            with model.conversation().hear(ASK) as ear:
                for start in range(0, len(clip), piece):
                    ear.feed(clip[start : start + piece], RATE)
                    if draw.random() < PAUSES:
                        ear.pause()
                others += ear.answer(temperature=0, max_tokens=24).text != whole.text
    told(f"{others} of {asked.clips} clips are answered otherwise than whole")
    return not others


def turns(bundle: Path, asked: argparse.Namespace, told: Told) -> bool:
    """Sound without an end, answered where a pause ends a turn."""
    seconds, answered, memory = 0.0, 0, Memory()

    def sound() -> Iterator[NDArray[np.float32]]:
        nonlocal seconds
        seed = 0
        while seconds < asked.minutes * 60:
            block, _ = memo(seed)
            yield block
            seed, seconds = seed + 1, seconds + len(block) / RATE
            memory.note(seconds, f"{answered:,} turns answered")

    def said(chunk: Chunk | None) -> None:
        nonlocal answered
        answered += bool(chunk and chunk.result)

    def heard(ear: Ear) -> None: ...

    options: GenerateOptions = {"temperature": 0, "max_tokens": 24}
    with Gemma4(bundle, context=asked.context, cache_memory=asked.cache_memory << 20, **EXACT) as model:
        turns_of = spoken(sound(), detector())
        talk(model.conversation(), turns_of, heard, said, options=options, transcript_prompt=ASK, patient=True)
    told(f"{seconds / 60:.1f} min, {answered:,} turns, at most {asked.cache_memory} MiB of caches kept: {memory}")
    return memory.growth() <= MOST_GROWTH and answered > 0


def transcript(bundle: Path, asked: argparse.Namespace, told: Told) -> bool:
    """Killed by the command line, ended here, held against the clips alone."""
    how: Any = {"context": asked.context, "threads": 1, "draft": "off"}
    options: Any = {"language": None, "task": "transcribe", "prompt": ASK, "hint": None, "carry": False}
    with tempfile.TemporaryDirectory() as name, Gemma4(bundle, **how) as model:
        sound, out = Path(name) / "words.flac", Path(name) / "words.json"
        said = _words(sound, asked.minutes * 60)
        done, fresh = _killed(bundle, sound, out, how, len(said) // 2), list[float]()
        found = list(transcribe_file(model, sound, out, "json", on_progress=fresh.append, **options))
        told(f"killed after {done:,} windows, run again: {len(fresh):,} more, {len(found):,} in all")
        memory, written = Memory(), list[Segment]()
        for segment in model.transcribe(sound, **options):
            written.append(segment)
            memory.note(segment.end, f"{len(written):,} windows written down")
        told(f"the same in one go: {written == found}; {memory}")
        single = _single(model, sound, said)
    heard = [word for segment in found for word in named(segment.text)]
    error, alone = (100 * _distance([w.word for w in said], words) / len(said) for words in (heard, single))
    off = max(_off(word, found) for word in said)
    parsed = [len(list(webvtt.from_buffer(io.StringIO(FORMATS[form](found)), form))) for form in ("srt", "vtt")]
    told(
        f"{said[-1].end / 60:.1f} min, {len(said):,} words: word error rate {error:.2f} %, of clips alone "
        f"{alone:.2f} %; stamps off by {off:.2f} s at most; {parsed} captions read by webvtt of {len(found):,}"
    )
    whole = written == found and done + len(fresh) == len(found) and parsed == [len(found)] * 2
    return whole and error <= alone + MOST_WORSE and off <= MOST_OFF and memory.growth() <= MOST_GROWTH


def _words(path: Path, seconds: float) -> list[Word]:
    """Write words, pauses and noise to a file; what is said when."""
    said, at, seed = list[Word](), 0.0, 0
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while at < seconds:
            block, words = memo(seed, (1.0, 1.6 + seed % 5))
            file.write(block + np.random.default_rng(seed).normal(0, 0.0005, len(block)).astype("f4"))
            said += [Word(at + word.start, at + word.end, word.word) for word in words]
            at, seed = at + len(block) / RATE, seed + 1
    return said


def _killed(bundle: Path, sound: Path, out: Path, how: dict[str, Any], count: int) -> int:
    """Run the command and kill it after so many windows; how many were kept."""
    options = [part for name, value in how.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "gemma4gguf", "transcribe", str(bundle), str(sound), "--prompt", ASK, *options]
    kept = out.with_name(f".{out.name}.progress")
    running = subprocess.Popen([*command, "--format", "json", "--out", str(out.parent), "--quiet"], cwd=ROOT)
    while running.poll() is None and not (kept.exists() and kept.read_bytes().count(b"\n") > count):
        time.sleep(0.05)
    running.kill()
    running.wait()
    return kept.read_bytes().count(b"\n") - 1  # the first line says what they belong to


def _single(model: Gemma4, sound: Path, said: Sequence[Word]) -> list[str]:
    """What is heard in each word's clip alone."""
    heard = list[str]()
    with soundfile.SoundFile(sound) as file:
        for word in said:
            file.seek(round(word.start * RATE))
            clip = file.read(round((word.end - word.start) * RATE), dtype="float32")
            parts = [{"type": "audio", "audio": (clip, RATE)}, {"type": "text", "text": ASK}]
            heard += named(model.chat([{"role": "user", "content": parts}], temperature=0, max_tokens=24).text)
    return heard


def _off(word: Word, found: Sequence[Segment]) -> float:
    """How far the stamps are off, in s, of the segment that has a word's middle; without one, infinitely."""
    middle = (word.start + word.end) / 2
    around = [segment for segment in found if segment.start <= middle <= segment.end]
    return min((max(abs(s.start - word.start), abs(s.end - word.end)) for s in around), default=float("inf"))


def _distance(wanted: Sequence[str], found: Sequence[str]) -> int:
    """How many words are put in, left out or changed."""
    there, at = np.array(found), np.arange(len(found) + 1)
    row = at
    for number, word in enumerate(wanted, 1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (there != word))
        row = np.minimum.accumulate(np.concatenate([[number], changed]) - at) + at
    return int(row[-1])


CHECKS = {"answers": answers, "turns": turns, "transcript": transcript}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--clips", type=int, default=200, help="of answers [200]")
    parser.add_argument("--minutes", type=float, default=60, help="of turns and transcript [60]")
    parser.add_argument("--context", type=int, default=1024, help="positions [1024]")
    parser.add_argument(
        "--cache-memory", type=int, default=1024, metavar="MIB", help="for kept caches, in turns [1024]"
    )
    parser.add_argument("--log", action="store_true", help=f"add what was found to {LOG.relative_to(ROOT)}")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "tiny.gguf"
        convert(ROOT / "models" / "tiny", bundle, quant="Q8_0")
        return int(not CHECKS[asked.check](bundle, asked, Told(asked.check, asked.log)))


if __name__ == "__main__":
    sys.exit(main())
