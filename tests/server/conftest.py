"""One server for most tests: the tiny model, drafts off, two places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import Serving, serving


@pytest.fixture(scope="session")
def server(tiny_bundle: Path) -> Iterator[Serving]:
    with serving(tiny_bundle) as running:
        yield running
