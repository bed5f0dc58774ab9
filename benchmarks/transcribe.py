#!/usr/bin/env python3
"""A transcript of the small model, beside its clips asked one by one: how many seconds of sound a second of work reads.

    benchmarks/transcribe.py [--blocks 5] [--rounds 3]

A block is ten spoken words with pauses between them. The peer is told where they are, and asks the same question of
each word alone: what the transcript takes longer is the price of finding them. The two take turns. Prints JSON:
seconds of the sound, milliseconds by round, and the real-time factor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from gemma4gguf import Gemma4  # noqa: E402
from tests.support.spoken import RATE, memo  # noqa: E402
from tests.support.turns import in_turns, ratio  # noqa: E402

ASK = "What is said?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    blocks = [memo(seed) for seed in range(given.blocks)]
    sound = np.concatenate([samples for samples, _ in blocks])
    clips = [samples[round(word.start * RATE) : round(word.end * RATE)] for samples, words in blocks for word in words]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "tiny.gguf"
        convert(ROOT / "models" / "tiny", bundle, quant="Q8_0")
        with Gemma4(bundle, context=1024, draft="off", threads=1) as model:

            def alone() -> None:
                for clip in clips:
                    model.generate(ASK, audio=[(clip, RATE)], temperature=0, max_tokens=24)

            contestants: dict[str, Any] = {
                "ours": lambda: list(model.transcribe((sound, RATE), prompt=ASK)),
                "clips alone": alone,
            }
            times = in_turns(contestants, given.rounds)
    found = {
        "sound_s": round(len(sound) / RATE, 1),
        **times,
        "ours / clips alone": round(ratio(times["ours"], times["clips alone"]), 3),
        "real-time factor": round(1000 * len(sound) / RATE / statistics.median(times["ours"]), 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
