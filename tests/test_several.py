"""Several answers to one prompt: the same as asked for one by one, and the prompt is read once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf import Gemma4, InputError, Result
from gemma4gguf.native.context import Context
from gemma4gguf.runtime.delivery import Put, Start
from gemma4gguf.runtime.request import Request

CAT = Path(__file__).parents[1] / "models" / "demo" / "cat.jpg"
SENSE = "Ada has a red book. " * 20  # the small model's answers to it are far from ties
EXACT: dict[str, Any] = {"kv_type": "f32", "flash_attention": "off"}
QUESTION = "What is 47 + 38?"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
WARM: dict[str, Any] = {"temperature": 1.2, "top_k": 0, "max_tokens": 24, "seed": 5}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of prompts, by call: what was evaluated in pieces, not in steps."""
    found: list[int] = []
    real = Context.decode

    def decode(self: Context, tokens: Any = None, rows: Any = None, **how: Any) -> None:
        found.append(len(tokens if tokens is not None else rows))
        real(self, tokens, rows, **how)

    monkeypatch.setattr(Context, "decode", decode)
    return found


def begun_together(model: Gemma4) -> Callable[[Request], Start]:
    """`Request._start`, but nothing is evaluated before all are in the queue."""
    real, scheduler = Request._start, model.engine.scheduler

    def start(request: Request, put: Put) -> Callable[[], None]:
        with scheduler._changed:
            return real(request)(put)

    return lambda request: partial(start, request)


def opened(path: Path, parallel: int, **how: Any) -> Gemma4:
    return Gemma4(path, context=1024, threads=1, draft="off", parallel=parallel, **how)


@pytest.mark.parametrize("parallel", [1, 2, 4])
@pytest.mark.parametrize("asked", [{"prompt": QUESTION}, {"prompt": SENSE}, {"prompt": "What is this?", "images": CAT}])
@pytest.mark.parametrize("admitted", ["as it happens", "together"])
def test_the_prompt_is_read_once(
    tiny_bundle: Path,
    rows: list[int],
    monkeypatch: pytest.MonkeyPatch,
    parallel: int,
    asked: Mapping[str, Any],
    admitted: str,
) -> None:
    """Then each further answer only needs its last token's logits, which a step gives it."""
    with opened(tiny_bundle, parallel) as model:
        alone = model.generate(**asked, **GREEDY)
        model.generate("Something else", **GREEDY)
    rows.clear()
    with opened(tiny_bundle, parallel) as model:
        if admitted == "together":
            monkeypatch.setattr(Request, "_start", begun_together(model))
        results = model.answers(**asked, n=4, **GREEDY)
    assert sum(rows) == alone.tokens.prompt
    assert [result.tokens.reused for result in results] == [0, *[alone.tokens.prompt - 1] * 3]
    assert {result.text for result in results} == {alone.text}


def test_answers_are_those_of_consecutive_seeds(small: Path) -> None:
    with opened(small, 1) as model, opened(small, 1) as other:
        results = model.answers(QUESTION, 4, **WARM)
        for number, result in enumerate(results):
            single = other.generate(QUESTION, **{**WARM, "seed": 5 + number})
            assert (result.text, result.seed) == (single.text, single.seed)
        assert len({result.text for result in results}) == 4
        assert [r.seed for r in model.answers(QUESTION, 2, **{**WARM, "seed": (1 << 32) - 1})] == [(1 << 32) - 1, 0]
        free = model.answers(QUESTION, 2, **{**WARM, "seed": None})
        assert free[1].seed == (free[0].seed + 1) % (1 << 32)


@pytest.mark.parametrize("parallel", [1, 3])
def test_streams_add_up_to_the_results(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, parallel: int) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    told: list[tuple[int, int]] = []
    with opened(tiny_bundle, parallel) as model:
        monkeypatch.setattr(Request, "_start", begun_together(model))
        chunks = list(
            model.stream_answers(messages, 3, thinking=True, on_progress=lambda *at: told.append(at), **GREEDY)
        )
        results: list[Result] = [chunk.result for _, chunk in chunks if chunk.result]
        assert sorted({number for number, _ in chunks}) == [0, 1, 2]
        for number in range(3):
            text = "".join(chunk.text for n, chunk in chunks if n == number)
            assert text == results[0].text
        order = [number for number, _ in chunks]
        assert (order == sorted(order)) == (parallel == 1), "one after another, or together"
        assert [result.text for result in model.answers(messages, 3, thinking=True, **GREEDY)] == [
            result.text for result in results
        ]
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] == results[0].tokens.prompt
    assert sorted(told) == told, "the first answer's reading"


