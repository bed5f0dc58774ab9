"""Users' editors see types: checkers read a program that calls every public name, and find no Any in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gemma4gguf

ROOT = Path(__file__).parents[1]
USER = ROOT / "tests" / "support" / "user.py"
SHAPE = "tuple[Any, ...]"  # numpy's own way to leave an array's shape open
WRONG = ("temprature", "max_tokens", "kv_type")


def checked(*command: str) -> str:
    """What a checker prints of the user's program."""
    run = subprocess.run(
        [sys.executable, "-m", *command, str(USER)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return run.stdout + run.stderr


def holds(said: str, revealed: str, error: str) -> None:
    source = USER.read_text(encoding="utf-8")
    types = re.findall(revealed, said)
    assert len(types) == source.count("reveal_type("), said
    assert not [found for found in types if re.search(r"\b(Any|Unknown)\b", found.replace(SHAPE, ""))], types
    errors = re.findall(error, said)
    assert len(errors) == len(WRONG), said
    assert all(word in line for word, line in zip(WRONG, errors, strict=True)), errors


def test_mypy_strict() -> None:
    said = checked("mypy", "--strict", "--no-incremental", "--disable-error-code=import-untyped")
    holds(said, r'Revealed type is "(.*)"', r"error: (.*)")


def test_basedpyright() -> None:
    said = checked("basedpyright", "--pythonpath", sys.executable)
    holds(said, r"information: Type of \".*\" is \"(.*)\"", r"error: (.*)")


def test_the_program_calls_every_public_name() -> None:
    used = set(re.findall(r"\bg\.(\w+)", USER.read_text(encoding="utf-8")))
    assert used == set(gemma4gguf.__all__)
