#!/usr/bin/env python3
"""Converts models/tiny once for every operation on a file that it makes, each time with a fault there.

    python scripts/check_faults.py            # a few minutes; exit status 1 where a fault went wrong

Each operation fails in three ways: an I/O error, a full disk, and (reads) an end of file that comes too early. Every
conversion must end in one line and leave nothing, or, where nothing was lost, in the whole file. Once into an empty
folder, once over an older file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from converters import convert
from tests.support.faults import FAILURES, READS, Faults, outcome

MODELS = Path(__file__).parent.parent / "models"


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "tiny.gguf"

        def work() -> None:
            convert(MODELS / "tiny", out, quant="Q8_0", drafter=MODELS / "tiny-assistant", threads=1, force=True)

        with Faults() as faults:
            work()
        whole, seen = out.read_bytes(), faults.seen
        print(f"{len(seen)} operations: {dict(Counter(place.what for place in seen))}", flush=True)
        counts: Counter[str] = Counter()
        for kind in FAILURES:
            for at in seen:
                if kind == "short" and at.what not in READS:
                    continue
                out.unlink(missing_ok=True)
                if at.number % 2:
                    out.write_bytes(b"an older file")
                found = outcome(work, out, at, kind, whole)
                counts[f"{kind}, {found if found in ('whole', 'refused') else 'wrong'}"] += 1
                if found not in ("whole", "refused"):
                    print(f"{kind}: {found}", flush=True)
        print(dict(counts))
        return 1 if any("wrong" in key for key in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
