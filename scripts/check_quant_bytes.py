#!/usr/bin/env python3
"""Check on a checkpoint of any size that every type's bytes are those of llama_model_quantize.

    scripts/check_quant_bytes.py CHECKPOINT WORK_FOLDER [--types Q4_K_M,Q4_0] [--imatrix no|yes|both]

Prints one line per type and ends with status 1 when any tensor differs. The test suite does the same on the small
stand-in; this is for the real shapes. WORK_FOLDER needs room for the text model as BF16 and twice as the type.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from converters import MIXTURES, convert  # noqa: E402
from gemma4gguf.bundle.reading import Section, read_sections  # noqa: E402
from tests.support.quantise_peer import importance_of, llama_quantize, write_imatrix_gguf  # noqa: E402

PIECE = 64 << 20  # bytes compared at a time


def same_bytes(ours: Section, theirs: Section, name: str) -> bool:
    a, b = ours.raw(name), theirs.raw(name)
    return len(a) == len(b) and all(np.array_equal(a[i : i + PIECE], b[i : i + PIECE]) for i in range(0, len(a), PIECE))


def differences(ours: Section, theirs: Section) -> list[str]:
    """Tensors of another name, type or content."""
    if list(ours.tensors) != list(theirs.tensors):
        return sorted(set(ours.tensors) ^ set(theirs.tensors)) or ["the order of tensors"]
    kinds = [n for n, t in ours.tensors.items() if t.type is not theirs.tensors[n].type]
    return kinds or [n for n in ours.tensors if not same_bytes(ours, theirs, n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--types", default=",".join(MIXTURES))
    parser.add_argument("--imatrix", choices=["no", "yes", "both"], default="both")
    options = parser.parse_args()
    source = options.work / "source-bf16.gguf"
    convert(options.checkpoint, source, quant="BF16", text_only=True, force=True)
    values = importance_of(read_sections(source)[0])
    write_imatrix_gguf(options.work / "imatrix.gguf", values, 1.0)
    wrong = 0
    for quant in options.types.split(","):
        for with_values in {"no": [False], "yes": [True], "both": [False, True]}[options.imatrix]:
            if with_values and quant in ("F32", "BF16", "F16"):
                continue
            ours, theirs = options.work / "ours.gguf", options.work / "theirs.gguf"
            imatrix = options.work / "imatrix.gguf" if with_values else None
            convert(options.checkpoint, ours, quant=quant, text_only=True, imatrix=imatrix, force=True)
            begun = time.monotonic()
            llama_quantize(source, theirs, MIXTURES[quant].file_type, values if with_values else None)
            found = differences(read_sections(ours)[0], read_sections(theirs)[0])
            wrong += len(found)
            verdict = f"DIFFERENT: {', '.join(found[:5])}" if found else "identical"
            label = "with importance" if with_values else "plain"
            print(f"{quant:7} {label:15} {len(read_sections(ours)[0].tensors)} tensors {verdict}", end="")
            print(f"  ({time.monotonic() - begun:.0f} s for llama.cpp)", flush=True)
            ours.unlink()
            theirs.unlink()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
