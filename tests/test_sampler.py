"""Sampling options: penalties and biases against their slow twins, and what a file's own options do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from gemma4gguf import Gemma4
from gemma4gguf.errors import InputError
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.runtime.session import Session, Span
from tests.support import variants
from tests.support.penalties import counted, penalised

PROMPT = (2, *range(400, 430), *range(400, 415))
STEPS = 24


def options(penalty: float, temperature: float = 0, top_k: int = 0, seed: int = 0) -> SamplingOptions:
    return SamplingOptions(temperature, top_k, 1, 0, seed, penalty)


@pytest.mark.parametrize("penalty", [1.05, 1.9, 100.0, 0.5])
@pytest.mark.parametrize("way", [{}, {"temperature": 0.7, "top_k": 1, "seed": 3}])
def test_the_penalty_is_its_slow_twin(
    make_session: Callable[..., Session], penalty: float, way: dict[str, Any]
) -> None:
    """Every token of an answer is the likeliest of the penalised logits, prompt and answer counted."""
    session, held = make_session(), list(PROMPT)
    session.feed([Span(PROMPT)])
    with Sampler(options(penalty, **way), [], PROMPT, STEPS) as sampler:
        for _ in range(STEPS):
            expected = penalised(session.context.logits(), held, penalty)
            token = sampler.sample(session.context)
            assert expected[token] == pytest.approx(expected.max(), abs=1e-5)
            held.append(token)
            session.step([token])


@pytest.mark.parametrize(("frequency", "presence"), [(0.5, 0), (2, 0), (0, 1.5), (1.1, -0.4), (-0.3, 2)])
@pytest.mark.parametrize("repetition", [1.0, 1.2])
def test_frequency_and_presence_count_the_answer_alone(
    make_session: Callable[..., Session], frequency: float, presence: float, repetition: float
) -> None:
    session, answer = make_session(), list[int]()
    session.feed([Span(PROMPT)])
    how = replace(options(repetition), frequency_penalty=frequency, presence_penalty=presence)
    with Sampler(how, [], PROMPT, 3 * STEPS) as sampler:
        for _ in range(3 * STEPS):
            logits = penalised(session.context.logits(), [*PROMPT, *answer], repetition)
            expected = counted(logits, answer, frequency, presence)
            answer.append(sampler.sample(session.context))
            assert expected[answer[-1]] == pytest.approx(expected.max(), abs=1e-5)
            session.step([answer[-1]])
    if repetition == 1:
        assert len(set(answer)) < len(answer), "something is said again, and counted"


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_bias_is_added_and_suppressed_ids_stay_suppressed(
    make_session: Callable[..., Session], temperature: float
) -> None:
    session = make_session()
    session.feed([Span(PROMPT)])
    logits = session.context.logits().copy()
    second, best = (int(i) for i in np.argsort(logits)[-2:])

    def chosen(bias: dict[int, float], suppressed: Sequence[int] = ()) -> int:
        session.context.logits()[:] = logits
        with Sampler(replace(options(1, temperature), logit_bias=bias), suppressed) as sampler:
            return sampler.sample(session.context)

    assert chosen({700: 100}) == 700
    assert chosen({700: 100}, [700]) != 700
    assert chosen({best: -100}) != best
    apart = float(logits[best] - logits[second])
    if not temperature:
        assert chosen({best: 0.01 - apart, 9: 0}) == best
        assert chosen({best: -0.01 - apart, 9: 0}) == second


def test_a_penalty_of_one_is_none(make_session: Callable[..., Session]) -> None:
    session = make_session()
    session.feed([Span(PROMPT)])
    before = session.context.logits().copy()
    with Sampler(options(1.0), [], PROMPT, STEPS) as sampler:
        assert sampler.sample(session.context) == before.argmax()


def test_suppressed_ids_stay_suppressed(make_session: Callable[..., Session]) -> None:
    session = make_session()
    session.feed([Span(PROMPT)])
    best = np.argsort(session.context.logits())[::-1][:3]
    with Sampler(options(1.5), best.tolist(), PROMPT, STEPS) as sampler:
        assert sampler.sample(session.context) not in best


# ── from the file to the answer ──────────────────────────────────────────────────────────────────────────────────

QUESTION = "Count from 3 to 9."


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, threads=1) as model:
        yield model


def with_generation(tmp_path: Path, **changes: Any) -> Path:
    folder = variants.copy(tmp_path / "model")
    variants.edit(folder / "generation_config.json", lambda g: g.update(changes))
    convert(folder, tmp_path / "out.gguf", quant="Q8_0")
    return tmp_path / "out.gguf"


@pytest.mark.parametrize("penalty", [1.9, 0.4, 30.0])
def test_a_file_s_penalty_is_the_option_s(tmp_path: Path, model: Gemma4, penalty: float) -> None:
    plain = model.generate(QUESTION, temperature=0, max_tokens=40).text
    asked = model.generate(QUESTION, temperature=0, max_tokens=40, repetition_penalty=penalty).text
    with Gemma4(with_generation(tmp_path, repetition_penalty=penalty), threads=1) as other:
        assert other.generate(QUESTION, temperature=0, max_tokens=40).text == asked
        assert other.generate(QUESTION, temperature=0, max_tokens=40, repetition_penalty=1).text == plain
    assert asked != plain


def test_drafts_change_nothing_under_a_penalty(tmp_path: Path, tiny_bundle: Path, model: Gemma4) -> None:
    how: dict[str, Any] = {"temperature": 0, "max_tokens": 40, "repetition_penalty": 1.2}
    with Gemma4(tiny_bundle, threads=1, draft=3) as drafting:
        drafted = drafting.generate(QUESTION, **how)
    with Gemma4(tiny_bundle, threads=1, draft="off") as plain:
        assert plain.generate(QUESTION, **how).text == drafted.text
    assert drafted.draft.steps > 0


@pytest.mark.parametrize(
    "changes", [{"do_sample": False}, {"min_p": 1.0, "temperature": 5.0}, {"top_k": 1, "temperature": 5.0}]
)
def test_a_file_that_leaves_no_choice_is_greedy(tmp_path: Path, model: Gemma4, changes: dict[str, Any]) -> None:
    greedy = model.generate(QUESTION, temperature=0, max_tokens=40).text
    with Gemma4(with_generation(tmp_path, **changes), threads=1) as other:
        assert {other.generate(QUESTION, max_tokens=40, seed=seed).text for seed in range(5)} == {greedy}


def test_drafts_change_nothing_under_counted_penalties_and_a_bias(small: Path) -> None:
    how: dict[str, Any] = {"max_tokens": 24, "seed": 3, "frequency_penalty": 0.6, "presence_penalty": 0.3}
    how["logit_bias"] = {str(token): 2.5 for token in range(400, 500)}  # texts for ids, as in JSON
    opened: dict[str, Any] = {"context": 512, "threads": 1}
    with Gemma4(small, draft=3, **opened) as drafting, Gemma4(small, draft="off", **opened) as plain:
        for temperature in (0, 0.8):
            drafted = drafting.generate(QUESTION, temperature=temperature, **how)
            assert plain.generate(QUESTION, temperature=temperature, **how).text == drafted.text
    assert drafted.draft.steps > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frequency_penalty": 2.1}, "frequency_penalty is 2.1"),
        ({"presence_penalty": "1"}, "presence_penalty is '1'"),
        ({"logit_bias": [1]}, "logit_bias is"),
        ({"logit_bias": {-1: 2}}, "logit_bias: a token is -1"),
        ({"logit_bias": {"x": 2}}, "logit_bias: a token is 'x'"),
        ({"logit_bias": {5: 101}}, r"logit_bias\[5\] is 101"),
        ({"logit_bias": {5: float("nan")}}, r"logit_bias\[5\] is nan"),
        ({"logit_bias": {1 << 40: 1}}, "expected an id below 2,048"),
    ],
)
def test_biases_and_penalties_that_cannot_be(model: Gemma4, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate("Hi", **wrong)


@pytest.mark.parametrize("penalty", [0, -1, float("inf"), float("nan"), "1.1", True])
def test_penalties_that_cannot_be(model: Gemma4, penalty: Any) -> None:
    with pytest.raises(InputError, match="repetition_penalty is"):
        model.generate("Hi", repetition_penalty=penalty)
