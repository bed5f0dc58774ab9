"""What people get back: the records of a whole answer and of its pieces. Plain data, known to every folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # `gemma4gguf doctor` also starts where numpy does not
    import numpy as np
    from numpy.typing import NDArray

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
Message: TypeAlias = Mapping[str, object]
"""One message as the OpenAI API has it, such as `{"role": "user", "content": "Hi"}`."""


@dataclass(frozen=True)
class ToolCall:
    """A tool call that the model asks for. The tool message with its result names it by `id`."""

    name: str
    arguments: dict[str, object]
    id: str

    def openai(self) -> dict[str, object]:
        """The call as the OpenAI API has it: the arguments are a JSON text."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}

    def answer(self, content: str) -> dict[str, object]:
        """The tool message that gives the model what the call returned."""
        return {"role": "tool", "tool_call_id": self.id, "content": content}


@dataclass(frozen=True)
class Tokens:
    """Token counts. `prompt`: the prompt's positions; `image` and `audio`: the soft tokens among them; `reused`: those
    found in the cache. `completion`: the answer's tokens, its end token included.
    """

    prompt: int
    image: int
    audio: int
    reused: int = 0
    completion: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds of each stage, and the answer's tokens per second of decoding.

    `load_s`: loading the weights, in the answer that waited for it. `time_to_first_token_s`: from the question to the
    first token, with its pictures and sound, without loading and without what the caller did.
    """

    load_s: float = 0.0
    prefill_s: float = 0.0
    time_to_first_token_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_s: float = 0.0


@dataclass(frozen=True)
class DraftCounts:
    """What drafting did in one answer; all zero without a drafter.

    `acceptance`: for each position of a draft, the share of guesses accepted among those whose forerunners were right.
    `lengths`: runs of (guesses checked, steps) over time. `draft_ms`: what a draft step costs, `check_ms`: what a check
    costs by its number of rows, both as measured so far.
    """

    steps: int = 0
    proposed: int = 0
    accepted: int = 0
    acceptance: tuple[float, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ()
    draft_ms: float | None = None
    check_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Logprob:
    """A token of the answer: its id, its bytes (a character may have several tokens), its natural log-probability.

    `top`: the likeliest tokens at its place, the best first, as many as `top_logprobs` asked for.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[Logprob, ...] = ()

    def openai(self) -> dict[str, object]:
        """The token as the OpenAI API has it."""
        text = self.piece.decode("utf-8", "replace")
        told: dict[str, object] = {"token": text, "logprob": self.logprob, "bytes": list(self.piece)}
        return {**told, "top_logprobs": [{k: v for k, v in t.openai().items() if k in told} for t in self.top]}


@dataclass(frozen=True)
class Result:
    """A whole answer. `seed` repeats it. `unreadable_calls`: the parts of `text` that are tool calls by their marks and
    could not be read; ask again, or read them yourself. `dropped_turns`: the oldest turns that went to make room
    (`on_full`). `logprobs`: one for each token of the answer, marks and end token included, where they were asked for.
    """

    text: str
    thought: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    tokens: Tokens
    timings: Timings
    seed: int
    draft: DraftCounts = DraftCounts()
    unreadable_calls: tuple[str, ...] = ()
    dropped_turns: int = 0
    logprobs: tuple[Logprob, ...] = ()

    def message(self) -> dict[str, object]:
        """The answer as an assistant message: append it to the messages, then tool messages or the next question."""
        message: dict[str, object] = {"role": "assistant", "content": self.text}
        if self.thought:
            message["reasoning_content"] = self.thought
        if self.tool_calls:
            message["tool_calls"] = [call.openai() for call in self.tool_calls]
        return message


@dataclass(frozen=True)
class Chunk:
    """What is new in a reply. Only the last chunk has a `finish_reason`, and with it the whole answer as `result`.

    `logprobs`: of the tokens since the chunk before, where they were asked for.
    """

    text: str = ""
    thought: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None
    result: Result | None = None
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """A prompt's ids int32 [N] (the placeholder's at soft tokens) and logits float32 [N, vocabulary]."""

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
