#!/usr/bin/env python3
"""docs/performance.md and its pictures, from what scripts/bench has measured: benchmarks/results/. cpu.json makes the
page and gpu.json its part about a GPU; of every other cpu-NAME.json, another machine's, the ratios are told.

With --check nothing is written; the difference is printed, and the exit status 1 where there is one. Why a ratio does
not hold stands in the table of comparisons, tests/support/comparisons.py.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts.make_docs import table  # noqa: E402
from tests.support.comparisons import ACCEPTED, WHY, values  # noqa: E402

RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
Report = Mapping[str, Any]
MADE = "<!-- Made by scripts/make_performance.py from benchmarks/results/: run scripts/bench, then it. -->"
INTRO = """How fast it is beside other programs that do the same, on one machine. `scripts/bench` runs one comparison
after the other, if need be in pieces. The two sides of a comparison take turns, so that both meet the same machine. A
ratio is ours / theirs, the median of the rounds' ratios. The text model is a stand-in: six layers of the 12B's shapes
with random weights, Q4_0, with a drafter of its shapes. The transcript and the batch are of the small model in
`models/`. **No figure is from the real 12B.**"""
WIDTH, LEFT, RIGHT, TOP, STEP = 760, 330, 60, 40, 18
HELD, MISSED = "#5a9a5a", "#c05a40"
TICKS = (0.5, 1, 2, 4, 8)
STYLE = """text { fill: #222 } .line { stroke: #222; fill: none } .grid { stroke: #ccc }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .line { stroke: #ddd } .grid { stroke: #444 } }"""
PANEL, HIGH, PANELS, WIDE, TALL = 380, 230, 2, 270, 150  # of growth: a panel, panels in a row, what is drawn in one


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def better(one: Report, value: float) -> float:
    """How many times as good as the peer a ratio is."""
    return value if one["larger is better"] else 1 / value


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11" role="img">'
    )
    return "\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def ratios_picture(found: Sequence[Report]) -> str:
    """A bar for each ratio, to the right where we are ahead; a line across where its budget is."""
    found = [one for one in found if one["peer"] is not None or one["unit"].startswith("of ")]
    low, high = math.log(0.3), math.log(12)
    bottom = TOP + STEP * len(found)

    def across(times: float) -> float:
        at = min(max(math.log(times), low), high)
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - low) / (high - low)

    parts = []
    for times in TICKS:
        parts.append(f'<path class="grid" d="M{across(times):.1f} {TOP - 6}V{bottom}"/>')
        parts.append(f'<text x="{across(times):.1f}" y="{TOP - 12}" text-anchor="middle">{times:g}x</text>')
    for number, one in enumerate(found):
        y, times = TOP + STEP * number, better(one, one["ratio"])
        begin, end = sorted((across(1), across(times)))
        parts.append(f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{one["title"]}</text>')
        parts.append(
            f'<rect x="{begin:.1f}" y="{y + 2}" width="{end - begin:.1f}" height="{STEP - 6}" '
            f'fill="{HELD if one["held"] else MISSED}"><title>against {one["against"]}: {one["ratio"]}</title></rect>'
        )
        parts.append(f'<path class="line" d="M{across(better(one, one["budget"])):.1f} {y}v{STEP - 2}"/>')
        parts.append(f'<text x="{end + 4:.1f}" y="{y + 11}">{times:.2f}</text>')
    parts.append(f'<path class="line" d="M{across(1):.1f} {TOP - 6}V{bottom}"/>')
    return svg(WIDTH, bottom + 6, "Ours beside other programs", parts)


def growth_picture(found: Mapping[str, Report]) -> str:
    """A panel for each kind of growth. Sizes and figures have one scale, of powers: twice for twice is the diagonal."""
    parts = []
    for number, (name, one) in enumerate(found.items()):
        x0, y0 = PANEL * (number % PANELS) + 50, HIGH * (number // PANELS) + 34
        sizes, figures, whole = one["sizes"], one["figures"], math.log(one["sizes"][-1] / one["sizes"][0])
        low = min(figures)
        places = [
            (x0 + WIDE * math.log(size / sizes[0]) / whole, y0 + TALL * (1 - math.log(figure / low) / whole))
            for size, figure in zip(sizes, figures, strict=True)
        ]
        parts.append(f'<text x="{x0}" y="{y0 - 14}">{name}: slope {one["slope"]:g}</text>')
        parts.append(f'<path class="grid" fill="none" d="M{x0} {y0}v{TALL}h{WIDE}"/>')
        parts.append(f'<path class="grid" fill="none" stroke-dasharray="4 3" d="M{x0} {y0 + TALL}L{x0 + WIDE} {y0}"/>')
        parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        for (x, y), size, figure in zip(places, sizes, figures, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{HELD}"/>')
            parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{shown(figure)} {one["unit"]}</text>')
            parts.append(f'<text x="{x:.1f}" y="{y0 + TALL + 15}" text-anchor="middle">{size:,}</text>')
    return svg(PANEL * PANELS, HIGH * math.ceil(len(found) / PANELS), "How time and memory grow", parts)


def shown(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────


def ratios_table(found: Sequence[Report]) -> str:
    rows = [("what", "against", "ours", "theirs", "ratio", "half of the rounds", "budget", "")]
    for one in found:
        unit, sides = one["unit"], [one["ours"], one["peer"]]
        ours, theirs = (f"{shown(side)} {unit}" if side is not None else "" for side in sides)
        spread = "{} to {}".format(*one["spread"]) if one["rounds"] > 1 else ""
        rows.append((one["title"], one["against"], ours, theirs, f"{one['ratio']:g}", spread, budget(one), held(one)))
    return table(*rows)


def budget(one: Report) -> str:
    return f"{'at least' if one['larger is better'] else 'at most'} {one['budget']:g}"


def held(one: Report) -> str:
    return "held" if one["held"] else "**not held**"


def missed(found: Sequence[Report]) -> str:
    """Each ratio that does not hold, by how much, and why."""
    lines = []
    for one in found:
        if not one["held"]:
            off = abs(one["ratio"] / one["budget"] - 1)
            reason = WHY.get(one["title"], "not explained yet")
            ratio = f"{one['ratio']:g}, where {one['budget']:g} is the budget, {off:.0%} off"
            lines.append(f"- **{one['title']}** against {one['against']}: {ratio}: {reason}.")
    return "\n".join(lines) or "Every ratio holds."


def machine(report: Report) -> str:
    told = report["machine"]
    dates = sorted({run["date"] for run in report["programs"].values()})
    busy = [name for name, run in report["programs"].items() if run["warnings"]]
    first = [name for name, run in report["programs"].items() if run.get("nice", 0) < 0]
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    lines = [
        *(f"GPU: {card}." for card in told.get("gpus", ())),
        f"{told['processor']}, {told['cores']} cores"
        + (f" (quota {told['quota']:g})" if told["quota"] else "")
        + f", {told['memory'] / 1e9:.0f} GB of memory, copied by one core at {told['memory copied, GB/s']} GB/s.",
        f"What llama.cpp uses of it: {', '.join(told['features'])}.",
        f"gemma4gguf {told['gemma4gguf']}, llama.cpp {told['llama.cpp']}, Python {told['python']}, {versions}.",
        f"Measured on {' and '.join(dates)}.",
        *([f"Other programs were at work before {', '.join(busy)}."] if busy else []),
        *([f"With a higher priority than others: {', '.join(first)}."] if first else []),
    ]
    return "\n".join(lines)


def rows_table(report: Report, program: str) -> str:
    """What a check costs by its number of rows, which decides what drafts bring."""
    run = report["programs"].get(program)
    if run is None:
        return ""
    costs = run["found"]["ms"]
    check = costs["check"].items()
    return table(
        ("rows", *(rows for rows, _ in check), "a draft step"),
        ("ms", *(shown(ms) for _, ms in check), shown(costs["draft"])),
    )


def drafts_table(report: Report, prefix: str) -> str:
    """Each contestant's tokens a second over plain decoding beside it, the median of the rounds, by acceptance."""
    columns: dict[str, dict[str, str]] = {}
    for share in ACCEPTED:
        run = report["programs"].get(f"{prefix}drafts {share}")
        for name in run["found"]["rounds"][0] if run else ():
            if run and name.endswith(" / plain"):
                ratio = statistics.median(values(run["found"], f"rounds|*|{name}"))
                columns.setdefault(name.removesuffix(" / plain"), {})[share] = f"{ratio:.2f}"
    shares = [share for share in ACCEPTED if any(share in column for column in columns.values())]
    head = ("accepted", *(f"{float(share):.0%}" for share in shares))
    return table(head, *((name, *(by.get(share, "") for share in shares)) for name, by in columns.items()))


def growths(report: Report) -> dict[str, Report]:
    found: dict[str, Report] = {}
    for name, run in report["programs"].items():
        if name.startswith("growth"):
            found |= run["found"]
    return {name: one for name, one in found.items() if len(one["sizes"]) > 1}


def growth_table(found: Mapping[str, Report]) -> str:
    rows = [("what grows", "sizes", "figures", "slope")]
    for name, one in found.items():
        sizes, figures = ", ".join(f"{size:,}" for size in one["sizes"]), ", ".join(map(shown, one["figures"]))
        rows.append((name, sizes, f"{figures} {one['unit']}", f"{one['slope']:g}"))
    return table(*rows)


def commands(report: Report) -> str:
    rows = [("part", "command", "seconds")]
    rows += [(name, f"`{run['command']}`", str(run["seconds"])) for name, run in report["programs"].items()]
    return table(*rows)


def elsewhere(report: Report) -> str:
    """Another machine and its ratios."""
    rows = [("what", "against", "ratio", "budget", "")]
    for one in report["comparisons"]:
        rows.append((one["title"], one["against"], f"{one['ratio']:g}", budget(one), held(one)))
    return f"{machine(report)}\n\n{table(*rows)}"


def page(cpu: Report, others: Sequence[Report], gpu: Report | None) -> str:
    ratios, grown = cpu["comparisons"], growths(cpu)
    parts = ["# Performance", MADE, INTRO, machine(cpu), "![Every ratio](performance.svg)", ratios_table(ratios)]
    parts += ["## What does not hold", missed(ratios)]
    if rows := rows_table(cpu, "decode"):
        parts += ["## Rows and drafts", "Milliseconds of a check, by the number of rows:", rows]
    if drafts := drafts_table(cpu, ""):
        parts += [
            "Tokens a second over plain decoding beside it, with acceptance forced; a number is a fixed length:",
            drafts,
        ]
    if grown:
        parts += [
            "## Growth",
            "A slope is a power of the size: 1 means twice for twice, 0 the same for any.",
            "![How time and memory grow](performance-growth.svg)",
            growth_table(grown),
        ]
    parts += [part for other in others for part in ("## On another machine", elsewhere(other))]
    parts += ["## On a GPU", gpu_part(gpu), "## How it was measured", commands(cpu)]
    return "\n\n".join(filter(None, parts)) + "\n"


def gpu_part(gpu: Report | None) -> str:
    if gpu is None:
        return "Not run: `scripts/bench --gpu --bundle FILE --peers FOLDER` measures it where there is one."
    found = gpu["comparisons"]
    costs = rows_table(gpu, "gpu drafts 0.7")
    return "\n\n".join(
        filter(
            None,
            (
                machine(gpu),
                ratios_table(found),
                missed(found),
                "Milliseconds of a check, by the number of rows:" if costs else "",
                costs,
                "Tokens a second over plain decoding beside it:",
                drafts_table(gpu, "gpu "),
                commands(gpu),
            ),
        )
    )


def made(results: Path = RESULTS) -> dict[str, str]:
    """The files of docs/, by name."""
    read = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))}
    cpu, grown = read["cpu"], growths(read["cpu"])
    others = [report for name, report in read.items() if name.startswith("cpu-")]
    files = {
        "performance.md": page(cpu, others, read.get("gpu")),
        "performance.svg": ratios_picture(cpu["comparisons"]),
    }
    return files | ({"performance-growth.svg": growth_picture(grown)} if grown else {})


def difference(results: Path = RESULTS, docs: Path = DOCS) -> str:
    """A unified diff, of the files as they are to the files as they would be made."""
    out: list[str] = []
    for name, text in made(results).items():
        before = (docs / name).read_text("utf-8") if (docs / name).exists() else ""
        out += difflib.unified_diff(before.splitlines(), text.splitlines(), name, name, lineterm="")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page is out of date")
    if parser.parse_args().check:
        sys.exit(difference() or 0)
    for name, text in made().items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
