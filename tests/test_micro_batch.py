"""How a prompt is cut, and by how many threads it is computed, changes the time and the memory, never the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf import Gemma4, InputError, MemoryLimitError
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.native.context import Context
from gemma4gguf.native.library import repacked_types
from gemma4gguf.runtime.engine import EngineOptions
from gemma4gguf.runtime.memory import Facts, Memory, memory
from gemma4gguf.runtime.opening import Opening
from gemma4gguf.runtime.room import settled
from tests.support.logs import MIB, said

MODELS = Path(__file__).parents[1] / "models"
PICTURE, CLIP = MODELS / "demo" / "digits.png", MODELS / "demo" / "number.wav"
EXACT: dict[str, Any] = {"context": 1024, "kv_type": "f32", "flash_attention": "off", "threads": 1}
ASKED: tuple[dict[str, Any], ...] = (
    {"prompt": "What number is this?", "images": PICTURE, "system": "Be brief. " * 30},
    {"prompt": "What is said?", "audio": CLIP},
    {"prompt": "What is 47 + 38?", "system": "Be brief. " * 60},
)


def read(bundle: Path, monkeypatch: pytest.MonkeyPatch, **how: Any) -> tuple[list[str], list[int], list[int]]:
    """Answers, and the rows of every call that read some of a prompt: causal ones, and pictures."""
    causal: list[int] = []
    whole: list[int] = []
    decode = Context.decode

    def watched(self: Context, tokens: Sequence[int] | None = None, made: Any = None, **given: Any) -> None:
        (causal if given.get("causal", True) else whole).append(len(made if tokens is None else tokens))
        decode(self, tokens, made, **given)

    with Gemma4(bundle, **EXACT | how) as model, monkeypatch.context() as patch:
        patch.setattr(Context, "decode", watched)
        return [model.generate(**asked, temperature=0, max_tokens=16).text for asked in ASKED], causal, whole


def test_answers_stay_the_same(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, usual, picture = read(tiny_bundle, monkeypatch, draft="off")
    assert expected[0] == "I read the number 4072."
    assert len(picture) == 1
    for how, most in (
        ({"micro_batch": 64, "threads_batch": 2}, 64),
        ({"micro_batch": 7}, 7),
        ({"micro_batch": 1024, "repack": False}, 1024),
        ({"micro_batch": 5, "draft": 3}, 5),
        ({"micro_batch": 5, "parallel": 2}, 5),
    ):
        texts, rows, whole = read(tiny_bundle, monkeypatch, **{"draft": "off", **how})
        assert texts == expected, how
        assert min(most, max(usual)) <= max(rows) <= most, how
        assert whole == picture, "a picture is never divided"


def test_logits_stay_the_same(bundle: Path) -> None:
    def logits(**how: Any) -> Any:
        with Gemma4(bundle, **EXACT | how, draft="off") as model:
            return model.evaluate("What number is this? " * 10, images=PICTURE).logits

    expected = logits()
    for how in ({"micro_batch": 64, "threads_batch": 2}, {"micro_batch": 7}, {"micro_batch": 1024}):
        np.testing.assert_allclose(logits(**how), expected, atol=0.01)


def opened(bundle: Path, **how: Any) -> EngineOptions:
    return Opening(**how).engine_options(Bundle.open(bundle))


@pytest.mark.parametrize(
    ("how", "rows", "micro_batch"),
    [
        ({}, 512, 512),
        ({"image_tokens": 1120}, 512, 1120),
        ({"micro_batch": 64, "image_tokens": 280}, 64, 280),
        ({"micro_batch": 1, "image_tokens": 70, "parallel": 16}, 1, 256),
        ({"micro_batch": 4096}, 4096, 4096),
    ],
)
def test_pictures_and_steps_are_whole(tiny_bundle: Path, how: dict[str, Any], rows: int, micro_batch: int) -> None:
    context = opened(tiny_bundle, **how).context
    assert (context.batch, context.micro_batch, context.rows) == (rows, micro_batch, max(rows, micro_batch))


@pytest.mark.parametrize("micro_batch", [64, 1024])
def test_the_plan_follows(tiny_bundle: Path, micro_batch: int) -> None:
    how = {"context": 4096, "micro_batch": micro_batch, "image_tokens": 70}
    facts = Facts.of(Bundle.open(tiny_bundle).sections)

    def needs(**how: Any) -> Memory:
        return memory(facts, opened(tiny_bundle, **how).context, repacked=frozenset())

    needed, usual = needs(**how), needs(context=4096, image_tokens=70)
    assert needed.cache.private / MIB == pytest.approx(sum(said(tiny_bundle, "KV", **how)), abs=0.02)
    assert (needed.compute.private < usual.compute.private) == (micro_batch < 512)
    assert (needed.cache.private < usual.cache.private) == (micro_batch < 512)


def test_without_repacking_no_weights_are_copied(small: Path) -> None:
    bundle, how = Bundle.open(small), {"context": 512, "image_tokens": 70}
    assert sum(said(small, "CPU_REPACK model", **how)) > 0
    assert sum(said(small, "CPU_REPACK model", **how, repack=0)) == 0
    options = opened(small, **how)
    needed = memory(
        Facts.of(bundle.sections),
        options.context,
        repacked=repacked_types(),
        image_tokens=70,
        keep=options.cache_memory,
    )
    with pytest.raises(MemoryLimitError, match="of memory of its own"):
        settled(bundle, options, limit=needed.private - 1)
    with pytest.warns(UserWarning, match="the file's own pages"):
        assert not settled(bundle, opened(small, **how, repack=False), limit=needed.private - 1).repack


@pytest.mark.parametrize(
    ("name", "most", "values"), [("micro_batch", 4096, (0, 4097, "many", True)), ("threads_batch", 512, (0, 513, 1.5))]
)
def test_others_are_refused(tiny_bundle: Path, name: str, most: int, values: Sequence[Any]) -> None:
    for value in values:
        with pytest.raises(InputError, match=f"{name} is {value!r}, expected a whole number, 1 to {most}"):
            Gemma4(tiny_bundle, **{name: value})
