"""The chat without a terminal: one turn a line, for scripts; and the thread that answers come from."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from gemma4gguf.cli import cli, run
from gemma4gguf.cli.chat.background import AbandonedError, Background
from tests.support.hub import Hub
from tests.support.published import Layout

DEMO = Path(__file__).parent.parent / "models" / "demo"


def _chat(bundle: Path, lines: str, *options: str, name: str = "chat") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gemma4gguf", name, str(bundle), "--temperature", "0", "--threads", "1", *options]
    return subprocess.run(command, input=lines, capture_output=True, text=True, check=False)


def test_a_turn_a_line(tiny_bundle: Path, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    lines = f"/image {DEMO / 'digits.png'}\nWhat number\\\n is this?\n/save {saved}\n/reset\n/think\nWhat is 47 + 38?"
    shown = _chat(tiny_bundle, lines)
    assert shown.stdout == "I read the number 4072.\n47 + 38 = 85\n"
    assert shown.stderr == (
        "digits.png: a picture that goes with the next question\n"
        f"{saved}: saved, 1 question so far\n"
        "a new chat\n"
        "it thinks before it answers\n"
        "thought: 7 + 8 = 15, 4 + 3 + 1 = 8\n"
    )
    assert shown.returncode == 0
    content = json.loads(saved.read_text())["messages"][0]["content"]
    assert content[1] == {"type": "text", "text": "What number\n is this?"}


def test_what_goes_wrong_is_told_and_the_chat_goes_on(tiny_bundle: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("mine")
    wrong = {
        "/imag x": "did you mean /image?",
        "/image": "expected /image PATH",
        "/undo now": "takes nothing",
        "/undo": "nothing to take back",
        "/retry": "no question yet",
        f"/image {tmp_path}/no.png": "no.png: No such file",
        f"/audio {DEMO / 'digits.png'}": "digits.png",
        f"/load {there}": "not a saved chat",
        f"/save {there}": "exists already",
        "word " * 9000: "--context",
    }
    shown = _chat(tiny_bundle, "\n".join([*wrong, "What is 47 + 38?"]))
    errors = shown.stderr.splitlines()
    assert len(errors) == len(wrong)
    for error, word in zip(errors, wrong.values(), strict=True):
        assert error.startswith("error: ")
        assert word in error
    assert shown.stdout == "47 + 38 = 85\n"
    assert there.read_text() == "mine"
    assert shown.returncode == 1


def test_a_full_context_lets_old_turns_go_and_says_so(tiny_bundle: Path) -> None:
    lines = "\n".join(["word " * 60, "word " * 60, "word " * 60, "What is 47 + 38?"])
    shown = _chat(tiny_bundle, lines, "--context", "256", "--max-tokens", "12")
    assert "the context is full: without the oldest " in shown.stderr
    assert "error" not in shown.stderr
    assert shown.returncode == 0


def test_run_is_chat(tiny_bundle: Path) -> None:
    shown = _chat(tiny_bundle, "What is 47 + 38?\n/exit\nWhat is 1 + 1?\n", name="run")
    assert (shown.stdout, shown.returncode) == ("47 + 38 = 85\n", 0)


def test_run_pulls_a_repository_first_and_once(
    layouts: dict[str, Layout],
    models_folder: Path,
    serve: Callable[[Layout], Hub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = layouts["prefixes, several types"]
    hub = serve(layout)
    for fetched in (True, False):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"/stats\n")))
        sent = hub.sent
        assert run(cli, ["run", layout.source, "--threads", "1", "--context", "256"]) == 0
        assert (hub.sent > sent) == fetched
        assert "0 questions so far" in capsys.readouterr().err


def test_run_of_a_repository_that_is_not_there_fails_as_pull_does(
    layouts: dict[str, Layout], models_folder: Path, serve: Callable[[Layout], Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(layouts["prefixes, several types"])
    assert run(cli, ["run", "nobody/nothing"]) == 1
    assert "nobody/nothing" in capsys.readouterr().err


def test_background_gives_what_the_generator_gives() -> None:
    def make(also: Callable[[int], None]) -> Generator[int, None, None]:
        also(0)
        yield 1
        raise ValueError("the end")

    items: list[int] = []
    with pytest.raises(ValueError, match="the end"):
        items.extend(Background(make))
    assert items == [0, 1]


def test_background_stops_at_the_next_item_and_closes_the_generator() -> None:
    closed = threading.Event()

    def make(also: Callable[[int], None]) -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    background = Background(make)
    assert next(iter(background)) == 1
    background.stop()
    assert closed.is_set()


def test_ctrl_c_while_it_stops_abandons_it() -> None:
    go_on = threading.Event()

    def make(also: Callable[[int], None]) -> Generator[int, None, None]:
        yield 1
        go_on.wait()

    background = Background(make)
    assert next(iter(background)) == 1
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(AbandonedError):
        background.stop()
    go_on.set()
