"""What scripts/bench compares: figures found by their place, ratios of rounds, budgets, and what got worse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from tests.support.comparisons import COMPARISONS, PROGRAMS, WHY, Comparison, Program, compared, values, worse

ROOT = Path(__file__).parent.parent
FASTER = Comparison("decode", "reading", "rounds|*|ours", ("rounds|*|a", "rounds|*|b"), "peers", "tokens/s", 1)
SHORTER = Comparison("sound", "a clip", "clip|ours|*", ("clip|theirs|*",), "theirs", "ms", 0.5)
FOUND = {"rounds": [{"ours": 4.0, "a": 2.0, "b": 5.0}, {"ours": 6.0, "a": 2.0, "b": 4.0}]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rounds|*|ours", [4.0, 6.0]),
        ("rounds|1|b", [4.0]),
        ("rounds|2|b", []),
        ("rounds|*|c", []),
        ("else", []),
    ],
)
def test_figures_are_found_by_their_place(path: str, expected: list[float]) -> None:
    assert values(FOUND, path) == expected


def test_a_ratio_is_the_median_of_the_rounds_against_the_best_peer() -> None:
    found = compared(FASTER, FOUND)
    assert found is not None
    assert (found["ours"], found["peer"]) == (5.0, 4.5)  # b
    assert found["ratio"] == 1.15  # of 0.8 and 1.5
    assert found["spread"] == [0.975, 1.325]
    assert found["held"]


def test_less_time_is_better_and_the_quickest_peer_counts() -> None:
    found = compared(SHORTER, {"clip": {"ours": [6, 5, 7], "theirs": [10, 10, 10]}})
    assert found is not None
    assert found["ratio"] == 0.6
    assert not found["held"]


def test_without_figures_there_is_no_comparison() -> None:
    assert compared(SHORTER, FOUND) is None
    assert compared(FASTER, {"rounds": [{"ours": 1.0}]}) is None


def _result(times: list[float]) -> dict[str, object]:
    found = compared(SHORTER, {"clip": {"ours": times, "theirs": [10.0] * len(times)}})
    assert found is not None
    return found


def test_only_what_is_outside_its_budget_and_got_worse_is_told() -> None:
    good, bad, unsteady = _result([4, 4, 4]), _result([6, 6, 6]), _result([4, 6, 8])
    assert worse([bad], [good]) == ["a clip against theirs: 0.6, before 0.4, budget at most 0.5"]
    assert not worse([good], [bad])
    assert not worse([bad], [bad])
    assert not worse([unsteady], [_result([5.8, 5.8, 5.8])])  # by less than the rounds differ
    assert not worse([bad], [])


def test_every_comparison_has_a_program_and_the_tables_name_programs_that_are_there() -> None:
    assert {one.program for one in COMPARISONS} <= set(PROGRAMS)
    assert set(WHY) <= {one.title for one in COMPARISONS}
    titles = [(one.program, one.title, one.against) for one in COMPARISONS]
    assert len(titles) == len(set(titles))
    for program in PROGRAMS.values():
        assert (ROOT / program.command.split()[0]).is_file()


def test_only_takes_names_and_first_words() -> None:
    assert compare.chosen("sound,drafts", gpu=False) == ["sound", "drafts 0.5", "drafts 0.7", "drafts 0.9"]
    assert compare.chosen("growth", gpu=False) == ["growth"]
    assert all(PROGRAMS[name].gpu for name in compare.chosen("", gpu=True))
    assert set(compare.chosen("", gpu=False, everything=True)) == {n for n, p in PROGRAMS.items() if not p.gpu}
    with pytest.raises(SystemExit, match="there is no 'noise'"):
        compare.chosen("noise", gpu=False)


def test_a_command_s_braces_are_filled_in() -> None:
    prepared = compare.Prepared(Path("a bundle.gguf"), Path("peers"))
    command = prepared.command(PROGRAMS["decode"], 2, quick=True)
    assert command[:6] == ["benchmarks/decode.py", "a bundle.gguf", "--peers", "peers", "--rounds", "2"]
    assert "llama-bench prefill" in command[command.index("--only") + 1].split(",")
    assert command[-2:] == ["--tokens", "8"]


def test_a_file_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "old.json"
    out.write_text(json.dumps({"machine": {"processor": "another"}, "programs": {}}))
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks/compare.py", "--only", "sound", "--out", out],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == f"{out} is of another machine (processor): give another file with --out\n"
    assert json.loads(out.read_text())["machine"] == {"processor": "another"}


def test_a_program_prints_one_object_or_some_in_lines_among_others() -> None:
    assert compare.printed('{\n "a": [1]\n}\n') == {"a": [1]}
    assert compare.printed('40 lines\n{"a": 1}\ngood\n{"b": 2}\n') == {"a": 1, "b": 2}
    assert not compare.printed("nothing\n")


def test_figures_of_a_program_that_failed_are_kept_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text("""print('{"10 min.flac": {"ours": [1, 1], "transformers": [2, 2]}}'); raise SystemExit(3)""")
    monkeypatch.setitem(PROGRAMS, "sound", Program(str(failing)))
    report: dict[str, Any] = {"programs": {}}
    assert not compare.measure(["sound"], lambda program: [program.command], report, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert report["programs"]["sound"]["status"] == 3
    assert [one["ratio"] for one in report["comparisons"]] == [0.5]
