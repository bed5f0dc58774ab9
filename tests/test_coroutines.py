"""Async twins: the same answers, no thread for a token, and places that are free once nobody waits any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf import BusyError, Chunk, Gemma4, InputError, Message
from gemma4gguf.runtime.delivery import Admitted, Put, adelivered
from gemma4gguf.runtime.session import Session, Span, Work
from tests.support.endless import Endless

MODELS = Path(__file__).parents[1] / "models"
DIGITS, NUMBER = MODELS / "demo" / "digits.png", MODELS / "demo" / "number.wav"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
ASKED: list[dict[str, Any]] = [
    {"prompt": "What is 47 + 38?"},
    {"prompt": "What number is this?", "images": DIGITS},
    {"prompt": "What is said?", "audio": NUMBER},
    {"prompt": "Hello", "system": "Be brief. " * 60},
]
WEATHER = "What is the weather in Oslo?"


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=4096, threads=1, draft="off", parallel=2) as opened:
        yield opened


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """A test hangs for a minute at most."""
    return asyncio.run(asyncio.wait_for(main, 60))


async def ended(model: Gemma4) -> None:
    """Once all places are free."""
    while model.engine.scheduler.live:
        await asyncio.sleep(0.01)


# ── the same answers ─────────────────────────────────────────────────────────────────────────────────────────────


def test_answers_are_those_of_the_other_twin_and_no_thread_waits_for_them(
    model: Gemma4, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [model.generate(**asked, **GREEDY).text for asked in ASKED]
    in_thread, given = 0, asyncio.to_thread

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal in_thread
        in_thread += 1
        return await given(*args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", counted)

    async def main() -> list[str]:
        return [result.text for result in await asyncio.gather(*(model.agenerate(**a, **GREEDY) for a in ASKED * 3))]

    before = threading.active_count()
    assert run(main()) == expected * 3
    assert in_thread == 3 * len(ASKED), "one preparation each"
    assert threading.active_count() <= before + 1, "but for the scheduler's, which may have begun here"


def test_chunks_are_those_of_the_other_twin(model: Gemma4) -> None:
    messages: list[Message] = [{"role": "user", "content": "What is 47 + 38?"}]
    told: list[tuple[int, int]] = []

    async def main() -> list[list[Chunk]]:
        asked = model.astream("What is 47 + 38?", **GREEDY, on_progress=lambda *at: told.append(at))
        return [[c async for c in asked], [c async for c in model.astream_chat(messages, on_full="drop", **GREEDY)]]

    expected = [list(model.stream("What is 47 + 38?", **GREEDY)), list(model.stream_chat(messages, **GREEDY))]
    for chunks, twins in zip(run(main()), expected, strict=True):
        assert [(c.text, c.finish_reason) for c in chunks] == [(c.text, c.finish_reason) for c in twins]
    assert told[-1][0] == told[-1][1]
    assert run(model.achat(messages, **GREEDY)).text == model.chat(messages, **GREEDY).text


def test_errors_are_the_same(model: Gemma4) -> None:
    with pytest.raises(InputError, match="max_tokens"):
        run(model.agenerate("Hi", max_tokens=0))
    with pytest.raises(InputError, match="no template for system"):
        run(model.agenerate("Hi", raw=True, system="a"))
    with pytest.raises(InputError, match="on_full"):
        run(model.achat([], on_full="maybe"))  # type: ignore[arg-type]


# ── places ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["close", "break", "cancel", "timeout"])
def test_a_stream_that_is_left_frees_its_place_within_a_step(model: Gemma4, way: str) -> None:
    endless = Endless(model)

    async def consume() -> None:
        async with aclosing(adelivered(endless.start)) as stream:
            async for at in stream:
                if at > 20 and way == "close":
                    return

    async def leave() -> None:
        if way == "cancel":
            task = asyncio.create_task(consume())
            while endless.made < 20:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        elif way == "timeout":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(consume(), 0.05)
        elif way == "break":
            async for at in adelivered(endless.start):
                if at > 20:
                    break
            await asyncio.sleep(0)  # the loop closes the generator
            await asyncio.sleep(0)
        else:
            await consume()

    async def main() -> None:
        await leave()
        steps = endless.made
        await ended(model)
        assert endless.made <= steps + 1

    run(main())
    assert len(model.engine.scheduler.places.free) == 2


def test_whoever_waits_is_told_and_the_others_do_not_suffer(model: Gemma4) -> None:
    alone = model.generate("What is 47 + 38?", **GREEDY).text
    endless = Endless(model)

    async def main() -> None:
        async with aclosing(adelivered(endless.start)) as first, aclosing(adelivered(endless.start)) as second:
            await anext(first)
            await anext(second)
            with pytest.raises(BusyError):
                await model.agenerate("Hi", wait=False, **GREEDY)
            with pytest.raises(BusyError, match="was not enough"):
                await model.agenerate("Hi", wait=0.01, **GREEDY)
            waiting = asyncio.create_task(model.agenerate("What is 47 + 38?", **GREEDY))
            given_up = asyncio.create_task(model.agenerate("Hi", **GREEDY))
            await asyncio.sleep(0.05)
            given_up.cancel()
            await second.aclose()
            assert (await waiting).text == alone
            assert await anext(first) > 4, "still being made"

    run(main())


def test_a_long_prompt_is_left_while_it_is_read(model: Gemma4) -> None:
    spans, go, pieces = [Span((2, *[400] * 3500))], threading.Event(), 0

    async def main() -> None:
        loop, reached = asyncio.get_running_loop(), asyncio.Event()

        def begin(session: Session) -> Iterator[Work | int]:
            nonlocal pieces
            for piece in session.feeding(spans):
                pieces += 1
                if pieces == 3:  # in the scheduler's thread, which goes on once the task is cancelled
                    loop.call_soon_threadsafe(reached.set)
                    assert go.wait(60)
                yield piece

        async def read() -> list[int]:
            return [item async for item in adelivered(partial(model.engine.scheduler.submit, spans, begin, True))]

        task = asyncio.create_task(read())
        await reached.wait()
        task.cancel()
        await asyncio.wait([task])
        go.set()
        await ended(model)

    run(main())
    assert pieces == 3


def test_a_loop_that_is_closed_too_early_harms_nobody_else(model: Gemma4) -> None:
    loop = asyncio.new_event_loop()
    stream = adelivered(Endless(model).start)
    loop.run_until_complete(anext(stream))
    loop.close()
    assert model.generate("What is 3 + 4?", **GREEDY).text
    run(ended(model))


def test_closing_the_model_ends_every_stream(tiny_bundle: Path) -> None:
    model = Gemma4(tiny_bundle, context=4096, threads=1)

    async def main() -> None:
        async with aclosing(adelivered(Endless(model).start)) as stream:
            await anext(stream)
            waiting = asyncio.create_task(model.agenerate("Hi", **GREEDY))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(model.close)
            with pytest.raises(InputError, match="closed"):
                async for _ in stream:
                    pass
            with pytest.raises(InputError, match="closed"):
                await waiting

    run(main())


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────


async def get_weather(city: str) -> str:
    """Current weather for a city."""
    await asyncio.sleep(0)
    return "4 C and rain" if city == "Oslo" else "unknown"


def in_a_thread(city: str) -> str:
    """Current weather for a city."""
    assert threading.current_thread() is not threading.main_thread()
    return "4 C and rain"


@pytest.mark.parametrize("tool", [get_weather, in_a_thread])
def test_a_conversation_calls_coroutines_and_functions(model: Gemma4, tool: Any) -> None:
    tool.__name__ = "get_weather"

    async def main() -> list[Chunk]:
        return [chunk async for chunk in chat.astream(WEATHER, **GREEDY)]

    chat = model.conversation(tools=[tool])
    results = [chunk.result for chunk in run(main()) if chunk.result]
    assert [result.finish_reason for result in results] == ["tool_calls", "stop"]
    assert results[-1].text == "It is 4 C and rain in Oslo."
    assert [m["role"] for m in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert run(chat.asay("Who are you?", **GREEDY)).text


def test_a_coroutine_function_needs_a_coroutine(model: Gemma4) -> None:
    chat = model.conversation(tools=[get_weather])
    with pytest.raises(InputError, match="get_weather is a coroutine function; ask with asay"):
        chat.say(WEATHER, **GREEDY)
    assert chat.messages == []


def test_an_async_question_that_is_left_leaves_the_conversation_as_it_was(model: Gemma4) -> None:
    chat = model.conversation()

    async def main() -> None:
        async with aclosing(chat.astream("Who are you?", **GREEDY)) as chunks:
            await anext(chunks)
        assert chat.messages == []
        async with aclosing(chat.astream("Hi", **GREEDY)) as late:
            await anext(late)
            await chat.asay("Hello", **GREEDY)
            with pytest.raises(InputError, match="went on before this answer ended"):
                async for _ in late:
                    pass
        assert len(chat.messages) == 2

    run(main())


def test_what_many_threads_bring_arrives_whole_and_in_order() -> None:
    """However the loop's wakings fall: it is woken once for all that is there."""

    def start(put: Put) -> Callable[[], None]:
        def make() -> None:
            for item in (Admitted(), *range(2000), None):
                put(item)

        maker = threading.Thread(target=make)
        maker.start()
        return maker.join

    async def taken() -> list[int]:
        return [item async for item in adelivered(start)]

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(taken() for _ in range(4)))

    assert run(all_of_them()) == [list(range(2000))] * 4
