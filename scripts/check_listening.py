#!/usr/bin/env python3
"""An hour of listening in turns, as fast as it can be read: every turn is answered, and memory stays flat.

scripts/check_listening.py --minutes 60
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from gemma4gguf import Chunk, Ear, Gemma4, GenerateOptions  # noqa: E402
from gemma4gguf.media.speech import detector, spoken  # noqa: E402
from gemma4gguf.tools.listening import talk  # noqa: E402
from tests.support.spoken import RATE, clips, memo  # noqa: E402

ASK = "What is said?"
MOST_GROWTH = 16  # MB after the first quarter


def resident() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def different(model: Gemma4, count: int) -> int:
    """How many of so many clips are answered otherwise where they are read while they are spoken."""
    draw, found = np.random.default_rng(0), 0
    for number in range(count):
        _, clip = clips()[number % len(clips())]
        clip = (clip * draw.uniform(0.3, 1.2) + draw.normal(0, draw.uniform(0, 0.003), len(clip))).astype(np.float32)
        piece = int(draw.integers(100, 5000))
        whole = model.conversation().say(ASK, audio=[(clip, RATE)], temperature=0, max_tokens=24)
        model.engine.scheduler.places.forget()
        with model.conversation().hear(ASK) as ear:
            for start in range(0, len(clip), piece):
                ear.feed(clip[start : start + piece], RATE)
            found += ear.answer(temperature=0, max_tokens=24).text != whole.text
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200, help="how many are answered in both ways [200]")
    parser.add_argument("--minutes", type=float, default=60, help="how much is heard [60]")
    parser.add_argument("--context", type=int, default=1024, help="positions [1024]")
    asked = parser.parse_args()
    seconds, turns, held = 0.0, 0, list[float]()

    def sound() -> Iterator[NDArray[np.float32]]:
        nonlocal seconds
        seed = 0
        while seconds < asked.minutes * 60:
            block, _ = memo(seed)
            yield block
            seed, seconds = seed + 1, seconds + len(block) / RATE
            held.append(resident())
            if seed % 10 == 1:
                print(f"{seconds / 60:6.1f} min heard, {turns:,} turns answered, {held[-1]:.1f} MB held", flush=True)

    def said(chunk: Chunk | None) -> None:
        nonlocal turns
        turns += bool(chunk and chunk.result)

    def heard(ear: Ear) -> None: ...

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "tiny.gguf"
        convert(ROOT / "models" / "tiny", bundle, quant="Q8_0")
        # In float32, so that it makes no difference in how many pieces a prompt is read.
        with Gemma4(bundle, context=asked.context, threads=1, kv_type="f32", flash_attention="off") as model:
            others = different(model, asked.clips)
            print(f"{others} of {asked.clips} clips are answered otherwise than whole", flush=True)
            chat, turns_of = model.conversation(), spoken(sound(), detector())
            options: GenerateOptions = {"temperature": 0, "max_tokens": 24}
            talk(chat, turns_of, heard, said, options=options, transcript_prompt=ASK, patient=True)
    grown = max(held) - held[len(held) // 4]
    print(f"{seconds / 60:.1f} min, {turns:,} turns; memory grew by {grown:.1f} MB after the first quarter")
    return int(bool(others) or grown > MOST_GROWTH or not turns)


if __name__ == "__main__":
    sys.exit(main())
