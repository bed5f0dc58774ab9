"""The smallest bundle, whole and in pieces, made once; and how a changed one is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import rewrite
from tests.support.rewrite import Change, Piece
from tests.support.smallest import smallest


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smallest(tmp_path_factory.mktemp("smallest"))


@pytest.fixture(scope="session")
def unchanged(small: Path) -> dict[str, Piece]:
    return rewrite.pieces(small)


@pytest.fixture
def changed(unchanged: dict[str, Piece], tmp_path: Path) -> Callable[..., Path]:
    """A function that changes one section, with its counterpart where a change must be made to both, and writes it."""

    def make(change: Change, *architectures: str) -> Path:
        held = rewrite.copied(unchanged)
        for architecture in architectures:
            change(held[architecture])
        return rewrite.write(held, tmp_path / "changed.gguf")

    return make
