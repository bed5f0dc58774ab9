"""What fits into a memory: the context that is chosen, and what opening refuses or warns about."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import InputError, MemoryLimitError
from gemma4gguf.limits import limited
from gemma4gguf.native.context import ContextOptions
from gemma4gguf.native.library import repacked_types, supports_gpu
from gemma4gguf.runtime.engine import EngineOptions
from gemma4gguf.runtime.memory import KEEP, Facts, Memory, memory
from gemma4gguf.runtime.room import CONTEXTS, check_room, contexts, every_context, first_that_fits, fit, settled, usable

AVX2 = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})


@pytest.fixture
def facts(tiny_bundle: Path) -> Facts:
    return Facts.of(Bundle.open(tiny_bundle).sections)


def test_the_longest_context_that_fits(facts: Facts) -> None:
    def needs(context: int) -> Memory:
        return memory(facts, ContextOptions(context), repacked=AVX2)

    for context in CONTEXTS:
        taken = needs(context).total
        assert first_that_fits(CONTEXTS, needs, taken) == context
    assert first_that_fits(CONTEXTS, needs, None) == CONTEXTS[0]
    assert first_that_fits(CONTEXTS, needs, 1) == CONTEXTS[-1]  # opening will refuse
    assert contexts(5000) == [5000, 5000, 5000, 4096, 2048]
    assert usable(16) == 14


def test_the_longest_context_of_all(facts: Facts) -> None:
    def needs(context: int) -> Memory:
        return memory(facts, ContextOptions(context), repacked=AVX2)

    lengths = every_context(8192)
    assert lengths == sorted({8192, *range(2048, 8192, 256)}, reverse=True)
    assert every_context(1000) == [1000]
    for context in lengths:  # what fits by a byte, and not without it
        taken = needs(context)
        assert first_that_fits(lengths, needs, taken.total) == context
        assert first_that_fits(lengths, needs, None, taken.private) == context
        assert first_that_fits(lengths, needs, taken.total - 1) == max(2048, context - 256)
        assert first_that_fits(lengths, needs, taken.total, taken.private - 1) == max(2048, context - 256)


def test_opening_refuses_only_what_cannot_fit(facts: Facts) -> None:
    needed = memory(facts, ContextOptions(4096), repacked=AVX2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_room("x", needed, None)
        check_room("x", needed, needed.total)
    with pytest.warns(UserWarning, match="read from the disk again"):
        check_room("x", needed, needed.private)
    with pytest.raises(MemoryLimitError, match=r"x: takes 0\.0\d GB of memory of its own .* force=True"):
        check_room("x", needed, needed.private - 1)
    with pytest.warns(UserWarning, match="memory of its own"):
        check_room("x", needed, needed.private - 1, force=True)
    with pytest.raises(MemoryLimitError, match="of memory of its own"):
        check_room("x", needed, needed.total, needed.private - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_room("x", needed, None, needed.private)  # pages of files do not count there


def test_fit_is_what_opening_does(tiny_bundle: Path, facts: Facts) -> None:
    """At each bound to the byte: "no" is refused, "tight" warns or takes what is left to the system, "fits" neither."""
    bundle, needed = Bundle.open(tiny_bundle), memory(facts, ContextOptions(4096), repacked=repacked_types())
    options = EngineOptions(ContextOptions(4096), image_tokens=280, cache_memory=KEEP)

    def opening(limit: int, own: int | None) -> str:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                settled(bundle, options, limit=limit, own=own)
            except MemoryLimitError:
                return "no"
        spared = usable(limit) >= needed.total and (own is None or usable(own) >= needed.private)
        assert not (told and spared)
        return "fits" if spared else "tight"

    found = []
    for limit in (needed.private - 1, needed.private, needed.total - 1, needed.total, needed.total * 8 // 7 + 2):
        for own in (None, needed.private - 1, needed.private, needed.private * 8 // 7 + 2):
            found.append(fit(needed, limit, own))
            assert found[-1] == opening(limit, own), (limit, own)
    assert found[::4] == ["no", "tight", "tight", "tight", "fits"]
    assert found[-4:] == ["fits", "no", "tight", "fits"]
    assert fit(needed, None) == "fits"


def test_what_a_bundle_is_opened_with(tiny_bundle: Path, facts: Facts) -> None:
    bundle = Bundle.open(tiny_bundle)

    def opened(limit: int, *, force: bool = False, **how: Any) -> int:
        options = EngineOptions(ContextOptions(how.pop("context", 0), **how), image_tokens=280, cache_memory=KEEP)
        return settled(bundle, options, limit=limit, force=force).context.context

    least = memory(facts, ContextOptions(CONTEXTS[-1]), repacked=repacked_types())
    assert opened(10**12) == facts.limit == 8192
    assert opened(2 * least.total) == 8192
    assert opened(least.total * 8 // 7 + 2) == CONTEXTS[-1]
    with pytest.raises(MemoryLimitError, match="of memory of its own"):
        opened(least.private - 1)
    with pytest.warns(UserWarning, match="of memory of its own"):
        assert opened(least.private - 1, force=True) == CONTEXTS[-1]
    with pytest.raises(MemoryLimitError, match="smaller context"):
        opened(least.private, context=8192, kv_type="f32")


def test_the_longest_that_a_bundle_can_be_opened_with(tiny_bundle: Path, facts: Facts) -> None:
    bundle = Bundle.open(tiny_bundle)

    def opened(limit: int | None, own: int | None = None) -> int:
        options = EngineOptions(ContextOptions(0), image_tokens=280, cache_memory=KEEP)
        return settled(bundle, options, longest=True, limit=limit, own=own).context.context

    for context in (8192, 5120, 2304):
        needed = memory(facts, ContextOptions(context), repacked=repacked_types())
        assert opened(needed.total * 8 // 7 + 2) == context
        assert opened(10**12, needed.private * 8 // 7 + 2) == context
    least = memory(facts, ContextOptions(2048), repacked=repacked_types())
    with pytest.raises(MemoryLimitError, match=r"takes 0\.0\d GB of memory of its own .* may use 0\.0\d GB"):
        opened(least.private - 1)
    with Gemma4(tiny_bundle, context="max", draft="off") as model:  # all of it fits any machine
        assert model.context == facts.limit
    with pytest.raises(InputError, match="context is 'most', expected max or a whole number"):
        Gemma4(tiny_bundle, context="most")  # type: ignore[arg-type]


def test_no_more_is_kept_than_what_is_left(tiny_bundle: Path, facts: Facts) -> None:
    bundle = Bundle.open(tiny_bundle)
    needed = memory(facts, ContextOptions(8192), repacked=repacked_types())

    def kept(limit: int) -> int:
        options = EngineOptions(ContextOptions(8192), image_tokens=280, cache_memory=KEEP)
        return settled(bundle, options, limit=limit).cache_memory

    assert kept(10**12) == KEEP
    least = -(-needed.total * 8 // 7)
    assert kept(least) == pytest.approx(needed.kept.private, abs=2)
    assert kept(least + 8000) == pytest.approx(needed.kept.private + 7000, abs=2)


def test_a_cache_that_only_a_hostile_header_asks_for(tiny_bundle: Path, facts: Facts) -> None:
    bundle, size = Bundle.open(tiny_bundle), memory(facts, ContextOptions(8192), repacked=AVX2).cache.total
    options = EngineOptions(ContextOptions(0), image_tokens=280, cache_memory=KEEP)
    with limited(cache_bytes=size):
        assert settled(bundle, options, limit=10**12).context.context == 8192
    with (
        limited(cache_bytes=size - 1),
        pytest.raises(MemoryLimitError, match="its header asks for a cache"),
    ):
        settled(bundle, options, limit=10**12)
    with limited(cache_bytes=1):  # whoever names a context has asked for it
        assert settled(bundle, replace(options, context=ContextOptions(64)), limit=10**12).context.context == 64


def test_a_model_opens_with_what_was_settled(tiny_bundle: Path) -> None:
    with Gemma4(tiny_bundle, draft="off") as model:
        assert model.engine.session.context.size == 8192


def test_layers_for_a_gpu_that_is_not_there(tiny_bundle: Path) -> None:
    assert not supports_gpu()
    with pytest.warns(UserWarning, match="gpu_layers is 20, but this llama.cpp was built without a GPU"):
        Gemma4(tiny_bundle, gpu_layers=20).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Gemma4(tiny_bundle, gpu_layers="auto").close()
        Gemma4(tiny_bundle, gpu_layers=0).close()
