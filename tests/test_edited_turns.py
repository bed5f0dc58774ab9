"""An edited turn costs only what is new, however far back, within the budget: and the answer is that of a cold run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from gemma4gguf import Gemma4, Message
from gemma4gguf.runtime.checkpoints import Checkpoint, best, reach, spare, stops
from gemma4gguf.runtime.keeping import Kept

MODELS = Path(__file__).parents[1] / "models"
EXACT: dict[str, Any] = {"context": 4096, "threads": 1, "draft": "off", "kv_type": "f32", "flash_attention": "off"}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
WORDS = "The quick brown fox jumps over the lazy dog while the others look on. " * 5
TURNS = 8
FEW = 8  # positions: marks around a message, and the last one, which is always evaluated


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def cost(model: Gemma4, text: str) -> int:
    """Positions of a message and what surrounds it."""
    return model.count_tokens([user(text)]).prompt + FEW


class Chat:
    """A chat of several windows' length, and what its turns cost."""

    def __init__(self, model: Gemma4) -> None:
        self.model = model
        self.messages: list[Message] = [{"role": "system", "content": "Be brief. " * 60}]
        self.begins: list[int] = []  # where each turn's message begins
        for number in range(TURNS):
            self.begins.append(len(self.messages))
            self.ask(f"{number}: {WORDS}")

    def ask(self, text: str) -> None:
        self.messages.append(user(text))
        self.messages.append(self.model.chat(self.messages, **GREEDY).message())

    def edited(self, turn: int) -> list[Message]:
        return [*self.messages[: self.begins[turn]], user(f"Rather this, {turn}. {WORDS}")]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing in it is rounded to fewer bits: a conversation is read in other pieces than it was written in."""
    file = tmp_path_factory.mktemp("exact") / "exact.gguf"
    convert(MODELS / "tiny", file, quant="F32")
    return file


@pytest.fixture(scope="module")
def cold(exact: Path) -> Iterator[Gemma4]:
    with Gemma4(exact, **EXACT, cache_memory=0) as model:
        yield model


def check(model: Gemma4, cold: Gemma4, messages: list[Message], new: int) -> None:
    """The answer is a cold one's, and at most `new` positions were evaluated for it."""
    result = model.chat(messages, **GREEDY)
    session = cold.engine.session
    session.clear()
    assert result.text == cold.chat(messages, **GREEDY).text
    warm, expected = (m.engine.session.context.logits() for m in (model, cold))
    seen = np.isfinite(expected)
    assert np.abs(warm[seen] - expected[seen]).max() < 3e-3
    assert result.tokens.prompt - result.tokens.reused <= new


def test_an_edited_turn_evaluates_only_what_is_new(exact: Path, cold: Gemma4) -> None:
    with Gemma4(exact, **EXACT) as model:
        chat = Chat(model)
        assert chat.model.engine.session.length > 1000, "the sliding layers have moved on"
        message = cost(model, f"Rather this, 1. {WORDS}")
        for turn in (TURNS - 1, 1, 4, 0):
            check(model, cold, chat.edited(turn), message)
        check(model, cold, [*chat.messages, user("And?")], 6 * FEW)


def test_a_prompt_read_at_once_can_be_edited_where_it_will_be(exact: Path, cold: Gemma4) -> None:
    """Its last message, or all after the system's: nobody asked the turns between here."""
    with Gemma4(exact, **EXACT) as model:
        messages = Chat(cold).messages
        model.chat([*messages, user(f"One. {WORDS}")], **GREEDY)
        check(model, cold, [*messages, user(f"Another. {WORDS}")], cost(model, f"Another. {WORDS}"))
        check(model, cold, [messages[0], user("Afresh.")], 4 * FEW)


