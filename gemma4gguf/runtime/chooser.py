"""The owner of what an answer's next token is: a forced one, or one that the sampler chooses.

A row of logits comes in, once per token of the answer and in order; a token id goes out. So whoever checks drafts with
it gets the answer that there would be without them.
"""

from __future__ import annotations

import numpy as np

from ..native.context import Context
from ..native.sampler import Sampler
from .form import Form
from .logprobs import LogprobNotes
from .thought import ThoughtTracker


class Chooser:
    """Chooses an answer's tokens.

    `tracker` says where the answer has got to, `form` what it must look like, `notes` takes log-probabilities; None
    where nobody needs to know.
    """

    def __init__(
        self,
        sampler: Sampler,
        tracker: ThoughtTracker | None = None,
        notes: LogprobNotes | None = None,
        form: Form | None = None,
        *,
        most_thought: int | None = None,
        thought_marks: tuple[int, int] = (-1, -1),
    ) -> None:
        """`most_thought`: tokens that thoughts may have; then the open one is closed, and no other begins.

        `thought_marks`: ids of `<|channel>` and `<channel|>`.
        """
        self._sampler, self._tracker, self._notes, self._form = sampler, tracker, notes, form
        self._most_thought = most_thought
        self._thought_begin, self._thought_end = thought_marks

    def sample(self, context: Context, row: int = -1) -> int:
        """The answer's next token, whose logits are batch row `row` of the context's last call. Writes into them."""
        logits = context.logits(row)
        own = (np.arange(len(logits)), logits.copy()) if self._notes and not self._notes.sampled else None
        token = self._forced()
        if token is not None:
            self._sampler.force(token)
        else:
            if self._enough_thought:
                logits[self._thought_begin] = -np.inf
            token = self._sampler.sample(context, row, self._form)
            if self._form:
                self._form.accept(token)
        if self._tracker:
            self._tracker.accept(token)
        if self._notes:
            self._notes.add(token, *(own or self._sampler.left))
        return token

    @property
    def _enough_thought(self) -> bool:
        return (
            self._tracker is not None and self._most_thought is not None and self._tracker.tokens >= self._most_thought
        )

    def _forced(self) -> int | None:
        """The token that must come next, if there is one."""
        thinking = self._tracker is not None and self._tracker.place == "thought"
        return self._thought_end if thinking and self._enough_thought else None
