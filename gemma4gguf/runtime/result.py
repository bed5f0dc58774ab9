"""The records of a whole answer: its text, thought and tool calls, its counts and its times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..chat.reply import ToolCall
from .prompt import Tokens


@dataclass(frozen=True)
class Timings:
    """Seconds of each stage, and the answer's tokens per second of decoding.

    `load_s`: of the weights, in the answer that had to wait for them. `time_to_first_token_s`: from the question, its
    pictures and sound included, loading and whatever the caller did not counted.
    """

    load_s: float = 0.0
    prefill_s: float = 0.0
    time_to_first_token_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """A whole answer. `finish_reason`: stop, length or tool_calls. `seed` repeats it.

    `draft`: steps, proposed, accepted; where there was a drafter also what `decode.Drafts.report` says.
    """

    text: str
    thought: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    tokens: Tokens
    timings: Timings
    seed: int
    draft: Mapping[str, Any] = field(default_factory=dict)
