#!/usr/bin/env python3
"""Write a checkpoint of the 12B's exact shapes with random weights: what size, speed and memory are measured on.

    benchmarks/make_checkpoint.py FOLDER --layers 6     # 2.4 billion values, 4.8 GB; widths and vocabulary whole
    benchmarks/make_checkpoint.py FOLDER --shards 5     # all 48 layers, 24 GB
    benchmarks/make_checkpoint.py FOLDER --drafter      # the MTP drafter, 0.85 GB
    benchmarks/make_checkpoint.py FOLDER --layers 6 --qat   # on 4-bit grids, as quantisation-aware training
    benchmarks/make_checkpoint.py FOLDER --headers      # all 48 layers, 8 MB: enough for `gemma4gguf plan`

Same options, same bytes, on every machine. Its tokenizer has the 12B's special tokens, the 256 bytes and some pieces;
the other entries are unused. What it says is noise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.qat import put_on_grids
from tests.support.standin import REAL, SEED, write_checkpoint, write_drafter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=REAL.layers, help="a multiple of 6 [48]")
    parser.add_argument("--shards", type=int, default=1, help="files that the weights are spread over [1]")
    parser.add_argument("--drafter", action="store_true", help="write the drafter instead")
    parser.add_argument("--headers", action="store_true", help="zeros that take no disk, to plan with")
    parser.add_argument("--qat", action="store_true", help="put the matrices of the text model on 4-bit grids")
    given = parser.parse_args()
    if given.layers < 6 or given.layers % 6:
        parser.error("--layers: every sixth layer is a full one, so a multiple of 6")
    sizes = replace(REAL, layers=given.layers)
    seed = None if given.headers else SEED
    if given.drafter:
        write_drafter(given.folder, sizes=sizes, seed=seed, shards=given.shards)
    else:
        write_checkpoint(given.folder, sizes=sizes, seed=seed, shards=given.shards)
        if given.qat:
            put_on_grids(given.folder)


if __name__ == "__main__":
    main()
