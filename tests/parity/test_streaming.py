"""The reference in numpy against transformers with a static cache, live: soft tokens, logits, drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf.reference.drafter import Drafter
from gemma4gguf.reference.embedder import frames, patches
from gemma4gguf.reference.model import Model
from gemma4gguf.reference.weights import Checkpoint
from tests.conftest import MODELS
from tests.support import cases
from tests.support.reference import Reference, ReferenceDrafter
from tests.support.streaming import final, passage, soft_tokens

SAME = 1e-4  # of logits, in their standard deviations: float32 added up in another order
RELATIVE = 1e-5  # of soft tokens: the largest difference by the largest value of the matrix
STEPS = 4


class Pair:
    """A model and its drafter, by both."""

    def __init__(self, folder: Path, drafter: Path) -> None:
        self.folder, self.theirs, self.ours = folder, Reference(folder), Model(Checkpoint(folder))
        self.their_drafter, self.our_drafter = (
            ReferenceDrafter(self.theirs, drafter),
            Drafter(Checkpoint(drafter), self.ours),
        )

    def inputs(self, case: cases.Case) -> Any:
        pictures = [patches(cases.picture(name)) for name in case.images]
        return self.theirs.inputs(
            case.prompt,
            [(pixels, places.astype(np.int32)) for pixels, places in pictures],
            [frames(cases.clip(name)) for name in case.audio],
        )


@pytest.fixture(scope="module", params=["stand-in", "tiny"])
def pair(request: pytest.FixtureRequest, checkpoint: Path, drafter: Path) -> Pair:
    tiny = request.param == "tiny"
    return Pair(*((MODELS / "tiny", MODELS / "tiny-assistant") if tiny else (checkpoint, drafter)))


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_logits_and_drafts(pair: Pair, case: cases.Case) -> None:
    inputs = pair.inputs(case)
    theirs = pair.theirs.logits(inputs)
    states, sliding, full = final(
        pair.ours, passage(pair.ours.weights, case, inputs.input_ids[0].tolist(), pair.folder)
    )
    ours = pair.ours.logits(states)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= SAME * theirs.std()
    window = pair.ours.weights.numbers.window
    for rows, reach in ((None, window + 1), (window - 1, window - 1)):  # transformers' own reach, and llama.cpp's
        token, drafted = pair.their_drafter.draft(inputs, STEPS, window_rows=rows)
        found = pair.our_drafter.draft(token, states[-1], sliding, full, STEPS, reach)
        assert np.abs(found - drafted).max() <= SAME * drafted.std()


@pytest.mark.parametrize("case", [c for c in cases.CASES if c.images or c.audio], ids=lambda case: case.name)
def test_soft_tokens(pair: Pair, case: cases.Case) -> None:
    images, clips = soft_tokens(pair.ours.weights, case)
    pictures = [patches(cases.picture(name)) for name in case.images]
    theirs = [pair.theirs.image_soft_tokens((pixels, places.astype(np.int32))) for pixels, places in pictures]
    theirs += [pair.theirs.audio_soft_tokens(frames(cases.clip(name))) for name in case.audio]
    for ours, other in zip([*images, *clips], theirs, strict=True):
        assert np.abs(ours - other).max() <= RELATIVE * np.abs(other).max()
