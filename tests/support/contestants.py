"""Who is asked the same messages: the package, and llama-server. Both answer with one letter again and again.

A bias on its token makes them do so; thus both write the same number of tokens, and each of them shows.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gemma4gguf import Gemma4, Message

LETTER, CERTAIN = "a", 100.0


@dataclass
class Turn:
    """One answer: when each piece of it came, its text, the prompt's positions and how many of them were evaluated."""

    begun: float
    pieces: list[float] = field(default_factory=list)
    text: str = ""
    prompt: int = 0
    evaluated: int = 0

    @property
    def first_s(self) -> float:
        return self.pieces[0] - self.begun

    def row(self) -> dict[str, Any]:
        return {"first_s": round(self.first_s, 3), "evaluated": self.evaluated, "prompt": self.prompt}


class Contestant(Protocol):
    def ask(self, messages: Sequence[Message], tokens: int, told: Callable[[], object] = ..., cold: bool = ...) -> Turn:
        """Ask, and call `told` at each piece of the answer. `cold`: with nothing in the cache."""


class Ours:
    def __init__(self, model: Gemma4) -> None:
        self.model = model
        (self._letter,) = model.tokenize(LETTER)

    def ask(
        self, messages: Sequence[Message], tokens: int, told: Callable[[], object] = lambda: None, cold: bool = False
    ) -> Turn:
        if cold:
            self.model.engine.scheduler.places.forget()
        turn = Turn(time.perf_counter())
        bias = {self._letter: CERTAIN}
        for chunk in self.model.stream_chat(messages, max_tokens=tokens, temperature=0, logit_bias=bias):
            if chunk.text:
                turn.pieces.append(time.perf_counter())
                turn.text += chunk.text
                told()
            if chunk.result:
                turn.prompt = chunk.result.tokens.prompt
                turn.evaluated = turn.prompt - chunk.result.tokens.reused
        return turn


class Theirs:
    def __init__(self, address: str, letter: int) -> None:
        self._address, self._letter = address, letter

    def ask(
        self, messages: Sequence[Message], tokens: int, told: Callable[[], object] = lambda: None, cold: bool = False
    ) -> Turn:
        body = {
            "messages": list(messages),
            "max_tokens": tokens,
            "temperature": 0,
            "logit_bias": [[self._letter, CERTAIN]],
            "cache_prompt": not cold,
            "stream": True,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        turn = Turn(time.perf_counter())
        request = urllib.request.Request(
            f"{self._address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=1800) as reply:
            for line in reply:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                for choice in event.get("choices", []):
                    if text := choice["delta"].get("content") or choice["delta"].get("reasoning_content"):
                        turn.pieces.append(time.perf_counter())
                        turn.text += text
                        told()
                if timings := event.get("timings"):
                    turn.evaluated = timings["prompt_n"]
                    turn.prompt = timings["prompt_n"] + timings.get("cache_n", 0)
        return turn
