#!/usr/bin/env python3
"""How time and memory grow: with the prompt, the context, the pictures in a question, the answers at once.

    benchmarks/growth.py BUNDLE [--only prompt,context,pictures,slots] [--prompt 16384]

prompt    seconds to read so many tokens, from 1,024 on; in one go, timed on the way.
context   a process of its own opens the file with so much context: seconds, and MB of private memory.
pictures  seconds to the first token of a question about 1 to 16 pictures of 70 soft tokens each.
slots     milliseconds of a step that writes a token for each of 1 to 8 answers.

Prints JSON: sizes, figures, and the slope: what the figure is multiplied by, in powers of the size: 1 is twice for
twice, 0 is the same for any. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf import Gemma4  # noqa: E402
from gemma4gguf.runtime.session import Span, Step, evaluate  # noqa: E402
from tests.support.photos import photo  # noqa: E402
from tests.support.turns import in_turns  # noqa: E402

FIRST = 1024
CONTEXTS = (4096, 16_384, 65_536, 262_144)
PICTURES = (1, 2, 4, 8, 16)
BUDGET, SIDES = 70, (640, 480)  # soft tokens and pixels of each picture
SLOTS, STEPS = (1, 2, 4, 8), 8
OPEN = """
import json, sys, time
from pathlib import Path
from gemma4gguf import Gemma4
begun = time.perf_counter()
with Gemma4(sys.argv[1], context=int(sys.argv[2]), draft="off") as model:
    model.load()
    seconds = time.perf_counter() - begun
    private = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
print(json.dumps([seconds, int(private.split()[1]) / 1e3]))
"""


def ids(count: int) -> tuple[int, ...]:
    """Ordinary tokens in no order."""
    return (2, *map(int, np.random.default_rng(1).integers(300, 4000, count - 1)))


def grown(sizes: Sequence[int], figures: Sequence[float], unit: str) -> dict[str, Any]:
    slope = np.polyfit(np.log(sizes), np.log(figures), 1)[0] if len(sizes) > 1 else 0.0
    return {"unit": unit, "sizes": list(sizes), "figures": [round(f, 3) for f in figures], "slope": round(slope, 2)}


def prompt(bundle: Path, most: int) -> dict[str, Any]:
    sizes = [size for power in range(20) if (size := FIRST << power) <= most]
    with Gemma4(bundle, context=sizes[-1] + FIRST, draft="off") as model:
        session, tokens, taken, at = model.engine.session, ids(sizes[-1]), [], 0
        begun = time.perf_counter()
        for size in sizes:
            session.feed([Span(tokens[at:size])])
            taken.append(time.perf_counter() - begun)
            at = size
            print(f"{size} tokens: {taken[-1]:.1f} s", file=sys.stderr, flush=True)
    return {"reading a prompt, tokens": grown(sizes, taken, "s")}


def context(bundle: Path) -> dict[str, Any]:
    seconds, memory = [], []
    for size in CONTEXTS:
        runs = []
        for _ in range(3):
            command = [sys.executable, "-c", OPEN, str(bundle.resolve()), str(size)]
            run = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE)
            runs.append(json.loads(run.stdout))
        seconds.append(float(np.median([s for s, _ in runs])))
        memory.append(float(np.median([mb for _, mb in runs])))
    return {
        "opening, tokens of context": grown(CONTEXTS, seconds, "s"),
        "private memory, tokens of context": grown(CONTEXTS, memory, "MB"),
    }


def pictures(bundle: Path) -> dict[str, Any]:
    files = [photo(SIDES, number) for number in range(max(PICTURES))]
    with Gemma4(bundle, context=4096, draft="off", image_tokens=BUDGET) as model:
        taken = []
        for count in PICTURES:
            model.engine.scheduler.places.forget()
            begun = time.perf_counter()
            model.generate("What?", images=files[:count], max_tokens=1)
            taken.append(time.perf_counter() - begun)
    return {"first token, pictures": grown(PICTURES, taken, "s")}


def slots(bundle: Path) -> dict[str, Any]:
    with Gemma4(bundle, context=1024, draft="off", parallel=max(SLOTS)) as model:
        sessions, cache = model.engine.sessions, model.engine.session.context
        for session in sessions:
            session.feed([Span(ids(32))])

        def step(count: int) -> None:
            evaluate(cache, [Step(session, [500]) for session in sessions[:count]])
            for session in sessions[:count]:
                cache.remove(session.length, session.sequence)

        steps: dict[str, Callable[[], object]] = {str(n): lambda n=n: step(n) for n in SLOTS}  # type: ignore[misc]
        taken = in_turns(steps, STEPS)
    return {"a step, answers at once": grown(SLOTS, [float(np.median(taken[str(n)])) for n in SLOTS], "ms")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt", type=int, default=16_384, help="tokens of the longest prompt [16384]")
    parser.add_argument("--only", default="prompt,context,pictures,slots", help="parts, separated by commas")
    given = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "prompt": lambda: prompt(given.bundle, given.prompt),
        "context": lambda: context(given.bundle),
        "pictures": lambda: pictures(given.bundle),
        "slots": lambda: slots(given.bundle),
    }
    if unknown := [name for name in given.only.split(",") if name not in parts]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(parts)}")
    found: dict[str, Any] = {}
    for name in given.only.split(","):
        found |= parts[name]()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
