"""Tables, sizes and progress in windows of any width, and where there is no window."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from gemma4gguf.cli.show import Progress, StatusLine, Table, size, width, wrapped

ROWS = [("ひらがな.gguf", "8.04 GB", "0.0123", "12,345,678", "1 F32, 2 Q8_0, 3 Q4_K"), ("x", "12 B", "1", "2", "1 F32")]


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_numbers_stay_whole(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table("file", "size", "KL mean", "parameters", "types")
    for row in ROWS:
        table.row(*row)
    table.print()
    shown = capsys.readouterr().out
    assert all(width(line) <= columns for line in shown.splitlines())
    for whole in ("8.04 GB", "0.0123", "12,345,678", "1 F32", "2 Q8_0", "3 Q4_K"):
        assert whole in shown


def test_a_narrow_window_gets_a_line_a_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("file", "size", "KL mean", "parameters", "types")
    table.row(*ROWS[0])
    table.print()
    assert capsys.readouterr().out == (
        "ひらがな.gguf\n"
        "  size       8.04 GB\n"
        "  KL mean    0.0123\n"
        "  parameters 12,345,678\n"
        "  types      1 F32, 2 Q8_0, 3 Q4_K\n"
    )


def test_widths_of_characters() -> None:
    assert [width(text) for text in ("abc", "日本", "e\u0301", "👩\u200d🚀")] == [3, 4, 1, 2]
    assert all(unicodedata.east_asian_width(c) == "W" for c in "日本")


def test_wrapping_keeps_a_number_with_its_unit() -> None:
    assert wrapped("needs 8.04 GB of 12 GB", 10) == ["needs", "8.04 GB of", "12 GB"]


def test_where_nobody_watches_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("gemma4gguf.cli.show.time.monotonic", lambda: clock[0])
    with Progress() as progress:
        for second in range(1, 26):
            clock[0] = second
            progress(second * 10**9, 25 * 10**9, "text")
    assert capsys.readouterr().err == (
        "text   40 %  10.00 GB of 25.00 GB  1.00 GB/s  0:15 left\n"
        "text   80 %  20.00 GB of 25.00 GB  1.00 GB/s  0:05 left\n"
    )


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True, every_s=0) as progress:
        progress(1, 2, "text")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("columns", "shown"), [(40, "reading  12 of 1,480"), (20, "reading"), (6, "")])
def test_a_status_shows_what_fits(
    columns: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = StatusLine()
    line.tell("reading", "12 of 1,480")
    line.clear()
    assert capsys.readouterr().err.replace("\r", "|") == (f"|{shown}|{' ' * len(shown)}|" if shown else "|")


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (7_370_000_000, "7.37 GB"), (12e12, "12000.00 GB")]
)
def test_sizes(n: float, text: str) -> None:
    assert size(n) == text