def test_a_short_budget_holds_and_keeps_the_beginning(exact: Path, cold: Gemma4) -> None:
    with Gemma4(exact, **EXACT) as model:
        Chat(model)
        size = max(len(c.kept.data or b"") for c in model.engine.session.checkpoints)
    with Gemma4(exact, **EXACT, cache_memory=int(4.5 * size)) as model:
        chat = Chat(model)
        assert sum(c.kept.data is not None for c in model.engine.session.checkpoints) == 4
        assert model.engine.keeper.used <= 4.5 * size
        message = cost(model, f"Rather this, 1. {WORDS}")
        check(model, cold, chat.edited(TURNS - 1), message)
        check(model, cold, chat.edited(0), message)
        for turn in (4, 2, 6):
            check(model, cold, chat.edited(turn), 10000)
            assert model.engine.keeper.used <= 4.5 * size


def test_what_a_state_is_good_for() -> None:
    assert [reach(90, shared, 96) for shared in (10, 90, 200)] == [10, 90, 90], "it holds everything"
    assert [reach(100, shared, 96) for shared in (10, 99, 100, 200)] == [0, 0, 100, 100]
    kept = [Checkpoint(length, Kept(data)) for length, data in ((80, b"a"), (200, b"b"), (300, None))]
    assert best(kept, 310, 96) == (200, kept[1]), "the third was given up"
    assert best(kept, 150, 96) == (80, kept[0])
    assert best(kept[1:], 150, 96) == (0, None)


def test_where_a_prompt_is_worth_a_state() -> None:
    assert stops([200, 300, 800, 900, 1000], held=0, end=990, window=96) == [200, 900, 990]
    assert stops([200, 300, 800, 900, 1000], held=899, end=990, window=96) == [900, 990]
    assert stops([200, 300, 800, 900, 1000], held=905, end=990, window=96) == [905, 990], "an edit that begins the same"
    assert stops([200, 300, 800, 900, 1000], held=0, end=990, window=1024) == [990], "it holds everything"
    assert stops([200, 300, 800, 900, 1000], held=0, end=990, window=850) == [200, 900, 990]
    assert stops([20, 50], held=0, end=45, window=96) == [], "too little"
    assert stops([], held=0, end=500, window=96) == [500]


def test_which_state_goes_first() -> None:
    def lengths(*given: int) -> list[Checkpoint]:
        return [Checkpoint(length, Kept(b"")) for length in given]

    chosen = spare(lengths(100, 400, 450, 900))
    assert chosen is not None
    assert chosen.length == 450
    assert spare(lengths(100)) is None, "the first stays"
    assert spare([]) is None


def mean_read_again(room: int, choose: Callable[[Sequence[Checkpoint]], Checkpoint | None]) -> float:
    """Positions that an edit of a turn reads again besides the new ones, in chats of 20 turns at the 12B's window.

    Turns are edited the more often the newer they are: by one over their age.
    """
    window, cells, total, weight = 1024, 1536, 0.0, 0.0
    for seed in range(60):
        rng, length, begins = random.Random(seed), 100, list[int]()
        kept: list[Checkpoint] = []
        for turn in range(20):
            begins.append(length)
            end = length + rng.randint(20, 120)
            for at in stops(begins, length, end, window):
                kept = [c for c in kept if c.length > window or at > window]
                gone = choose(kept) if len(kept) == room else None
                kept = [*(c for c in kept if c is not gone), Checkpoint(at, Kept(b""))]
            length = end + rng.randint(50, 400)
            for begun in begins if turn >= 9 else []:
                held = begun - window >= length - cells
                share = 1 / (len(begins) - begins.index(begun))
                total += share * (0 if held else begun - best(kept, begun, window)[0])
                weight += share
    return total / weight


@pytest.mark.parametrize("room", [3, 6])
def test_giving_up_the_closest_reads_less_again(room: int) -> None:
    """With room for as many states as 1 GiB holds for the 12B, at f16 and at q8_0."""
    oldest = mean_read_again(room, lambda kept: kept[0])
    middle = mean_read_again(room, lambda kept: kept[1])
    closest = mean_read_again(room, spare)
    print(f"{room} states: the oldest goes first {oldest:.0f}, the second {middle:.0f}, the closest {closest:.0f}")
    assert closest < 0.6 * min(oldest, middle)
