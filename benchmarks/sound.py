#!/usr/bin/env python3
"""Sound files to frames: ours beside transformers' reader (soundfile and soxr) and its feature extractor.

    benchmarks/sound.py [--rounds 5]

A WAV of 30 s and a FLAC of ten minutes, both stereo at 44.1 kHz. The two take turns. Prints JSON: milliseconds by
round, and the median of their ratios; less is better. Needs the extra `reference`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma4gguf.media.audio import frame
from tests.support.turns import in_turns, ratio

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
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in FILES.items():
            path = Path(folder) / name
            written(path, seconds)
            times = in_turns({who: partial(read, path) for who, read in contestants.items()}, rounds)
            found[name] = {**times, "ours / transformers": round(ratio(times["ours"], times["transformers"]), 3)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
