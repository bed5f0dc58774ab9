#!/usr/bin/env python3
"""Compare mixes chosen by measuring with llama.cpp's, at the same size: KL divergence on text, pictures and sound.

    benchmarks/mix.py WORK                    # models/tiny and its data
    benchmarks/mix.py WORK --types Q3_K_M,Q4_K_M --no-weights
    benchmarks/mix.py WORK --types Q3_K_M,IQ4_XS --no-mix --samples 5   # pictures and clips chosen five times

Half of the pictures and clips of tests/data, and sums, calibrate; the other half, other sums and the text of `quality`
judge. Prints JSON: for each type, llama.cpp's mixture without importance values, with those of text alone, with those
of text, pictures and sound; and our mix at the size of the second: of all that, of text alone (`mix_text`), and with
values of text, and pictures and sound only in the weights of the matrices (`mix_weights`). WORK gets the files.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from converters.imatrix import read_sums, write_sums  # noqa: E402
from gemma4gguf import Gemma4  # noqa: E402
from gemma4gguf.bundle.reading import read_sections  # noqa: E402
from gemma4gguf.media.audio import SAMPLE_RATE  # noqa: E402
from gemma4gguf.tools import calibration, sensitivity  # noqa: E402
from gemma4gguf.tools.imatrix import compute  # noqa: E402
from gemma4gguf.tools.quality import compare  # noqa: E402
from tests.support.held import COUNT, TASKS, figure, material  # noqa: E402
from training import pictures  # noqa: E402

MODEL = ROOT / "models" / "tiny"
EACH = 6  # pictures and clips that calibrate, and as many that judge
WINDOWS = 3  # of text that judge
QUALITY = files("gemma4gguf.tools").joinpath("quality.txt").read_text(encoding="utf-8")


def sums(first: int) -> str:
    pairs = ((a, b) for a in range(10 + first, 90, 2) for b in (7, 38, 64))
    return "\n".join(f"What is {a} + {b}? {a} + {b} = {a + b}" for a, b in pairs)


def media(half: int, sample: int) -> tuple[list[np.ndarray], list[tuple[np.ndarray, int]]]:
    """Cards with handwritten digits and spoken words, the same ones for a sample; `half` 0 calibrates, 1 judges."""
    held, rng = material(), np.random.default_rng((half, sample))
    digits, clips = held.digits[half::2], held.clips[half::2]
    cards = [np.asarray(pictures.card(list(rng.permutation(digits)[:4]), rng, plain=True)) for _ in range(EACH)]
    return cards, [(clips[(sample * EACH + i) % len(clips)][1], SAMPLE_RATE) for i in range(EACH)]


def judged(paths: list[Path], reference: Path, sample: int) -> dict[str, dict[str, float]]:
    """KL divergence of each file on text it was not calibrated on, after pictures, and after sound."""
    cards, clips = media(1, sample)
    how: dict[str, Any] = {"reference": reference, "threads": 1}
    runs = {
        "text": compare(paths, text=QUALITY, windows=WINDOWS, **how),
        "sums": compare(paths, text=sums(1), windows=2, **how),
        "pictures": compare(paths, text=sums(1), windows=1, images=cards, **how),
        "sound": compare(paths, text=sums(1), windows=1, audio=clips, **how),
    }
    found: dict[str, dict[str, float]] = {path.name: {} for path in paths}
    for kind, results in runs.items():
        for path, result in zip(paths, results, strict=True):
            value = result.kl_mean if result.kl_media is None else result.kl_media
            found[path.name][kind] = round(value, 5)
            found[path.name][f"{kind}_same_top"] = round(result.same_top, 4)
    return found


def made(work: Path, kinds: list[str], sample: int, *, weigh: bool, mix: bool) -> dict[str, dict[str, Path]]:
    """Files by type and by how they were made, and the F32 file that they are judged by."""
    base = work / "f32.gguf"
    cards, clips = media(0, sample)
    text = calibration.text() + sums(0)
    equal = {"text": 1.0, "picture": 1.0, "sound": 1.0}
    compute(base, work / "text.gguf", text=text, threads=1, force=True)
    compute(base, work / "media.gguf", text=text, images=cards, audio=clips, threads=1, force=True)
    compute(base, work / "equal.gguf", text=text, images=cards, audio=clips, shares=equal, threads=1, force=True)
    mixes = {"mix": work / "media.gguf"} if mix else {}
    if mix and weigh:
        weights = weighed(base, mixes["mix"], images=cards[:2], audio=clips[:2])
        given = {"mix": weights, "mix_text": weighed(base, work / "text.gguf"), "mix_weights": weights}
        for name, each in given.items():
            found = read_sums(work / ("media.gguf" if name == "mix" else "text.gguf"))
            mixes[name] = work / f"{name}.gguf"
            write_sums(mixes[name], replace(found, weights=each), force=True)
    files: dict[str, dict[str, Path]] = {}
    for kind in kinds:
        row = files[kind] = {}
        for name, matrix in (("plain", None), ("text", "text"), ("media", "media"), ("equal", "equal")):
            row[name] = work / f"{kind}-{name}.gguf"
            imatrix = None if matrix is None else work / f"{matrix}.gguf"
            convert(MODEL, row[name], quant=kind, imatrix=imatrix, force=True)
        bits = 8 * text_bytes(row["text"]) / values_of(row["text"])
        for name, imatrix in mixes.items():
            row[name] = work / f"{kind}-{name}.gguf"
            convert(MODEL, row[name], target_bpw=bits, imatrix=imatrix, force=True)
    return files


def weighed(base: Path, matrix: Path, **media: Any) -> dict[str, float]:
    """What each matrix matters on text, and on pictures and clips if they are given."""
    values = read_sums(matrix).matrix(matrix).values
    return sensitivity.measure(base, values, text=sums(0) + calibration.text(), threads=1, **media)


def answered(path: Path) -> int:
    """How many of the questions of tests/support/held.py a file answers right."""
    held = material()
    with Gemma4(path, threads=1) as model:
        return sum(round(COUNT * figure(model, held, task)) for task in TASKS)


def text_bytes(path: Path) -> int:
    return sum(t.nbytes for t in read_sections(path)[0].tensors.values())


def values_of(path: Path) -> int:
    return sum(prod(t.shape) for t in read_sections(path)[0].tensors.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--types", default="Q3_K_M,IQ4_XS,Q4_K_S,Q4_K_M,Q5_K_M")
    parser.add_argument("--samples", type=int, default=1, help="how often pictures and clips are chosen anew [1]")
    parser.add_argument("--no-weights", action="store_true", help="choose by output errors alone")
    parser.add_argument("--tasks", action="store_true", help="ask each file the questions of tests/support/held.py too")
    parser.add_argument("--no-mix", action="store_true", help="llama.cpp's mixtures only")
    given = parser.parse_args()
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    convert(MODEL, work / "f32.gguf", quant="F32", force=True)
    for sample in range(given.samples):
        files = made(work, given.types.split(","), sample, weigh=not given.no_weights, mix=not given.no_mix)
        found = judged([path for row in files.values() for path in row.values()], work / "f32.gguf", sample)
        for kind, row in files.items():
            for name, path in row.items():
                sizes = {"bytes": path.stat().st_size, "text_model": text_bytes(path)}
                told = {"type": kind, "how": name, "sample": sample} | sizes | found[path.name]
                tasks = {"right": answered(path)} if given.tasks else {}
                print(json.dumps(told | tasks), flush=True)


if __name__ == "__main__":
    main()
