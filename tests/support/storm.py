"""Threads that ask one model for all kinds of answers and leave them in all kinds of ways, held against one place's.

Shared by tests/test_slots.py (short) and scripts/stress (long). Every choice follows from a seed.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from gemma4gguf import BusyError, Chunk, Gemma4, Message, Result
from gemma4gguf.native.sampler import Sampler
from gemma4gguf.runtime.asking import Chat, Question
from gemma4gguf.runtime.decode import decode
from gemma4gguf.runtime.session import Span
from tests.support.drafters import TIE, gap
from tests.support.sessions import GREEDY as CHOICE

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


class Asked(Protocol):
    """Something to ask any model."""

    @property
    def key(self) -> str: ...
    def stream(self, model: Gemma4, **how: Any) -> Generator[Chunk, None, None]: ...
    async def later(self, model: Gemma4) -> Result: ...
    def spans(self, model: Gemma4) -> list[Span]: ...


@dataclass(frozen=True)
class OneQuestion:
    """Keywords of `generate`."""

    key: str
    given: Mapping[str, Any]

    def stream(self, model: Gemma4, **how: Any) -> Generator[Chunk, None, None]:
        return model.stream(**self.given, **GREEDY, **how)

    async def later(self, model: Gemma4) -> Result:
        return await model.agenerate(**self.given, **GREEDY)

    def spans(self, model: Gemma4) -> list[Span]:
        asked = Question(**{name: value for name, value in self.given.items() if name != "prompt"})
        return model.engine.spans(model._composer.question(self.given["prompt"], asked).segments)


@dataclass(frozen=True)
class Messages:
    """A conversation that ends with a question."""

    messages: Sequence[Message]

    @property
    def key(self) -> str:
        return json.dumps(self.messages)

    def stream(self, model: Gemma4, **how: Any) -> Generator[Chunk, None, None]:
        return model.stream_chat(self.messages, **GREEDY, **how)

    async def later(self, model: Gemma4) -> Result:
        return await model.achat(self.messages, **GREEDY)

    def spans(self, model: Gemma4) -> list[Span]:
        return model.engine.spans(model._composer.chat(self.messages, Chat()).segments)


@dataclass
class Tally:
    """What became of the answers. `ties`: (which, gap of the two best logits) where one went another way at a tie.

    `wrong`: (which, found, expected).
    """

    right: int = 0
    left: int = 0
    refused: int = 0
    ties: list[tuple[str, float]] = field(default_factory=list)
    wrong: list[tuple[str, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        ended = f"{self.right} right, {self.left} left early, {self.refused} refused as busy"
        return f"{ended}, {len(self.ties)} at ties {self.ties}, {len(self.wrong)} wrong {self.wrong}"


class Reference:
    """Answers of a model with one place and no drafts, each made once."""

    def __init__(self, model: Gemma4) -> None:
        self._model, self._lock = model, threading.Lock()
        self._known: dict[str, str] = {}

    def compare(self, asked: Asked, found: Result, tally: Tally) -> None:
        """Count an answer as right, at a tie, or wrong."""
        with self._lock:
            if asked.key not in self._known:
                self._known[asked.key] = said([*asked.stream(self._model)][-1].result)
            expected = self._known[asked.key]
            if said(found) == expected:
                tally.right += 1
                return
            apart = self._smallest_gap(asked, _common(said(found), expected))
        if apart < TIE:
            tally.ties.append((asked.key[:60], round(apart, 4)))
        else:
            tally.wrong.append((asked.key, f"{said(found)} (gap {apart:.3f})", expected))

    def _smallest_gap(self, asked: Asked, characters: int) -> float:
        """Of the two best logits, over the steps that lead to so many characters of an answer and one more token."""
        engine, spans = self._model.engine, asked.spans(self._model)
        vocab, rules, session = engine.weights.vocab, engine.rules, engine.session
        session.feed(spans)
        with Sampler(CHOICE, rules.suppressed) as sampler:
            ids = list(decode(session, sampler, rules.end, GREEDY["max_tokens"]))
        gaps, length = [], 0
        for step, token in enumerate(ids):
            gaps.append(gap(session, spans, ids[:step], sorted(rules.suppressed)))
            length += len(vocab.piece(token, special=token in rules.visible))
            if length > characters:
                break
        return min(gaps)


def said(result: Result | None) -> str:
    """All of an answer as one text."""
    assert result is not None
    return f"{result.thought}{result.text}{[(call.name, call.arguments) for call in result.tool_calls]}"


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


class _LeftError(Exception):
    """Raised by a consumer."""


def storm(model: Gemma4, questions: Sequence[Asked], reference: Reference, *, seed: int, count: int) -> Tally:
    """Eight threads with `count` prompts each. Every whole answer is compared; what else is raised, is raised."""
    tally = Tally()

    def work(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        for _ in range(count):
            fate = dice.choice(FATES)
            try:
                fate(model, dice, questions, reference, tally)
            except BusyError:
                tally.refused += 1
            except (_LeftError, asyncio.TimeoutError):
                tally.left += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    return tally


def _whole(model: Gemma4, dice: random.Random, questions: Sequence[Asked], reference: Reference, tally: Tally) -> None:
    asked = dice.choice(questions)
    wait = dice.choice([True, True, 0.01, 5.0])
    end = [*asked.stream(model, wait=wait)][-1].result
    assert end is not None
    reference.compare(asked, end, tally)


def _closed(model: Gemma4, dice: random.Random, questions: Sequence[Asked], reference: Reference, tally: Tally) -> None:
    stream = dice.choice(questions).stream(model)
    for _ in range(dice.randrange(4)):
        next(stream, None)
    stream.close()
    tally.left += 1


def _failing(
    model: Gemma4, dice: random.Random, questions: Sequence[Asked], reference: Reference, tally: Tally
) -> None:
    after = dice.randrange(1, 4)
    for count, _ in enumerate(dice.choice(questions).stream(model), 1):
        if count == after:
            raise _LeftError


def _while_read(
    model: Gemma4, dice: random.Random, questions: Sequence[Asked], reference: Reference, tally: Tally
) -> None:
    def leave(done: int, total: int) -> None:
        if done or dice.random() < 0.3:
            raise _LeftError

    list(dice.choice(questions).stream(model, on_progress=leave))


def _later(model: Gemma4, dice: random.Random, questions: Sequence[Asked], reference: Reference, tally: Tally) -> None:
    asked = dice.choice(questions)
    result = asyncio.run(asyncio.wait_for(asked.later(model), dice.choice([0.02, 0.1, 60])))
    reference.compare(asked, result, tally)


def _conversation(
    model: Gemma4, dice: random.Random, questions: Sequence[Asked], reference: Reference, tally: Tally
) -> None:
    """Turns, forks and edits of one conversation; each answer against the same messages asked anew."""
    chat = model.conversation(system=dice.choice([None, "Be brief."]), thinking=False)
    for _ in range(3):
        edit = dice.choice(["none", "none", "undo", "fork"])
        if edit == "undo" and len(chat.messages) > 1:
            chat.undo()
        elif edit == "fork":
            chat = chat.fork()
        result = chat.say(f"What is {dice.randrange(10, 50)} + {dice.randrange(10, 50)}?", **GREEDY)
        reference.compare(Messages(chat.messages[:-1]), result, tally)


FATES = [_whole] * 5 + [_closed, _failing, _while_read, _later, _later, _conversation]
