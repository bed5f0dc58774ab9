#!/usr/bin/env python3
"""Show what `mix.py` printed: the tables of docs/quality.md, and its plot of KL divergence over size.

    benchmarks/mix.py WORK > lines && benchmarks/mix_report.py lines docs/quality.svg

The tables go to the screen. Several samples become their mean; with them, the spread of each ratio is told too.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

NAMES = {
    "plain": "llama.cpp",
    "text": "llama.cpp, its own imatrix (text)",
    "media": "llama.cpp, imatrix of text, pictures, sound",
    "equal": "the same, each kind a third",
    "mix": "our mix at that size",
    "mix_text": "our mix, values and weights of text alone",
    "mix_weights": "our mix, values of text, weights of text, pictures, sound",
}
COMPARED = (("media", "text"), ("equal", "text"), ("mix", "text"), ("mix", "mix_text"), ("mix_weights", "mix_text"))
COLOURS = {"plain": "#999", "text": "#c60", "mix": "#06c"}
KINDS = ("text", "sums", "pictures", "sound")
WIDTH, HEIGHT, LEFT, BELOW, EDGE = 560, 330, 60, 40, 20
TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # nats
Rows = dict[tuple[str, str], list[dict[str, Any]]]


def read(path: Path) -> Rows:
    """Lines by type and by how, in their order; several samples in one list."""
    found: Rows = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["type"], row["how"]].append(row)
    return found


def mean(rows: list[dict[str, Any]], key: str) -> float:
    return fmean(row[key] for row in rows)


def figures(found: Rows) -> str:
    lines = ["| size as | how | text model | " + " | ".join(KINDS) + " | same top (text) |", "|---" * 8 + "|"]
    for (kind, how), rows in found.items():
        told = [f"{mean(rows, k):.4f}" for k in KINDS]
        told = [f"**{t}**" if how == "mix" else t for t in told]
        first = kind if how == "plain" else ""
        cells = [first, NAMES[how], f"{mean(rows, 'text_model') / 1e6:.2f} MB", *told]
        lines.append(f"| {' | '.join(cells)} | {100 * mean(rows, 'text_same_top'):.1f} % |")
    return "\n".join(lines)


def ratios(found: Rows, how: str, base: str) -> str:
    """KL divergence over that of the files made as `base` says."""
    lines = [f"| {NAMES[how]}, over {NAMES[base]}: size as | " + " | ".join(KINDS) + " |", "|---" * 5 + "|"]
    for kind in (kind for kind, other in found if other == how):
        cells = []
        for key in KINDS:
            each = [a[key] / b[key] for a, b in zip(found[kind, how], found[kind, base], strict=True)]
            cells.append(f"{fmean(each):.2f}" + (f" ± {stdev(each):.2f}" if len(each) > 1 else ""))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Rows) -> str:
    """An SVG: the mean over text, pictures and sound."""
    points = {
        how: sorted(
            (mean(rows, "text_model") / 1e6, fmean(mean(rows, k) for k in ("text", "pictures", "sound")))
            for (_, other), rows in found.items()
            if other == how
        )
        for how in COLOURS
    }
    sizes = [size for each in points.values() for size, _ in each]
    low, high = min(sizes) - 0.05, max(sizes) + 0.05

    def across(size: float) -> float:
        return LEFT + (size - low) / (high - low) * (WIDTH - LEFT - EDGE)

    def up(value: float) -> float:
        bottom, top = math.log(0.8 * TICKS[0]), math.log(TICKS[-1])
        return HEIGHT - BELOW - (math.log(value) - bottom) / (top - bottom) * (HEIGHT - BELOW - EDGE)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="12">KL divergence, mean of text, pictures and sound (nats)</text>',
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">the text model, MB</text>',
    ]
    for tick in TICKS:
        parts.append(f'<path d="M{LEFT} {up(tick):.1f}H{WIDTH - EDGE}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for tenth in range(math.ceil(5 * low), math.floor(5 * high) + 1):
        place = f'x="{across(tenth / 5):.1f}" y="{HEIGHT - BELOW + 16}"'
        parts.append(f'<text {place} text-anchor="middle">{tenth / 5}</text>')
    for number, (how, colour) in enumerate(COLOURS.items()):
        places = [(f"{across(size):.1f}", f"{up(value):.1f}") for size, value in points[how]]
        line = " ".join(",".join(place) for place in places)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(f'<text x="{WIDTH - 200}" y="{40 + 18 * number}" fill="{colour}">{NAMES[how]}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="what mix.py printed")
    parser.add_argument("svg", type=Path, nargs="?", help="where the plot goes")
    given = parser.parse_args()
    found = read(given.lines)
    print(figures(found))
    hows = {how for _, how in found}
    for how, base in COMPARED:
        if {how, base} <= hows:
            print(f"\n{ratios(found, how, base)}")
    if given.svg is not None:
        given.svg.write_text(plot(found), encoding="utf-8")


if __name__ == "__main__":
    main()
