#!/usr/bin/env python3
"""From the end of speech to the first token: sound that was read while it was spoken, against the whole clip at once.

benchmarks/listening.py BUNDLE [--seconds 2 5 10] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma4gguf import Gemma4
from gemma4gguf.bundle.projector import FRAME_SAMPLES
from gemma4gguf.media.audio import SAMPLE_RATE
from gemma4gguf.runtime.hearing import PIECE
from gemma4gguf.tools.listening import reading_speed, verdict


def noise(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)


def whole(model: Gemma4, seconds: float) -> float:
    """Seconds to the first token where the clip is given when all of it was spoken."""
    model.engine.scheduler.places.forget()
    begun = time.perf_counter()
    model.conversation().say("Answer.", audio=[(noise(seconds), SAMPLE_RATE)], max_tokens=1)
    return time.perf_counter() - begun


def heard(model: Gemma4, seconds: float, *, pause: bool) -> float:
    """The same where it was read meanwhile. When the clock starts, a pause has let all of it be read, the turn's end
    too; a key comes when as many frames wait as are not worth a call.
    """
    model.engine.scheduler.places.forget()
    samples, left = noise(seconds), 0 if pause else PIECE - 1
    read = len(samples) // FRAME_SAMPLES - left
    with model.conversation().hear("Answer.") as ear:
        ear.feed(samples[: read * FRAME_SAMPLES], SAMPLE_RATE)
        if pause:
            ear.pause()
        while not _is_read(model, read, to_the_end=pause):
            time.sleep(0.001)
        if left:
            ear.feed(samples[read * FRAME_SAMPLES :], SAMPLE_RATE)
        begun = time.perf_counter()
        ear.answer(max_tokens=1)
        return time.perf_counter() - begun


def _is_read(model: Gemma4, frames: int, *, to_the_end: bool) -> bool:
    held = list(model.engine.session.held)
    return sum(not isinstance(key, int) for key in held) >= frames and isinstance(held[-1], int) >= to_the_end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[2, 5, 10], help="lengths of speech [2 5 10]")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is told [3]")
    parser.add_argument("--threads", type=int, help="[physical cores]")
    asked = parser.parse_args()
    with Gemma4(asked.bundle, context=2048, draft="off", threads=asked.threads) as model:
        model.load()
        print(verdict(reading_speed(model)))
        print(
            "| speech | whole clip, s | heard, and a pause ends it, s | ratio | heard, and a key ends it, s | ratio |"
        )
        print("|---|---|---|---|---|---|")
        for seconds in asked.seconds:
            taken = [
                (whole(model, seconds), heard(model, seconds, pause=True), heard(model, seconds, pause=False))
                for _ in range(asked.rounds)
            ]
            slow, paused, key = (statistics.median(times) for times in zip(*taken, strict=True))
            row = f"{slow:.2f} | {paused:.2f} | {paused / slow:.2f} | {key:.2f} | {key / slow:.2f}"
            print(f"| {seconds:g} s | {row} |", flush=True)


if __name__ == "__main__":
    main()
