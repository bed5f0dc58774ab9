"""Our runtime against transformers, live, from the same checkpoint: ids, frames, soft tokens, logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Gemma4UnifiedAudioFeatureExtractor

from gemma4gguf import Gemma4, frame, patchify
from tests.support import cases
from tests.support.reference import Inputs, Reference

CLOSE = 0.03  # logits, whose standard deviation is 2 here
TIE = 0.005  # two logits closer than this are equally good: which of them wins is rounding
RELATIVE = 1e-5  # of soft tokens: the largest difference by the largest value of the matrix
CASES = {case.name: case for case in cases.CASES}
GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(bundle, threads=1, kv_type="f32", flash_attention="off") as model:
        yield model


@pytest.fixture(scope="module", params=CASES)
def asked(request: pytest.FixtureRequest, reference: Reference) -> tuple[cases.Case, Inputs]:
    """A case, and what the reference takes for it: our patches and frames, its own ids."""
    case = CASES[request.param]
    patches = [patchify(cases.picture(name)) for name in case.images]
    frames = [frame((cases.clip(name), cases.RATE)) for name in case.audio]
    return case, reference.inputs(case.prompt, [(p.pixels, p.positions) for p in patches], frames)


def media(case: cases.Case) -> dict[str, list[Any]]:
    return {
        "images": [cases.picture(name) for name in case.images],
        "audio": [(cases.clip(name), cases.RATE) for name in case.audio],
    }


def test_logits_at_every_position(reference: Reference, model: Gemma4, asked: tuple[cases.Case, Inputs]) -> None:
    case, inputs = asked
    theirs = reference.logits(inputs)
    ours = model.evaluate(case.prompt, raw=True, **media(case))
    assert ours.ids.tolist() == inputs.input_ids[0].tolist()
    assert theirs.std() > 0.9
    assert np.abs(ours.logits - theirs).max() <= CLOSE
    second, best = np.sort(theirs, axis=1)[:, -2:].T  # [N] each
    sure = best - second > TIE
    assert sure.mean() > 0.9
    assert (ours.logits.argmax(axis=1) == theirs.argmax(axis=1))[sure].all()


def test_token_ids_of_200_texts(reference: Reference, model: Gemma4) -> None:
    texts = [entry["text"] for entry in json.loads((GOLDEN / "tokens.json").read_text())]
    model.load()
    vocab = model.engine.weights.vocab
    assert len(texts) == 200
    assert [text for text in texts if vocab.tokenize(text, special=True) != reference.tokenize(text)] == []


@pytest.mark.parametrize("count", [1, 639, 640, 641, 16_000, 480_000, 480_001])
def test_frames(count: int) -> None:
    samples = np.resize(cases.clip("long"), count)
    theirs = Gemma4UnifiedAudioFeatureExtractor()(samples, return_tensors="np")
    with np.errstate(all="raise"):
        ours = frame((samples, cases.RATE)) if count <= 480_000 else _long(samples)
    assert ours.shape == (-(-count // 640), 640)
    assert ours.tobytes() == theirs["input_features"][0].tobytes()
    assert theirs["input_features_mask"].all()


def _long(samples: np.ndarray) -> np.ndarray:
    with pytest.warns(UserWarning, match="30 s"):
        return frame((samples, cases.RATE))


@pytest.mark.parametrize("name", cases.PICTURE_SIZES)
@pytest.mark.parametrize("budget", [70, 280, 1120])
def test_image_soft_tokens(reference: Reference, model: Gemma4, name: str, budget: int) -> None:
    patches = patchify(cases.picture(name), budget)
    theirs = reference.image_soft_tokens((patches.pixels, patches.positions))
    close(model.engine.embedder.image(patches), theirs)


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_soft_tokens_of_a_flat_picture(reference: Reference, model: Gemma4, value: int) -> None:
    """Without variance the first norm divides by its epsilon alone."""
    patches = patchify(np.full((480, 480, 3), value, np.uint8), 70)
    theirs = reference.image_soft_tokens((patches.pixels, patches.positions))
    close(model.engine.embedder.image(patches), theirs)


@pytest.mark.parametrize("loudness", [1.0, 1e-3, 1e-6, 0.0])
def test_audio_soft_tokens(reference: Reference, model: Gemma4, loudness: float) -> None:
    """Quiet clips too: their size under the norm is its epsilon's doing."""
    frames = frame((cases.clip("short") * np.float32(loudness), cases.RATE))
    close(model.engine.embedder.audio(frames), reference.audio_soft_tokens(frames))


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= RELATIVE * np.abs(theirs).max()
