#!/usr/bin/env python3
"""docs/memory.svg: where 16 GB go, from what `gemma4gguf plan` computes for the 12B's shapes.

Each bar is a type, a context and a cache, with the drafter. `tests/test_plan.py` holds the picture to the code. The
figures are for a processor with AVX2, so that every machine draws the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.runtime.memory import Memory  # noqa: E402
from gemma4gguf.runtime.room import usable  # noqa: E402
from gemma4gguf.tools.plan import plan  # noqa: E402
from tests.support.standin import write_checkpoint, write_drafter  # noqa: E402
from tests.support.standin_config import REAL  # noqa: E402

GB = 10**9
MEMORY = 16 * GB
AVX2 = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})
BARS = (  # type, context, cache
    ("Q6_K", 32_768, "f16"),
    ("Q4_K_M", 8_192, "f16"),
    ("Q4_K_M", 32_768, "f16"),
    ("Q4_K_M", 262_144, "f16"),
    ("Q4_K_M", 262_144, "q8_0"),
)
KINDS = (  # what a piece of a bar is called, the kinds in it, its colour: each reads on white and on black
    ("weights", ("weights",), "#4878a8"),
    ("cache", ("cache",), "#d08030"),
    ("kept of the last prompt", ("kept",), "#b8a030"),
    ("compute, outputs", ("compute", "outputs"), "#5a9a5a"),
    ("embedder", ("embedder",), "#a05a8c"),
    ("drafter", ("drafter",), "#7a6ab8"),
    ("vocabulary, Python", ("vocabulary", "python"), "#808080"),
)
WIDTH, LEFT, RIGHT, TOP, BAR, STEP = 760, 150, 20, 62, 26, 44
LABEL = 12 * GB // 10  # what a sum takes
STYLE = """text { fill: #222 } .line { stroke: #222 } .grid { stroke: #ccc }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .line { stroke: #ddd } .grid { stroke: #444 } }"""


@dataclass(frozen=True)
class Bar:
    label: str
    cache: str
    memory: Memory


def bars(folder: Path) -> list[Bar]:
    """What the plan says. Headers of the 12B's shapes are written to `folder`: zeros that take no disk."""
    gemma = write_checkpoint(folder / "gemma", sizes=REAL, seed=None)
    drafter = write_drafter(folder / "assistant", sizes=REAL, seed=None)

    def planned(kind: str, context: int, cache: str) -> Bar:
        found = plan(f"{gemma}:{kind}", limit=MEMORY, context=context, kv_type=cache, drafter=drafter, repacked=AVX2)
        return Bar(f"{kind}, {context:,}", f"cache in {cache}", found.choices[0].memory)

    return [planned(*bar) for bar in BARS]


def picture(drawn: Sequence[Bar]) -> str:
    """The SVG, for a light and a dark page."""
    scale = (WIDTH - LEFT - RIGHT) / MEMORY
    bottom = TOP + STEP * len(drawn)

    def across(size: float) -> str:
        return f"{LEFT + scale * size:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}" font-family="sans-serif" '
        'font-size="12" role="img">',
        "<title>Where 16 GB go</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, (name, _, colour) in enumerate(KINDS):
        x, y = LEFT + 150 * (number % 4), 12 + 18 * (number // 4)
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="{y}">{name}</text>')
    for size in range(0, MEMORY + 1, 2 * GB):
        parts.append(f'<path class="grid" d="M{across(size)} {TOP - 8}V{bottom}"/>')
        parts.append(f'<text x="{across(size)}" y="{bottom + 16}" text-anchor="middle">{size // GB} GB</text>')
    for number, bar in enumerate(drawn):
        y, at = TOP + STEP * number, 0
        parts.append(f'<text x="{LEFT - 10}" y="{y + 11}" text-anchor="end">{bar.label}</text>')
        parts.append(f'<text x="{LEFT - 10}" y="{y + 25}" text-anchor="end" font-size="10">{bar.cache}</text>')
        for name, kinds, colour in KINDS:
            held = sum(getattr(bar.memory, kind).total for kind in kinds)
            parts.append(
                f'<rect x="{across(at)}" y="{y}" width="{scale * held:.1f}" height="{BAR}" fill="{colour}">'
                f"<title>{name}: {held / GB:.2f} GB</title></rect>"
            )
            at += held
        end = max(at, usable(MEMORY)) if at + LABEL > usable(MEMORY) else at  # beside the dashed line, not across it
        parts.append(f'<text x="{across(end + GB / 10)}" y="{y + 18}">{at / GB:.2f} GB</text>')
    room = across(usable(MEMORY))
    parts.append(f'<path class="line" stroke-dasharray="4 3" d="M{room} {TOP - 8}V{bottom}"/>')
    parts.append(f'<text x="{room}" y="{TOP - 12}" text-anchor="middle">what a plan gives away</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "docs" / "memory.svg")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given.out.write_text(picture(bars(Path(folder))), encoding="utf-8")


if __name__ == "__main__":
    main()
