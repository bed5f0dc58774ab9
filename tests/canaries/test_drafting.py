"""Drafting: hidden rows, a drafter that reads its target's cache, and checks of several rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gemma4gguf.bundle.reading import DRAFTER, Bundle
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.drafter import Drafter, drafter_weights
from tests.support import cases

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "drafts.npz")
PROMPTS = {case.name: case.prompt for case in cases.CASES}
IDS = np.random.default_rng(0).integers(300, 1000, 8).astype(np.int32)


def test_hidden_rows_are_those_of_single_steps(make_context: Callable[..., Context]) -> None:
    """Rows with logits get one, whether they come in a batch or one by one."""
    context = make_context(hidden=True)
    context.decode(IDS, start=0, outputs=4)
    many = [context.hidden(row).copy() for row in range(4, 8)]
    context.clear()
    context.decode(IDS[:4], start=0)
    for i, row in enumerate(many, 4):
        context.decode(IDS[i : i + 1], start=i)
        one = context.hidden()
        assert np.abs(row - one).max() < 0.01 * np.abs(one).max()
    assert len({row.tobytes() for row in many}) == 4


@pytest.mark.parametrize("name", ["text", "beyond_window"])
def test_logits_of_a_drafter_are_those_of_transformers(
    bundle: Path, make_context: Callable[..., Context], name: str
) -> None:
    """Four chained steps at one position. llama.cpp's sliding layers see one position less than the window."""
    opened, context = Bundle.open(bundle), make_context(2048, hidden=True, batch=2048)
    with Drafter(drafter_weights(opened.require(DRAFTER), opened.text), context) as drafter:
        ids = context.model.vocab.tokenize("<bos>" + PROMPTS[name], special=True)
        context.decode(ids, start=0)
        token = int(context.logits().argmax())
        assert token == GOLDEN[f"{name}.token"]
        guesses = drafter.guesses(token, context.hidden(), len(ids))
        for expected, (guess, chance) in zip(GOLDEN[f"{name}.logits_window_63"], guesses, strict=False):
            assert guess == expected.argmax()
            assert chance == pytest.approx(float(1 / np.exp(expected - expected.max()).sum()), rel=0.1)


@pytest.fixture
def four_bits(make_bundle: Callable[..., Path]) -> Iterator[Context]:
    with Weights(make_bundle("Q4_0")) as model, Context(model, ContextOptions(1024, threads=1)) as context:
        yield context


def test_one_to_four_rows_of_4_bits_give_the_same_bits(four_bits: Context) -> None:
    """So a sampled answer is the same with drafts of up to three guesses."""
    context = four_bits
    context.decode(IDS[:4], start=0)
    single = []
    for i in range(4, 8):
        context.decode(IDS[i : i + 1], start=i)
        single.append(context.logits().copy())
    for n in (2, 3, 4):
        assert context.remove(4)
        context.decode(IDS[4 : 4 + n], start=4, outputs=n)
        assert all(np.array_equal(context.logits(row), single[row]) for row in range(n))
