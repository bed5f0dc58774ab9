"""What the canaries share: contexts of the stand-in in float32, and logits of every row of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.weights import Weights
from tests.support.sessions import EXACT


@pytest.fixture
def make_context(weights: Weights) -> Iterator[Callable[..., Context]]:
    """A function from a size and context options to a context; in float32 throughout unless the options differ."""
    made: list[Context] = []

    def make(size: int = 1024, *, hidden: bool = False, **how: Any) -> Context:
        made.append(Context(weights, ContextOptions(size, **EXACT | how), hidden=hidden))
        return made[-1]

    yield make
    for context in made:
        context.close()
