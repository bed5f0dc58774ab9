"""The runtime against what transformers said, from a checkpoint to logits: no PyTorch needed.

tests/golden is made by scripts/make_golden.py; tests/parity repeats the comparison live.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf import Gemma4, frame, patchify
from gemma4gguf.chat.rendering import raw_segments
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.runtime.answer import Rules
from gemma4gguf.runtime.decode import decode
from gemma4gguf.runtime.prompt import spans
from gemma4gguf.runtime.session import Span
from tests.support import cases, standin

GOLDEN = Path(__file__).parent / "golden"
THREADS = 1  # more would wait for each other on a busy machine
EXACT: dict[str, Any] = {
    "kv_type": "f32",
    "flash_attention": "off",
}  # nothing rounded on the way but llama.cpp's own GELU table
CLOSE = 0.03  # logits, whose standard deviation is 2 here
GREEDY = SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
AS_SHIPPED = 0.1  # the same with the default F16 cache and flash attention
TIE = 0.005  # two logits closer than this are equally good: which of them wins is rounding
RELATIVE = 1e-5  # of soft tokens: the largest difference by the largest value of the matrix

CASES = {case.name: case for case in cases.CASES}
LOGITS = np.load(GOLDEN / "logits.npz")
SOFT = np.load(GOLDEN / "soft_tokens.npz")
SOFT_STEP = 24  # the script keeps every 24th soft token


@pytest.fixture(scope="module")
def exact(bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(bundle, threads=THREADS, **EXACT) as model:
        yield model


@pytest.fixture(scope="module")
def shipped(bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(bundle, threads=THREADS) as model:
        yield model


def media(case: cases.Case) -> dict[str, list[Any]]:
    return {
        "images": [cases.picture(name) for name in case.images],
        "audio": [(cases.clip(name), cases.RATE) for name in case.audio],
    }


def prompt_spans(model: Gemma4, prompt: str, **given: Any) -> list[Span]:
    """What the model would feed to its cache."""
    vocab = model.engine.weights.vocab
    return spans(raw_segments(prompt, **given), vocab, lambda: model.engine.embedder, model.image_tokens)


def check(model: Gemma4, case: cases.Case, close: float, tie: float) -> None:
    golden = {key: LOGITS[f"{case.name}.{key}"] for key in ("ids", "rows", "logits", "best", "argmax")}
    found = model.evaluate(case.prompt, raw=True, **media(case))
    assert found.ids.tolist() == golden["ids"].tolist()
    assert np.abs(found.logits[golden["rows"]] - golden["logits"]).max() <= close
    best, second = golden["best"].T  # [N] each
    assert np.abs(found.logits.max(axis=1) - best).max() <= close
    sure = best - second > tie
    assert sure.mean() > 0.8
    assert found.logits.argmax(axis=1)[sure].tolist() == golden["argmax"][sure].tolist()


@pytest.mark.parametrize("name", CASES)
def test_logits_and_best_tokens_equal_the_reference(exact: Gemma4, name: str) -> None:
    check(exact, CASES[name], CLOSE, TIE)


@pytest.mark.parametrize("name", CASES)
def test_default_cache_and_flash_attention_stay_near_the_reference(shipped: Gemma4, name: str) -> None:
    check(shipped, CASES[name], AS_SHIPPED, tie=0.05)


def test_golden_logits_are_worth_comparing() -> None:
    values = np.concatenate([LOGITS[f"{name}.logits"] for name in CASES])
    assert values.std() > 0.9
    assert len({row.tobytes() for row in values}) > 0.8 * len(values)  # some cases begin alike
    assert len(LOGITS["beyond_window.ids"]) > 4 * standin.SMALL.window


def test_token_ids_equal_the_checkpoints_tokenizer(exact: Gemma4) -> None:
    """200 texts; `<bos>` is put before each, and one that is there already counts as that."""
    entries = json.loads((GOLDEN / "tokens.json").read_text())
    assert len(entries) == 200
    wrong = []
    for entry in entries:
        expected = entry["ids"] if entry["ids"][:1] == [2] else [2, *entry["ids"]]
        prepared = prompt_spans(exact, entry["text"])
        if [i for span in prepared for i in span.ids] != expected:
            wrong.append(entry["text"])
    assert wrong == []


def test_a_bos_in_the_prompt_is_not_doubled(exact: Gemma4) -> None:
    plain = exact.evaluate("hello", raw=True)
    marked = exact.evaluate("<bos>hello", raw=True)
    assert plain.ids.tolist() == marked.ids.tolist()
    assert plain.logits.tobytes() == marked.logits.tobytes()


@pytest.mark.parametrize("name", cases.PICTURE_SIZES)
def test_image_soft_tokens_equal_the_reference(exact: Gemma4, name: str) -> None:
    found = exact.engine.embedder.image(patchify(cases.picture(name)))
    close_soft_tokens(found, f"picture.{name}")


@pytest.mark.parametrize("name", cases.CLIP_SAMPLES)
def test_audio_soft_tokens_equal_the_reference(exact: Gemma4, name: str) -> None:
    found = exact.engine.embedder.audio(frame((cases.clip(name), cases.RATE)))
    close_soft_tokens(found, f"clip.{name}")


def close_soft_tokens(found: np.ndarray, name: str) -> None:
    golden, largest = SOFT[name], SOFT[f"{name}.largest"]
    assert found.dtype == np.float32
    assert found[::SOFT_STEP].shape == golden.shape
    assert np.abs(found[::SOFT_STEP] - golden).max() / largest <= RELATIVE


@pytest.mark.parametrize("answer", json.loads((GOLDEN / "greedy.json").read_text()), ids=lambda answer: answer["case"])
def test_greedy_answers_equal_generate(exact: Gemma4, answer: dict[str, Any]) -> None:
    """Token for token, `<turn|>` as an end and suppressed tokens included."""
    case = CASES[str(answer["case"])]
    model, session = exact.engine.weights, exact.engine.session
    rules = Rules.of(model.vocab, exact.bundle.text.metadata)
    expected = answer["ids"]
    assert isinstance(expected, list)
    session.feed(prompt_spans(exact, case.prompt, **media(case)))
    with Sampler(GREEDY, rules.suppressed) as sampler:
        assert list(decode(session, sampler, rules.end, len(expected))) == expected


def test_pictures_and_order_matter(exact: Gemma4) -> None:
    """Swapping two pictures changes the logits of the text after them, by far more than rounding."""
    case = CASES["two_images"]
    one = exact.evaluate(case.prompt, raw=True, **media(case)).logits[-1]
    swapped = media(case)
    swapped["images"].reverse()
    other = exact.evaluate(case.prompt, raw=True, **swapped).logits[-1]
    assert np.abs(one - other).max() > 10 * CLOSE