def test_coroutines_get_the_same(tiny_bundle: Path) -> None:
    async def main(model: Gemma4) -> list[str]:
        texts = ["", "", ""]
        async with aclosing(model.astream_answers(QUESTION, 3, **GREEDY)) as chunks:
            async for number, chunk in chunks:
                texts[number] += chunk.text
        return texts

    with opened(tiny_bundle, 2) as model:
        assert asyncio.run(main(model)) == [model.generate(QUESTION, **GREEDY).text] * 3


def test_an_engine_in_a_process_of_its_own_does_the_same(tiny_bundle: Path) -> None:
    with opened(tiny_bundle, 2) as model:
        expected = model.generate(QUESTION, **GREEDY).text
    with Gemma4(tiny_bundle, context=1024, threads=1, draft="off", parallel=2, isolate=True) as model:
        results = model.answers(QUESTION, 5, seed=3, **GREEDY)
        assert [(result.text, result.seed) for result in results] == [(expected, seed) for seed in range(3, 8)]


def test_leaving_ends_all_of_them(tiny_bundle: Path) -> None:
    with opened(tiny_bundle, 2) as model:
        stream = model.stream_answers(QUESTION, 6, max_tokens=900, temperature=0, logit_bias={106: -100, 1: -100})
        for _ in range(5):
            next(stream)
        stream.close()
        assert model.generate(QUESTION, **GREEDY).text
        assert len(model.answers(QUESTION, 2, **GREEDY)) == 2
        scheduler = model.engine.scheduler
        assert not scheduler._waiting


def test_many_answers_wait_for_few_places(tiny_bundle: Path) -> None:
    with opened(tiny_bundle, 2) as model:
        results = model.answers(QUESTION, 100, **{**GREEDY, "max_tokens": 2})
        assert len(results) == 100
        assert len({result.text for result in results}) == 1


def test_what_one_thread_has_read_is_not_read_for_another(tiny_bundle: Path, rows: list[int]) -> None:
    """Four prompts with the same long beginning at once: it is read once, and each end by itself."""
    prompts = [SENSE + end for end in ("One?", "Two?", "Three?", "Four?")]
    with opened(tiny_bundle, 4, **EXACT) as model:
        alone = [model.generate(prompt, **GREEDY).text for prompt in prompts]
        longest = model.count_tokens(prompts[2]).prompt
    with opened(tiny_bundle, 4, **EXACT) as model, ThreadPoolExecutor(4) as pool:
        model.load()
        rows.clear()
        asked = [pool.submit(model.generate, prompt, **GREEDY) for prompt in prompts]
        assert [answer.result().text for answer in asked] == alone
        assert sum(rows) < longest + 3 * 24


def test_whoever_waits_for_a_reader_that_leaves_reads_itself(tiny_bundle: Path) -> None:
    with opened(tiny_bundle, 2, **EXACT) as model, ThreadPoolExecutor(1) as pool:
        expected = model.generate(SENSE + "Two?", **GREEDY).text
        model.generate("Something else. " * 20, **GREEDY)
        others = []

        def leave(done: int, total: int) -> None:
            others.append(pool.submit(model.generate, SENSE + "Two?", **GREEDY))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            model.generate(SENSE + "One?", on_progress=leave, **GREEDY)
        assert others[0].result().text == expected


@pytest.mark.parametrize("n", [0, 129, 1.5, None])
def test_numbers_that_cannot_be(tiny_bundle: Path, n: Any) -> None:
    with opened(tiny_bundle, 1) as model:
        with pytest.raises(InputError, match="n is"):
            model.answers(QUESTION, n)
        with pytest.raises(InputError, match="unknown option raw"):
            model.answers([{"role": "user", "content": "Hi"}], 2, raw=True)  # type: ignore[call-overload]
