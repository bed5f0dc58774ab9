"""docs/performance.md and its pictures say what benchmarks/results/ holds; no ratio that does not hold is left out."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from scripts import make_performance
from tests.support.comparisons import COMPARISONS, compared

CPU: dict[str, Any] = json.loads((make_performance.RESULTS / "cpu.json").read_text("utf-8"))


def test_the_page_is_what_its_figures_make() -> None:
    assert not make_performance.difference()


def test_ratios_are_those_of_the_figures_kept() -> None:
    """The budgets and places of today's table, on the figures of then."""
    runs = CPU["programs"]
    found = [compared(one, runs[one.program]["found"]) for one in COMPARISONS if one.program in runs]
    assert [one for one in found if one] == CPU["comparisons"]


def test_every_ratio_that_does_not_hold_says_why() -> None:
    assert "not explained yet" not in make_performance.missed(CPU["comparisons"])


def test_a_ratio_that_does_not_hold_is_told_with_how_much() -> None:
    good, bad = ({**CPU["comparisons"][0], "ratio": ratio, "budget": 0.5, "held": ratio <= 0.5} for ratio in (0.4, 0.6))
    assert make_performance.missed([good]) == "Every ratio holds."
    assert "0.6, where 0.5 is the budget, 20% off" in make_performance.missed([good, bad])
    assert "**not held**" in make_performance.ratios_table([bad])
    assert "**not held**" not in make_performance.ratios_table([good])


def test_a_gpu_s_result_takes_the_place_of_not_run(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(CPU))
    assert "Not run: `scripts/bench --gpu" in make_performance.made(tmp_path)["performance.md"]
    drafts = {f"gpu {name}": run for name, run in CPU["programs"].items() if name.startswith("drafts")}
    gpu = {**CPU, "machine": {**CPU["machine"], "gpus": ["Some card, 570.1, 80 GiB"]}, "programs": drafts}
    (tmp_path / "gpu.json").write_text(json.dumps({**gpu, "comparisons": []}))
    page = make_performance.made(tmp_path)["performance.md"]
    assert "Not run" not in page
    assert "GPU: Some card, 570.1, 80 GiB." in page
    assert page.count("| llama-server 1 |") == 2  # of the processor and of the GPU


def test_another_machine_s_ratios_are_told_too(tmp_path: Path) -> None:
    other = {**CPU, "machine": {**CPU["machine"], "processor": "Some processor"}}
    for name, report in (("cpu", CPU), ("cpu-other", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    page = make_performance.made(tmp_path)["performance.md"]
    assert "Some processor, " in page
    assert page.count("| writing | llama-bench |") == 2


@pytest.mark.parametrize("name", [name for name in make_performance.made() if name.endswith(".svg")])
def test_pictures_are_well_formed(name: str) -> None:
    root = ElementTree.fromstring(make_performance.made()[name])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    shown = "".join(root.itertext())
    ratios = [one["title"] for one in CPU["comparisons"] if one["peer"]]
    titles = ratios if name == "performance.svg" else list(make_performance.growths(CPU))
    assert all(title in shown for title in titles)
