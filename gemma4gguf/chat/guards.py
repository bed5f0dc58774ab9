"""Finds and marks what a tokeniser would read as a special token in somebody's text. See `rendering` for the use.

In: texts, and the vocabulary's control and user-defined tokens. Out: texts with guards, or texts cut apart at them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

from ..errors import InputError
from .reply import CHANNEL, CHANNEL_END

# The 24 added tokens of Gemma 4's tokenizer, ids 0 to 4, 46 to 52, 98, 100, 101, 105, 106, 255999 to 258884.
SPECIAL_TOKENS = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
    *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'),
    *("<|think|>", CHANNEL, CHANNEL_END, "<|turn>", "<turn|>"),
    *("<|image>", "<|audio>", "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>"),
)
# Characters that text does not contain: Unicode's noncharacters, then private planes.
GUARDS = (*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))


def free_character(text: str) -> str:
    """A character that does not occur in `text`. Raises InputError where there is none."""
    used = set(text)
    for code in GUARDS:
        if chr(code) not in used:
            return chr(code)
    raise InputError("messages: they contain every private character of Unicode; one must be left to mark texts with")


class Guards:
    """Marks look-alikes of `tokens`, and of Gemma 4's own, with a guard: one character behind their first.

    A token of a single character cannot be told from text, and is left alone; no control token has one.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._tokens = {t for t in (*SPECIAL_TOKENS, *tokens) if len(t) > 1}
        self._lengths = sorted({len(t) for t in self._tokens})
        self._sorted = sorted(self._tokens)
        self._first = re.compile(f"[{re.escape(''.join(sorted({t[0] for t in self._tokens})))}]")

    def guarded(self, text: str, guard: str) -> str:
        """`text` with a guard in each look-alike, and in an end that could become one.

        Templates trim texts and join them: the end of one may make a special token with the beginning of the next.
        """
        end, longest = len(text.rstrip()), self._lengths[-1]
        starts = [m.start() for m in self._first.finditer(text)]
        marked = [i for i in starts if self._begins(text, i) or (end - i < longest and self._may_become(text[i:end]))]
        return guard.join(text[a:b] for a, b in pairwise([0, *(i + 1 for i in marked), len(text)]))

    def cut(self, text: str, guard: str) -> list[str]:
        """`text` without its guards, cut where one stands inside what would be read as a special token."""
        if not guard:
            return [text]
        parts = text.split(guard)
        plain, at, cuts = "".join(parts), 0, [0]
        for part in parts[:-1]:
            at += len(part)
            if at and self._begins(plain, at - 1):
                cuts.append(at)
        return [plain[a:b] for a, b in pairwise([*cuts, len(plain)])]

    def _may_become(self, end: str) -> bool:
        """Whether a longer token begins with `end`."""
        at = bisect_right(self._sorted, end)
        return at < len(self._sorted) and self._sorted[at].startswith(end)

    def _begins(self, text: str, at: int) -> bool:
        """Whether a token begins at index `at`."""
        return any(text[at : at + n] in self._tokens for n in self._lengths)


@lru_cache(maxsize=8)
def guards(tokens: tuple[str, ...]) -> Guards:
    return Guards(tokens)
