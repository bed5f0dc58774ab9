"""Answers that end only with the context, as the scheduler makes them: for tests and scripts that leave them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gemma4gguf import Gemma4
from gemma4gguf.runtime.delivery import Put
from gemma4gguf.runtime.session import Session, Span, Work

SPANS = [Span((2, 105, 400, 401))]


class Endless:
    """Answers of a model whose items are the positions held; `made` counts the steps of all of them."""

    def __init__(self, model: Gemma4) -> None:
        self.scheduler = model.engine.scheduler
        self.made = 0

    def start(self, put: Put) -> Callable[[], None]:
        """Begin one; for `delivered` and `adelivered`."""
        return self.scheduler.submit(SPANS, self._begin, True, put)

    def _begin(self, session: Session) -> Iterator[Work | int]:
        yield from session.feeding(SPANS)
        while session.room:
            self.made += 1
            yield session.length
            yield from session.stepping([400])
