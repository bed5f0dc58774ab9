"""Handles of llama.cpp's objects: freed once, refused afterwards; what sampling does to logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import NativeError
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.handle import Closing, Handle
from gemma4gguf.native.library import C, gpus
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.drafter import Drafter
from gemma4gguf.runtime.session import Session

WARM = SamplingOptions(temperature=1, top_k=0, top_p=1, min_p=0, seed=7)
GREEDY = SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)


def test_a_handle_is_freed_once_and_refused_afterwards() -> None:
    freed: list[str] = []
    handle = Handle("thing", "pointer", freed.append)
    assert handle.handle == "pointer"
    with pytest.raises(ZeroDivisionError), handle:
        1 / 0  # noqa: B018
    handle.close()
    assert freed == ["pointer"]
    with pytest.raises(NativeError, match="the thing is closed"):
        _ = handle.handle


def test_no_closed_object_reaches_c(bundle: Path) -> None:
    with Weights(bundle) as weights, Context(weights, ContextOptions(64, batch=16, threads=1)) as context:
        context.decode([2, 500], start=0)
        with Sampler(WARM, []) as sampler:
            assert sampler.sample(context) >= 0
        with pytest.raises(NativeError, match="the sampler is closed"):
            sampler.sample(context)
    for use in (
        lambda: context.logits(),
        lambda: context.decode([2], start=2),
        lambda: context.clear(),
        lambda: context.first_position(),
        lambda: context.remove(0),
    ):
        with pytest.raises(NativeError, match="the context is closed"):
            use()
    for read in (lambda: weights.vocab.tokenize("a", special=False), lambda: weights.vocab.piece(5, special=True)):
        with pytest.raises(NativeError, match="the model is closed"):
            read()
    for each in (context, weights, sampler):
        each.close()


def test_all_that_owns_something_of_c_closes_by_one_rule() -> None:
    assert all(issubclass(kind, Handle) for kind in (Weights, Context, Sampler))
    assert issubclass(Drafter, Closing)
    for kind in (Weights, Context, Sampler, Drafter):
        assert not {"__enter__", "__exit__"} & set(vars(kind))


@pytest.mark.parametrize("how", [GREEDY, WARM])
def test_sampling_writes_into_the_rows_logits(make_session: Callable[..., Session], how: SamplingOptions) -> None:
    """Suppressed ids read as -inf until the next call; every other logit stays."""
    context = make_session().context
    context.decode([2, 500], start=0)
    before = context.logits().copy()
    suppressed = [int(before.argmax()), 3]
    with Sampler(how, suppressed) as sampler:
        assert sampler.sample(context) not in suppressed
    after = context.logits()
    assert np.isneginf(after[suppressed]).all()
    others = np.delete(np.arange(len(before)), suppressed)
    assert np.array_equal(after[others], before[others])
    context.clear()
    context.decode([2, 500], start=0)
    assert np.array_equal(context.logits(), before)


def test_a_section_is_read_at_its_offset_or_not_at_all(bundle: Path) -> None:
    last = Bundle.open(bundle).sections[-1]
    with Weights(bundle, offset=last.offset) as drafter, Weights(bundle) as text:
        assert drafter.vocab.size == text.vocab.size
        assert drafter.n_swa == text.n_swa > 0
    with pytest.raises(NativeError, match="cannot be opened at byte 64"):
        Weights(bundle.with_name("none.gguf"), offset=64)
    with pytest.raises(NativeError, match="cannot load this model"):
        Weights(bundle, offset=64)


def test_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is a device that every build has; here it stands for a GPU."""
    assert gpus() == []
    monkeypatch.setattr("gemma4gguf.native.library._GPU_TYPES", (0,))
    assert len(gpus()) == 1
    monkeypatch.setattr(C, "_lib", None)
    assert gpus() == []
