#!/usr/bin/env python3
"""What a model takes of memory, measured, against what `gemma4gguf plan` computes beforehand.

    benchmarks/memory.py BUNDLE... [--contexts 4096,32768] [--tokens 1200] [--image PATH]

Every bundle, context and combination of drafter and picture is opened in a process of its own that reads a prompt of
--tokens tokens (or what the context holds, where that is less), looks at the picture, and answers. Its private memory
is looked at every 10 ms. Prints one JSON object: predicted and measured peak in MB, and their ratio. A context beyond
the model's own limit becomes that limit. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.bundle.reading import Bundle  # noqa: E402
from gemma4gguf.native.context import ContextOptions  # noqa: E402
from gemma4gguf.native.library import repacked_types, system_info  # noqa: E402
from gemma4gguf.runtime.memory import Facts, memory  # noqa: E402
from tests.support.private import peak_of_answering  # noqa: E402


def row(file: Path, context: int, tokens: int, *, drafts: bool, image: Path | None) -> dict[str, Any]:
    facts = Facts.of(Bundle.open(file).sections)
    context = min(context, facts.limit)
    needed = memory(facts, ContextOptions(context), repacked=repacked_types(), media=image is not None, drafts=drafts)
    peak, prompt = peak_of_answering(file, context, tokens, drafts=drafts, image=image)
    return {
        "file": file.name,
        "context": context,
        "prompt": prompt,
        "drafter": drafts,
        "picture": image is not None,
        "predicted_mb": round(needed.private / 1e6, 1),
        "measured_mb": round(peak / 1e6, 1),
        "ratio": round(needed.private / peak, 3),
        "kinds": {name: round(value["private"] / 1e6, 1) for name, value in asdict(needed).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--contexts", default="4096,32768")
    parser.add_argument("--tokens", type=int, default=1200)
    parser.add_argument("--image", type=Path, default=ROOT / "models" / "demo" / "cat.jpg")
    given = parser.parse_args()
    contexts = [int(n) for n in given.contexts.split(",")]
    rows = [
        row(file, context, given.tokens, drafts=drafts, image=image)
        for file, context, drafts, image in product(given.bundles, contexts, (False, True), (None, given.image))
    ]
    print(json.dumps({"processor": system_info(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
