"""`gemma4gguf bench`: every figure is there and makes sense; what it wrote compares with itself as equal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gemma4gguf import InputError
from gemma4gguf.cli import cli, run
from gemma4gguf.tools import bench as module
from gemma4gguf.tools.bench import Report, bench, compared, figure, rounds


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> Report:
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(module, "SECONDS", 0.01)
        quick.setattr(module, "PHOTO", (400, 300))
        return bench(tiny_bundle, context=1024)


def test_every_figure_is_there(report: Report) -> None:
    names = {one.name for one in report.figures}
    assert {"memory copied", "opening", "reading 64 tokens", "writing", "a draft step", "first token, text"} <= names
    assert {"first token, picture", "first token, sound", "writing 4 answers at once", "a check of 8 rows"} <= names
    assert len(names) == len(report.figures)
    for one in report.figures:
        assert one.value > 0, one
        assert math.isfinite(one.value), one
        assert one.rounds >= 1, one


def test_what_it_wrote_compares_as_equal(report: Report) -> None:
    rows = compared(report, json.loads(json.dumps(report.as_json())))
    assert [one for one, _, _ in rows] == list(report.figures)
    assert {better for _, _, better in rows} == {1.0}


def test_better_is_told_the_right_way_round() -> None:
    now = Report("m.gguf", {}, (figure("writing", [0.1], "tokens/s", 1), figure("opening", [2.0], "s")))
    before = {
        "figures": [{"name": "writing", "value": 5, "unit": "tokens/s"}, {"name": "opening", "value": 3, "unit": "s"}]
    }
    assert [round(better, 3) for _, _, better in compared(now, before)] == [2.0, 1.5]


@pytest.mark.parametrize(
    "before", [[], {}, {"figures": [{}]}, {"figures": 3}, {"figures": [{"name": 1, "value": "x"}]}]
)
def test_another_file_is_refused(before: object) -> None:
    with pytest.raises(InputError, match="expected a file that `gemma4gguf bench --json` wrote"):
        compared(Report("m.gguf", {}, ()), before)  # type: ignore[arg-type]


def test_work_is_done_at_least_once_and_not_for_ever() -> None:
    done: list[int] = []
    assert len(rounds(lambda: done.append(1), seconds=0)) == 1
    assert len(done) == 1
    done.clear()
    rounds(lambda: done.append(1), seconds=1e9, most=5)
    assert len(done) == 6


def test_the_command(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(module, "PHOTO", (400, 300))
    assert run(cli, ["bench", str(tiny_bundle), "--context", "1024", "--draft", "off", "--json"]) == 0
    before = tmp_path / "before.json"
    before.write_text(capsys.readouterr().out)
    assert run(cli, ["bench", str(tiny_bundle), "--context", "1024", "--draft", "off", "--compare", str(before)]) == 0
    said = capsys.readouterr().out
    assert "a draft step" not in said
    assert "better by" in said
    assert said.count("a check of 4 rows") == 3  # in the table, the plot and the comparison
    before.write_text("{")
    assert run(cli, ["bench", str(tiny_bundle), "--compare", str(before)]) == 1
    assert "cannot be read as JSON" in capsys.readouterr().err
