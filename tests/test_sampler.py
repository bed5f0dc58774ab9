"""Sampling options: the repetition penalty against its slow twin, and what a file's own options do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from tests.support.penalties import penalised

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


@pytest.mark.parametrize("penalty", [0, -1, float("inf"), float("nan"), "1.1", True])
def test_penalties_that_cannot_be(model: Gemma4, penalty: Any) -> None:
    with pytest.raises(InputError, match="repetition_penalty is"):
        model.generate("Hi", repetition_penalty=penalty)
