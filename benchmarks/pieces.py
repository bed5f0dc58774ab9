#!/usr/bin/env python3
"""How far logits move where a prompt is read in shorter pieces, by the cache's type and the way of attention.

benchmarks/pieces.py BUNDLE [--pieces 400 100 60 20] [--threads N]

A text of 400 tokens. For each cache, against the same prompt at once: the largest difference of a logit; and against a
float32 cache without flash attention, read at once: the root mean square. Nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gemma4gguf import Gemma4
from gemma4gguf.machine import physical_cores
from gemma4gguf.runtime.session import Span

TOKENS = 400
TEXT = "The quick brown fox jumps over the lazy dog. " * 100
CACHES: dict[str, dict[str, Any]] = {
    "f32, no flash attention": {"kv_type": "f32", "flash_attention": "off"},
    "f16, no flash attention": {"kv_type": "f16", "flash_attention": "off"},
    "f16": {"kv_type": "f16"},
    "q8_0": {"kv_type": "q8_0"},
}


def read(model: Gemma4, rows: int) -> NDArray[np.float32]:
    """The logits after the text, read in pieces of so many rows; those that are never chosen are left out."""
    session, ids = model.engine.session, model.tokenize(TEXT)[:TOKENS]
    session.clear()
    for stop in range(rows, TOKENS + rows, rows):
        session.feed([Span(ids[:stop])])
    logits = session.context.logits()
    return np.asarray(logits[np.isfinite(logits)], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pieces", type=int, nargs="+", default=[TOKENS, 100, 60, 20], help="rows [400 100 60 20]")
    parser.add_argument("--threads", type=int, default=physical_cores())
    given = parser.parse_args()
    exact = None
    for name, how in CACHES.items():
        with Gemma4(given.bundle, context=1024, threads=given.threads, draft="off", **how) as model:
            whole = read(model, TOKENS)
            exact = whole if exact is None else exact
            for rows in given.pieces:
                found = read(model, rows)
                off, rms = float(np.abs(found - whole).max()), float(np.sqrt(np.mean((found - exact) ** 2)))
                print(f"{name}, pieces of {rows}: {off:.3f} from at once, {rms:.3f} from float32", flush=True)


if __name__ == "__main__":
    main()
