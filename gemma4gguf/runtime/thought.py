"""Follow a reply token by token: does the next one belong to a thought, and how many did thoughts take so far?

Token ids come in, in the reply's order. The rules are those of the reply's parser, which reads the same text later.
"""

from __future__ import annotations

from collections.abc import Callable

from ..chat.reply import Place, ReplyParser
from ..chat.stream import Characters


class ThoughtTracker:
    """Where a reply has got to. `tokens`: how many tokens its thoughts have, without the marks around them."""

    def __init__(self, piece: Callable[[int], bytes], thinking_open: bool) -> None:
        """`piece`: a token's bytes, as the parser reads them. `thinking_open`: the prompt ended inside a thought."""
        self._piece, self._characters, self._parser = piece, Characters(), ReplyParser(thinking_open)
        self.tokens = 0

    @property
    def place(self) -> Place:
        """Where the next token belongs: text, the name behind a `<|channel>`, a thought, a tool call."""
        return self._parser.place

    def accept(self, token: int) -> None:
        """Take the reply's next token."""
        before = self.place
        self._parser.feed(self._characters.feed(self._piece(token)))
        self.tokens += before == self.place == "thought"
