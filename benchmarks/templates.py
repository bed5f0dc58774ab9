#!/usr/bin/env python3
"""What a process of its own costs a chat template: `python benchmarks/templates.py` prints milliseconds.

Each template of `tests/data/templates`, and our own, is rendered in this process and in the other, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gemma4gguf.chat import sandbox
from gemma4gguf.chat.child import Child
from gemma4gguf.chat.rendering import default_template
from tests.support.templates import CONVERSATION, KINDS, OPTIONS, TOOLS

TIMES = 50


def milliseconds(action: Callable[[], str]) -> float:
    begun = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begun)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    child = Child()
    names = {"documents": None, **OPTIONS, "messages": CONVERSATION, "tools": TOOLS}
    print(f"{milliseconds(lambda: child.render('', {})):8.1f}         to start the process")
    print("    here   there   median milliseconds")
    worst = 0.0
    for kind, source in {**KINDS, "our own": default_template()}.items():
        pairs = [
            (milliseconds(lambda: sandbox.render(source, names)), milliseconds(lambda: child.render(source, names)))  # noqa: B023
            for _ in range(TIMES)
        ]
        here, there = (statistics.median(column) for column in zip(*pairs, strict=True))
        worst = max(worst, there - here)
        print(f"{here:8.2f}{there:8.2f}   {kind}")
    print(f"at most {worst:.2f} ms slower")
    child.close()


if __name__ == "__main__":
    main()
