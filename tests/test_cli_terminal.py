"""generate in real terminals: what goes on until the first token, thoughts, and the line of statistics."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminal import Terminal

ASK = ["--temperature", "0", "--threads", "1", "--draft", "3"]
STATISTICS = "N tokens read in N s, N written at N a second, N of N drafts accepted (stop)"


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_a_terminal(columns: int, tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["generate", str(tiny_bundle), "What is 47 + 38?", "--thinking", *ASK]
    terminal = Terminal(*words, columns=columns, home=tmp_path)
    assert terminal.end() == 0
    thought, answer, statistics = terminal.screen.split("\n", 2)
    assert (thought, answer) == ("7 + 8 = 15, 4 + 3 + 1 = 8", "47 + 38 = 85")
    assert re.sub(r"\d+(\.\d+)?", "N", " ".join(statistics.split("\n"))) == STATISTICS
    assert (len(statistics.split("\n")) > 1) >= (columns == 40)
    assert not re.search(r"\d$", statistics, re.MULTILINE)  # no number without what it counts
    assert b"loading" in terminal.raw
    assert b"\x1b[2m" in terminal.raw


def test_what_goes_on_is_shown_until_the_first_token(tiny_bundle: Path, tmp_path: Path) -> None:
    terminal = Terminal("generate", str(tiny_bundle), "one two " * 400, *ASK, "--max-tokens", "1", home=tmp_path)
    assert terminal.end() == 0
    assert re.search(rb"\rreading [\d,]+ of 2,0\d\d\r", terminal.raw)
    assert "reading" not in terminal.screen


def test_without_colour_thoughts_are_marked(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["generate", str(tiny_bundle), "What is 47 + 38?", "--thinking", *ASK]
    terminal = Terminal(*words, home=tmp_path, NO_COLOR="1", LC_ALL="C")
    assert terminal.end() == 0
    assert terminal.screen.startswith("thought: 7 + 8 = 15, 4 + 3 + 1 = 8\n47 + 38 = 85\n")
    assert b"\x1b[" not in terminal.raw


def test_quiet(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["generate", str(tiny_bundle), "What is 47 + 38?", "--thinking", "--quiet", *ASK]
    terminal = Terminal(*words, home=tmp_path)
    assert terminal.end() == 0
    assert terminal.raw == b"47 + 38 = 85\r\n"


def test_an_error_follows_no_status(tiny_bundle: Path, tmp_path: Path) -> None:
    terminal = Terminal("generate", str(tiny_bundle), "x", "--image", "nowhere.png", columns=40, home=tmp_path)
    assert terminal.end() == 1
    assert terminal.screen.startswith("error: ")
    assert "nowhere.png" in terminal.screen


def test_json_lines(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "gemma4gguf", "generate", str(tiny_bundle), "--thinking", "--jsonl", *ASK]
    shown = subprocess.run([*command, "What is 47 + 38?"], capture_output=True, text=True, check=True)
    *pieces, last = map(json.loads, shown.stdout.splitlines())
    for name in ("text", "thought"):
        assert "".join(piece.get(name, "") for piece in pieces) == last["result"][name]
    wrong = subprocess.run([*command, "x", "--max-tokens", "0"], capture_output=True, text=True, check=False)
    (error,) = map(json.loads, wrong.stdout.splitlines())
    assert error["error"]["message"].startswith("--max-tokens is 0, expected")
