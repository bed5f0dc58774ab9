#!/usr/bin/env python3
"""Sound files to frames: ours beside transformers' reader (soundfile and soxr) and its feature extractor.

    benchmarks/sound.py [--rounds 5]

A WAV of 30 s and a FLAC of ten minutes, both stereo at 44.1 kHz. The two take turns. Prints JSON: the median of the
rounds in milliseconds, and of their ratios; less is better. Needs the extra `reference`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma4gguf.media.audio import frame

RATE = 44_100
FILES = {"30 s.wav": 30, "10 min.flac": 600}  # seconds


def written(path: Path, seconds: int) -> None:
    """Two tones and noise, as hard to decode as music."""
    at = np.arange(seconds * RATE) / RATE
    tones = np.sin(2 * np.pi * 440 * at), np.sin(2 * np.pi * 550 * at)
    noise = np.random.default_rng(0).normal(0, 0.05, (len(at), 2))
    soundfile.write(path, 0.3 * np.stack(tones, 1) + noise, RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    from transformers.audio_utils import load_audio
    from transformers.models.gemma4_unified import feature_extraction_gemma4_unified as peer

    extract = peer.Gemma4UnifiedAudioFeatureExtractor()
    contestants: dict[str, Callable[[Path], Any]] = {
        "ours": frame,
        "transformers": lambda path: extract(load_audio(str(path), backend="soundfile"), return_tensors="np"),
    }
    warnings.simplefilter("ignore")  # the clip is longer than those in training
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in FILES.items():
            path = Path(folder) / name
            written(path, seconds)
            took: dict[str, list[float]] = {who: [] for who in contestants}
            for _ in range(rounds + 1):  # the first of them warms up
                for who, read in contestants.items():
                    begun = time.perf_counter()
                    read(path)
                    took[who].append(1000 * (time.perf_counter() - begun))
            pairs = list(zip(took["ours"], took["transformers"], strict=True))[1:]
            found[name] = {
                **{f"{who}_ms": round(statistics.median(times[1:]), 1) for who, times in took.items()},
                "ours / transformers": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
            }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
