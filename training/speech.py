"""Spoken digits and words: espeak-ng renders each once, then clips are varied as they are drawn.

In: a cache folder. Out: float32 waveforms at 16 kHz with the word that they say. Knows no tokens and no torch.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16000
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = ["yes", "no", "stop", "go", "left", "right", "open", "close", "red", "blue"]
SAID = {**{word: str(i) for i, word in enumerate(DIGITS)}, **{word: word for word in WORDS}}

ACCENTS = ["en-us", "en-gb", "en-gb-x-rp", "en-us-nyc"]
VOICES = [
    "",
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f4",
    "f5",
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "adam",
    "announcer",
    "antonio",
    "aunty",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "david",
    "Denis",
    "Diogo",
    "ed",
    "edward",
    "grandma",
    "grandpa",
    "gustave",
    "Henrique",
    "Hugo",
    "iven",
    "iven3",
    "Jacky",
    "john",
    "klatt2",
    "Lee",
    "marcelo",
    "Marco",
    "Mario",
    "max",
    "Michael",
    "michel",
    "miguel",
    "Mike",
    "norbert",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "sandro",
    "shelby",
    "steph",
    "steph3",
    "Storm",
    "travis",
    "zac",
]
HELD_VOICES = ["f3", "Annie", "linda", "robert", "Gene", "victor", "anika", "steph2"]
SPEEDS, HELD_SPEEDS = [125, 145, 165, 190], [135, 155, 178]  # words a minute
PITCHES, HELD_PITCHES = [30, 45, 60], [38, 52]


def render(word: str, voice: str, speed: int, pitch: int) -> NDArray[np.int16]:
    """int16 samples at 16 kHz, silence at both ends cut off."""
    import soundfile
    import soxr

    run = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word],
        capture_output=True,
        check=True,
    )
    data = run.stdout
    samples, rate = soundfile.read(io.BytesIO(data[:4] + b"\xff\xff\xff\x7f" + data[8:]), dtype="float32")
    samples = soxr.resample(samples, rate, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    samples = samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:1]
    return np.asarray(np.clip(samples * 32767, -32767, 32767), np.int16)


def plan(held: bool, seed: int = 7) -> list[tuple[str, str, int, int]]:
    """Every word with every voice; accent, speed and pitch are drawn. Held-out clips have their own of all."""
    rng = np.random.default_rng(seed + held)
    jobs = []
    for word in SAID:
        for variant in HELD_VOICES if held else VOICES:
            for _ in range(3 if held else 5):
                accent = ACCENTS[rng.integers(2 if held else len(ACCENTS))]
                jobs.append(
                    (
                        word,
                        accent + ("+" + variant if variant else ""),
                        int(rng.choice(HELD_SPEEDS if held else SPEEDS)),
                        int(rng.choice(HELD_PITCHES if held else PITCHES)),
                    )
                )
    return jobs


def clips(cache: Path, held: bool) -> list[tuple[str, NDArray[np.int16]]]:
    """List of (word, int16 samples). The first call renders, later ones read the cache."""
    jobs = plan(held)
    key = hashlib.sha256(repr(jobs).encode()).hexdigest()[:16]
    path = Path(cache) / f"speech-{key}.npz"
    if not path.exists():
        with ThreadPoolExecutor(4) as pool:
            sounds = list(pool.map(lambda job: render(*job), jobs))
        ends = np.cumsum([len(s) for s in sounds])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, samples=np.concatenate(sounds), ends=ends)
    with np.load(path) as data:
        sounds = np.split(data["samples"], data["ends"][:-1])
    return [(job[0], sound) for job, sound in zip(jobs, sounds, strict=False)]


def vary(samples: NDArray[np.int16], rng: np.random.Generator, gently: bool = False) -> NDArray[np.float32]:
    """int16 -> float32 in -1..1: gain, silent lead and tail, noise; unless gently, another pitch and brightness."""
    sound = samples.astype(np.float32) / 32768
    if not gently:
        at = np.arange(0, len(sound) - 1, rng.uniform(0.85, 1.18))
        low = at.astype(np.int64)
        sound = sound[low] + (sound[low + 1] - sound[low]) * (at - low).astype(np.float32)
        sound[1:] += rng.uniform(-0.5, 0.5) * sound[:-1]
    sound *= rng.uniform(0.3, 1.0) / max(1e-3, float(np.abs(sound).max()))
    lead, tail = rng.integers(0, 4000), rng.integers(0, 4000)
    sound = np.concatenate([np.zeros(lead, np.float32), sound, np.zeros(tail, np.float32)])
    return (sound + rng.standard_normal(len(sound), np.float32) * 10 ** rng.uniform(-4, -2)).astype(np.float32)


def frames(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n] -> [ceil(n / 640), 640], the last one filled with zeros: the checkpoint's own rule."""
    count = -(-len(sound) // 640)
    return np.pad(sound, (0, count * 640 - len(sound))).reshape(count, 640)
