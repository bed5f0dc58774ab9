"""Memory computed from headers: against measured peaks of the small model, and against what llama.cpp says it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from itertools import combinations, product
from pathlib import Path

import pytest

from benchmarks.memory import ROWS, TINY
from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.native.context import ContextOptions
from gemma4gguf.native.library import repacked_types
from gemma4gguf.runtime.memory import Bytes, Facts, memory
from tests.support.logs import MIB, said
from tests.support.private import ANSWER, measure

PROMPT = 1_100  # tokens
AVX2 = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})


def facts_of(path: Path) -> Facts:
    return Facts.of(Bundle.open(path).sections)


@pytest.mark.parametrize(
    ("context", "slots", "drafts", "media"), [(2048, 1, False, False), (4096, 1, True, True), (2048, 4, True, False)]
)
def test_within_a_tenth_of_the_measured_peak(
    tiny_bundle: Path, context: int, slots: int, drafts: bool, media: bool
) -> None:
    found = measure(tiny_bundle, context, PROMPT, drafts=drafts, media=media, slots=slots)
    assert found.prompt > PROMPT  # three micro-batches
    needed = memory(
        facts_of(tiny_bundle),
        ContextOptions(context, sequences=slots, outputs=slots * ContextOptions.outputs),
        repacked=repacked_types(),
        media=media,
        drafts=drafts,
        used=found.prompt + ANSWER,
    )
    assert needed.total == pytest.approx(
        found.private + found.mapped, rel=0.1
    )  # a machine with another Python, and what it keeps for itself


def test_rows_hold_every_pair_that_fits() -> None:
    """Of any two columns of the benchmark's table, every pair of values that can be is in some row."""
    given = [astuple(row) for row in ROWS]
    pairs = {(i, row[i], j, row[j]) for row in given for i, j in combinations(range(len(row)), 2)}
    wanted = [sorted(set(column)) for column in zip(*given, strict=True)]
    for i, j in combinations(range(len(wanted)), 2):
        for one, other in product(wanted[i], wanted[j]):
            too_long = i == 0 and j == 2 and one == TINY and other > 4096  # made for 8,192
            assert too_long or (i, one, j, other) in pairs, (one, other)
    assert len(set(ROWS)) == 24
    assert sum(row.layers == 48 for row in ROWS) == 6


@pytest.mark.parametrize(
    "how",
    [
        {"context": 4096},
        {"context": 300, "kv_type": "f32"},
        {"context": 8000, "kv_type": "q8_0"},
        {"context": 2048, "kv_type": "bf16", "flash_attention": "off"},
    ],
)
def test_the_cache_is_what_llama_cpp_makes(tiny_bundle: Path, how: dict[str, object]) -> None:
    needed = memory(facts_of(tiny_bundle), ContextOptions(**how), repacked=frozenset())  # type: ignore[arg-type]
    assert needed.cache.private / MIB == pytest.approx(sum(said(tiny_bundle, "KV", **how)), abs=0.02)


def test_what_is_kept_is_what_a_session_keeps(tiny_bundle: Path) -> None:
    with Gemma4(tiny_bundle, context=2048, draft="off", threads=1) as model:
        read = model.generate("a" + " a" * PROMPT, max_tokens=2, temperature=0).tokens.prompt
        held = model.engine.keeper.used
    facts = facts_of(tiny_bundle)
    needed = memory(facts, ContextOptions(2048), repacked=frozenset(), used=read + 2)
    assert 0 < needed.kept.private == pytest.approx(held, rel=0.02)
    half = memory(facts, ContextOptions(2048), repacked=frozenset(), used=facts.window // 2)
    assert half.kept.private * 2 == needed.kept.private
    assert memory(facts, ContextOptions(facts.window + 512), repacked=frozenset()).kept.private == 0
    assert memory(facts, ContextOptions(2048), repacked=frozenset(), keep=5).kept.private == 5


@pytest.mark.parametrize(("context", "image_tokens"), [(2048, 280), (8192, 280), (4096, 1120)])
def test_compute_buffers_hold_what_llama_cpp_reserves(tiny_bundle: Path, context: int, image_tokens: int) -> None:
    rows = max(512, image_tokens)
    needed = memory(facts_of(tiny_bundle), ContextOptions(context, rows, rows), repacked=frozenset())
    (reserved,) = said(tiny_bundle, "compute", context=context, image_tokens=image_tokens)
    assert reserved < needed.compute.private / MIB < reserved * 1.3


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_K_M", "Q8_0", "IQ4_NL", "Q2_K"])
def test_repacked_copies_are_those_that_llama_cpp_makes(make_bundle: Callable[..., Path], quant: str) -> None:
    path = make_bundle(quant)
    needed = memory(facts_of(path), ContextOptions(2048), repacked=repacked_types())
    assert needed.weights.private / MIB == pytest.approx(sum(said(path, "CPU_REPACK model", context=2048)), abs=0.02)


def test_types_that_a_processor_has_repacked() -> None:
    assert repacked_types("CPU : SSE3 = 1 | AVX2 = 1 | REPACK = 1 | ") == AVX2
    assert repacked_types("CPU : AVX2 = 1 | AVX512 = 1 | REPACK = 1 | ") == AVX2 | {"Q2_K"}
    assert {"Q8_0", "Q6_K"} <= repacked_types("CPU : NEON = 1 | ARM_FMA = 1 | DOTPROD = 1 | REPACK = 1 | ")
    assert repacked_types("CPU : AVX2 = 1 | ") == repacked_types("CPU : AVX2 = 0 | REPACK = 1 | ") == frozenset()


def test_only_full_layers_grow_with_the_context(tiny_bundle: Path) -> None:
    facts = facts_of(tiny_bundle)
    full = sum(layer.kv_heads * layer.head for layer in facts.model.layers if not layer.sliding)
    short, long = (memory(facts, ContextOptions(n), repacked=AVX2).cache.private for n in (4096, 8192))
    assert long - short == 4096 * full * 2 * 2  # keys and values, two bytes each
    three = memory(facts, ContextOptions(4096, sequences=3), repacked=AVX2).cache.private
    assert three == 3 * short


def test_sums(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    facts = Facts.of(bundle.sections)
    nothing_copied = memory(facts, ContextOptions(2048), repacked=frozenset())
    assert nothing_copied.mapped == sum(t.nbytes for section in bundle.sections for t in section.tensors.values())
    assert nothing_copied.total == nothing_copied.private + nothing_copied.mapped
    bare = memory(facts, ContextOptions(2048), repacked=frozenset(), media=False, drafts=False)
    assert bare.embedder == bare.drafter == Bytes()
