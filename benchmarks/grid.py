#!/usr/bin/env python3
"""Measure what it costs to store a checkpoint on its grid: processor seconds and memory, beside plain Q4_0.

    benchmarks/make_checkpoint.py CHECKPOINT --layers 6 --qat
    benchmarks/grid.py CHECKPOINT WORK

Prints JSON: both conversions by `benchmarks.convert.measure`, the ratio of their processor seconds, and how the blocks
were stored. WORK needs room for one Q4_0 bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.convert import measure  # noqa: E402

CONVERT = """
import json, sys
from converters import convert
done = convert(sys.argv[1], sys.argv[2], quant="Q4_0", exact_llama=sys.argv[3] == "plain", force=True)
with open(sys.argv[4], "w") as file:
    json.dump({n: [c.exact, c.rounded, c.off, c.error] for n, c in done.grids.items()}, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    given = parser.parse_args()
    out, counted = given.work / "out.gguf", given.work / "counts.json"
    steps = {}
    for how in ("plain", "grid"):
        command = [sys.executable, "-c", CONVERT, str(given.checkpoint), str(out), how, str(counted)]
        steps[how] = measure(command, out)
        out.unlink()
    counts = list(json.loads(counted.read_text()).values())
    exact, rounded, off = (sum(c[i] for c in counts) for i in range(3))
    print(
        json.dumps(
            steps
            | {
                "ratio_of_processor_seconds": round(
                    steps["grid"]["processor_seconds"] / steps["plain"]["processor_seconds"], 2
                ),
                "tensors": len(counts),
                "blocks": {"exact": exact, "step rounded": rounded, "on no grid": off},
                "exact_of_those_half_precision_can_hold": exact / max(1, exact + off),
                "largest_error": max((c[3] for c in counts), default=0),
                "cores": os.cpu_count(),
                "load": os.getloadavg()[0],
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
