"""The chat in real terminals: what is typed, what is shown, what the keys do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.terminal import Terminal

DEMO = Path(__file__).parent.parent / "models" / "demo"
ASK = ["--temperature", "0", "--threads", "1", "--draft", "3"]  # other programs at work must not slow it down
CTRL_C, CTRL_D, CTRL_U, ALT_ENTER, ENTER, TAB, BACKSPACE = "\x03", "\x04", "\x15", "\x1b\r", "\r", "\t", "\x7f"
NARROW_HELP = """\
/image PATH     Show it a picture.
/audio PATH     Let it hear a clip.
/think          Think first, or not.
/system [TEXT]  What it is told first.
/retry          Answer again.
/undo           Take back the last turn.
/reset          Begin a new chat.
/save PATH      Keep the chat in a file.
/load PATH      Go on with a saved chat.
/stats          Counts and times.
/help           This list.
/exit           Leave.
Alt-Enter, or a backslash at the end:
another line. Ctrl-C: stop the answer;
twice: leave."""


ANSWERING = rb"(?s)loading.*\r +\r[^\r]"  # the status is gone, the first characters are there


def _since(screen: str, line: str) -> str:
    """The screen from a line on, the last time it is there."""
    return screen[screen.rindex(line) :]


def _without_figures(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "N", text)


def test_a_chat_about_a_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "some digits.png"
    shutil.copy(DEMO / "digits.png", picture)
    terminal = Terminal("chat", str(tiny_bundle), *ASK, columns=120, home=tmp_path)
    assert terminal.until(">").startswith(f"{tiny_bundle.name}. /help lists the commands, Ctrl-D leaves.\n>")

    terminal.type(f"'{picture}' What number is this?" + ENTER)
    terminal.until("Attach some digits.png as a picture? [Y/n]")
    terminal.type("y" + ENTER)
    assert _since(terminal.until("4072.\n>"), "Attach") == (
        "Attach some digits.png as a picture? [Y/n] y\n"
        "some digits.png: a picture that goes with the next question\n"
        "I read the number 4072.\n"
        ">"
    )
    terminal.type("/reset" + ENTER)
    terminal.until("a new chat\n>")
    terminal.type("What is\\" + ENTER)
    terminal.type("47 + 38?" + ALT_ENTER + BACKSPACE + ENTER)
    assert _since(terminal.until("85\n>"), "> What is") == "> What is\n  47 + 38?\n47 + 38 = 85\n>"
    terminal.type("/stats" + ENTER)
    assert _without_figures(_since(terminal.until("(stop)\n>"), "> /stats")) == (
        "> /stats\n"
        "N question so far\n"
        "the last answer: N tokens read in N s, N written at N a second, N of N drafts accepted (stop)\n"
        ">"
    )
    terminal.type(CTRL_C)
    terminal.until("Ctrl-C again leaves\n>")
    terminal.type(CTRL_C)
    assert terminal.end() == 130
    history = tmp_path / ".config" / "gemma4gguf" / "history"
    assert "+47 + 38?" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_completion(tiny_bundle: Path, tmp_path: Path) -> None:
    terminal = Terminal("chat", str(tiny_bundle), home=tmp_path)
    terminal.until(">")
    terminal.type("/s")
    menu = _since(terminal.until("/stats"), "> /s")
    assert re.findall(r"(/\w+) +([A-Z].*\.)", menu) == [
        ("/system", "What it is told first."),
        ("/save", "Keep the chat in a file."),
        ("/stats", "Counts and times."),
    ]
    terminal.type(CTRL_U + f"/image {DEMO}/dig")
    terminal.until("digits.png")
    terminal.type(TAB + ENTER + ENTER)
    assert terminal.until("[1 attached] >")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_a_narrow_window_without_colour_and_unicode(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["chat", str(tiny_bundle), *ASK, "--thinking"]
    terminal = Terminal(*words, columns=40, home=tmp_path, LC_ALL="C", NO_COLOR="1")
    terminal.until(">")
    terminal.type("What is 47 + 38?" + ENTER)
    screen = terminal.until("85\n>")
    assert _since(screen, "> What") == "> What is 47 + 38?\nthought: 7 + 8 = 15, 4 + 3 + 1 = 8\n47 + 38 = 85\n>"
    assert b"\x1b[2m" not in terminal.raw
    terminal.type("/help" + ENTER)
    assert NARROW_HELP in terminal.until("leave.\n>")
    terminal.type("/imag nowhere.png" + ENTER)
    assert _since(terminal.until("/image?\n>"), "> /imag") == (
        "> /imag nowhere.png\nerror: /imag is no command; did you mean\n/image?\n>"
    )
    terminal.type("/exit" + ENTER)
    assert terminal.end() == 0


def test_thoughts_are_dimmed(tiny_bundle: Path, tmp_path: Path) -> None:
    terminal = Terminal("run", str(tiny_bundle), *ASK, home=tmp_path)
    terminal.until(">")
    terminal.type("/think" + ENTER + "What is 47 + 38?" + ENTER)  # the second one before there is a prompt for it
    screen = terminal.until("85\n>")
    assert _since(screen, "> What") == "> What is 47 + 38?\n7 + 8 = 15, 4 + 3 + 1 = 8\n47 + 38 = 85\n>"
    assert b"\x1b[2m" in terminal.raw
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(bundle: Path, tmp_path: Path) -> None:
    """The stand-in's answers have no end."""
    saved = tmp_path / "chat.json"
    terminal = Terminal("chat", str(bundle), *ASK, "--context", "8000", home=tmp_path)
    terminal.until(">")
    terminal.type("What?" + ENTER)
    terminal.until_sent(ANSWERING)
    terminal.type(CTRL_C)
    terminal.until("stopped\n>")
    terminal.type(f"/save {saved}" + ENTER)
    terminal.until("1 question so far\n>")
    asked, answered = json.loads(saved.read_text())["messages"]
    assert asked["content"] == "What?"
    assert answered["content"]
    terminal.type("/undo" + ENTER)
    terminal.until("0 questions so far\n>")
    terminal.type(f"/load {saved}" + ENTER)
    terminal.until("1 question so far\n>", count=2)
    terminal.type("/retry" + ENTER)
    terminal.until_sent(ANSWERING)
    terminal.type(CTRL_C)
    terminal.until_sent(b"stopped")
    terminal.type(CTRL_C)  # the second one in a row
    assert terminal.end() in (130, -2)


@pytest.mark.parametrize("signal", [15, 1])
def test_a_signal_to_end_restores_the_terminal(tiny_bundle: Path, tmp_path: Path, signal: int) -> None:
    terminal = Terminal("chat", str(tiny_bundle), home=tmp_path)
    terminal.until(">")
    terminal.kill(signal)
    assert terminal.end() == 128 + signal
    assert terminal.echoes
