#!/usr/bin/env python3
"""What a model takes of memory, measured, against what `gemma4gguf plan` computes beforehand.

    benchmarks/memory.py BUNDLE... [--tokens 1100] [--context 131072]

ROWS says what is tried: of models (tiny, and the 12B's shapes with 6, 24 and 48 layers), types, contexts, slots,
drafter and media, every pair that fits 24 GB is in one of them. Those of the given bundles are run, each in a process
of its own: it reads a prompt of --tokens tokens (or what the context holds, where that is less), then a few in each
slot at once, and, with media, looks at a picture and hears a clip. Private memory is looked at every 10 ms; at the end,
the bundle's pages that were used since it was loaded, which nobody else may use meanwhile. Prints one JSON object:
predicted and measured MB, and their ratio. Linux only: it reads /proc.

llama.cpp fills a mask as far as the prompt goes, and reserves it for the whole context. So a row is predicted for the
positions that it reads; `whole_mb` is what the plan says, with a context that is full.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.bundle.reading import Bundle  # noqa: E402
from gemma4gguf.bundle.settings import file_type  # noqa: E402
from gemma4gguf.native.context import ContextOptions  # noqa: E402
from gemma4gguf.native.library import repacked_types, system_info  # noqa: E402
from gemma4gguf.runtime.memory import Facts, memory  # noqa: E402
from tests.support.private import ANSWER, measure  # noqa: E402
from tests.support.standin_config import REAL  # noqa: E402

TINY = 0  # layers: the small trained model, which was made for 8,192 positions


@dataclass(frozen=True)
class Row:
    """What is opened. `context` positions for each of `slots`."""

    layers: int
    type: str
    context: int
    slots: int
    drafter: bool
    media: bool


ROWS = (
    Row(TINY, "Q4_0", 4_096, 1, True, False),
    Row(TINY, "Q4_0", 4_096, 1, False, True),
    Row(TINY, "Q4_0", 4_096, 4, True, False),
    Row(TINY, "Q4_K_M", 4_096, 4, False, True),
    Row(6, "Q4_K_M", 4_096, 1, True, False),
    Row(6, "Q4_0", 32_768, 4, False, False),
    Row(6, "Q4_K_M", 32_768, 4, True, False),
    Row(6, "Q4_K_M", 32_768, 4, False, False),
    Row(6, "Q4_0", 131_072, 4, False, True),
    Row(6, "Q4_K_M", 131_072, 1, False, True),
    Row(6, "Q4_K_M", 131_072, 4, False, False),
    Row(6, "Q4_K_M", 262_144, 1, True, True),
    Row(24, "Q4_0", 4_096, 1, False, False),
    Row(24, "Q4_0", 32_768, 1, True, True),
    Row(24, "Q4_0", 131_072, 1, False, True),
    Row(24, "Q4_K_M", 131_072, 1, True, True),
    Row(24, "Q4_K_M", 131_072, 4, True, False),
    Row(24, "Q4_0", 262_144, 4, False, False),
    Row(48, "Q4_0", 4_096, 4, True, True),
    Row(48, "Q4_K_M", 4_096, 1, True, False),
    Row(48, "Q4_0", 32_768, 1, False, True),
    Row(48, "Q4_0", 131_072, 4, True, False),
    Row(48, "Q4_K_M", 131_072, 4, False, True),
    Row(48, "Q4_K_M", 262_144, 1, True, False),
)


def rows_of(facts: Facts, kind: str | None) -> list[Row]:
    """Those of a bundle, by its layers and its type."""
    layers = len(facts.model.layers) if facts.model.width == REAL.hidden else TINY
    return [row for row in ROWS if (row.layers, row.type) == (layers, kind)]


def run(file: Path, facts: Facts, row: Row, tokens: int) -> dict[str, Any]:
    """One row, measured and predicted."""
    found = measure(file, row.context, tokens, drafts=row.drafter, media=row.media, slots=row.slots)
    options = ContextOptions(row.context, sequences=row.slots, outputs=row.slots * ContextOptions.outputs)
    how: dict[str, Any] = {"repacked": repacked_types(), "media": row.media, "drafts": row.drafter}
    needed = memory(facts, options, used=found.prompt + ANSWER, **how)
    measured = found.private + found.mapped
    return {
        "file": file.name,
        **asdict(row),
        "prompt": found.prompt,
        "private_mb": [round(needed.private / 1e6, 1), round(found.private / 1e6, 1)],
        "mapped_mb": [round(needed.mapped / 1e6, 1), round(found.mapped / 1e6, 1)],
        "total_mb": [round(needed.total / 1e6, 1), round(measured / 1e6, 1)],
        "ratio": round(needed.total / measured, 3),
        "whole_mb": round(memory(facts, options, **how).total / 1e6, 1),
        "kinds": {name: [round(n / 1e6, 1) for n in value.values()] for name, value in asdict(needed).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=1100)
    parser.add_argument("--context", type=int, help="only the rows with this context")
    given = parser.parse_args()
    rows = []
    for file in given.bundles:
        bundle = Bundle.open(file)
        facts = Facts.of(bundle.sections)
        for row in rows_of(facts, file_type(bundle.text.metadata.get("general.file_type"))):
            if given.context not in (None, row.context):
                continue
            rows.append(run(file, facts, row, given.tokens))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"processor": system_info(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
