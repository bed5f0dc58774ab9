"""How a changed bundle is held against the checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gemma4gguf.bundle import validation
from gemma4gguf.bundle.reading import TEXT, Section
from gemma4gguf.bundle.writing import planned_section
from gemma4gguf.errors import Gemma4Error

from .rewrite import Piece


def planned(held: dict[str, Piece], architecture: str, path: Path = Path("FILE")) -> Section:
    """A section as it would be in a file, without writing one: for checks of thousands."""
    return planned_section(held[architecture].part(), path)


def check(held: dict[str, Piece], architecture: str) -> None:
    """The check of one section, in memory."""
    validation.check(planned(held, architecture), planned(held, TEXT))


def one_line(action: Callable[[], object], path: Path) -> str:
    """What an action says that must fail with an error of the tree."""
    with pytest.raises(Gemma4Error) as told:
        action()
    message = str(told.value)
    assert "\n" not in message
    assert len(message) < 700
    assert str(path) in message
    return message
