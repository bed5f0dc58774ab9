"""`gemma4gguf demo`: right answers only; without the extra, all but the video."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gemma4gguf.cli import cli, run

RIGHT = [
    ("What number is this?  digits.png", "I read the number 4072."),
    ("What is in this picture?  cat.jpg", "The picture shows a cat."),
    ("What is said?  number.wav", "I hear the digit 7."),
    ("Which colour comes second?  clip.mp4", "Yellow comes second."),
    ("What is the weather in Oslo?", 'get_weather({"city": "Oslo"})'),
]
WITHOUT = "import sys; sys.modules['av'] = None; from gemma4gguf.cli import main; main()"


def told(shown: str) -> list[tuple[str, str]]:
    """Each question with its answer."""
    parts = [part.splitlines() for part in shown.split("\n\n")[1:]]
    return [(part[0], part[1]) for part in parts if len(part) == 3 and not part[0].startswith("The real model")]


def test_right_answers_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["demo"]) == 0
    assert told(capsys.readouterr().out) == RIGHT


def test_without_the_extra_the_video_is_left_out() -> None:
    shown = subprocess.run([sys.executable, "-c", WITHOUT, "demo"], capture_output=True, text=True, check=True)
    assert told(shown.stdout) == [pair for pair in RIGHT if not pair[0].endswith("clip.mp4")]
    assert "clip.mp4: left out, videos need the extra media: pip install 'gemma4gguf[media]'" in shown.stderr
