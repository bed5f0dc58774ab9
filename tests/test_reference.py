"""The reference in numpy against what transformers said, its readers against each other, and the engine against it.

`tests/parity/test_streaming.py` asks transformers live.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from converters import convert
from gemma4gguf import Gemma4, frame, patchify
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, Bundle
from gemma4gguf.reference.drafter import Drafter
from gemma4gguf.reference.embedder import frames, patches
from gemma4gguf.reference.model import Model
from gemma4gguf.reference.weights import Checkpoint, Sections
from tests.conftest import MODELS
from tests.support import cases
from tests.support.streaming import final, passage

GOLDEN = Path(__file__).parent / "golden"
SAME = 1e-4  # of logits, in their standard deviations
CLOSE = 0.03  # logits, whose standard deviation is 2 here
CASES = {case.name: case for case in cases.CASES}
SOME = ("text", "beyond_window", "image_beyond_window", "two_images", "audio", "everything")


@pytest.mark.parametrize("name", SOME)
def test_logits_are_those_of_transformers(checkpoint: Path, name: str) -> None:
    golden = np.load(GOLDEN / "logits.npz")
    model = Model(Checkpoint(checkpoint))
    states, _, _ = final(model, passage(model.weights, CASES[name], golden[f"{name}.ids"].tolist(), checkpoint))
    found, expected = model.logits(states[golden[f"{name}.rows"]]), golden[f"{name}.logits"]
    assert np.abs(found - expected).max() <= SAME * expected.std()


@pytest.mark.parametrize("name", ["beyond_window", "everything"])
def test_drafts_are_those_of_transformers(checkpoint: Path, drafter: Path, name: str) -> None:
    golden, drafts = np.load(GOLDEN / "logits.npz"), np.load(GOLDEN / "drafts.npz")
    model = Model(Checkpoint(checkpoint))
    states, sliding, full = final(
        model, passage(model.weights, CASES[name], golden[f"{name}.ids"].tolist(), checkpoint)
    )
    token, window = int(drafts[f"{name}.token"]), model.weights.numbers.window
    assert token == int(model.logits(states[-1:])[0].argmax())
    for key, reach in (("logits", window + 1), ("logits_window_63", window - 1)):
        expected = drafts[f"{name}.{key}"]
        found = Drafter(Checkpoint(drafter), model).draft(token, states[-1], sliding, full, len(expected), reach)
        assert np.abs(found - expected).max() <= SAME * expected.std()


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained tiny model with its drafter, all in F32."""
    out = tmp_path_factory.mktemp("exact") / "tiny.gguf"
    convert(MODELS / "tiny", out, quant="F32", drafter=MODELS / "tiny-assistant", drafter_quant="F32")
    return out


@pytest.fixture(scope="module")
def engine(exact: Path) -> Iterator[Gemma4]:
    with Gemma4(exact, threads=1, kv_type="f32", flash_attention="off", image_tokens=280) as model:
        yield model


@pytest.mark.parametrize("name", CASES)
def test_the_engine_against_the_reference(engine: Gemma4, name: str) -> None:
    case = CASES[name]
    found = engine.evaluate(
        case.prompt,
        raw=True,
        images=[cases.picture(image) for image in case.images],
        audio=[(cases.clip(clip), cases.RATE) for clip in case.audio],
    )
    model = Model(Checkpoint(MODELS / "tiny"))
    states, _, _ = final(model, passage(model.weights, case, found.ids.tolist(), MODELS / "tiny"))
    expected = model.logits(states)
    assert expected.std() > 0.9
    assert np.abs(found.logits - expected).max() <= CLOSE


def test_a_bundle_holds_the_checkpoints_tensors(exact: Path) -> None:
    """In the checkpoint's order, patches and tables put back, and the same numbers."""
    bundle = Bundle.open(exact)
    pairs = (
        (Checkpoint(MODELS / "tiny"), Sections(bundle.text, bundle.require(EMBEDDER))),
        (Checkpoint(MODELS / "tiny-assistant"), Sections(bundle.require(DRAFTER))),
    )
    for theirs, ours in pairs:
        for key, value in asdict(theirs.numbers).items():
            assert asdict(ours.numbers)[key] == pytest.approx(value)  # float32 in the file
        for name in theirs.names:
            np.testing.assert_array_equal(ours.whole(name), theirs.whole(name), name)
            assert ours.shape(name) == theirs.shape(name) or name == "vision.pos_embedding"
            if "vision" not in name and len(theirs.shape(name)) == 2:
                np.testing.assert_array_equal(ours.rows(name, 3, 7), theirs.rows(name, 3, 7))
                np.testing.assert_array_equal(ours.rows(name, 3, 7), theirs.whole(name)[3:7])


@pytest.mark.parametrize("name", cases.PICTURE_SIZES)
def test_patches_are_the_runtimes(name: str) -> None:
    pixels, places = patches(cases.picture(name))
    found = patchify(cases.picture(name))
    np.testing.assert_array_equal(found.pixels, pixels)
    np.testing.assert_array_equal(found.positions, places)


@pytest.mark.parametrize("count", [1, 640, 641, 64_001])
def test_frames_are_the_runtimes(count: int) -> None:
    samples = np.resize(cases.clip("long"), count)
    np.testing.assert_array_equal(frame((samples, cases.RATE)), frames(samples))
