"""One reference model for all parity tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.reference import Reference


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    """The stand-in as transformers runs it, in float32."""
    return Reference(checkpoint)
