"""Masks: who sees whom, told by the logits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gemma4gguf import Gemma4
from gemma4gguf.native.context import Context
from tests.support import cases
from tests.support.sessions import EXACT

N = 40  # rows of a picture
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "logits.npz")
CASES = {case.name: case for case in cases.CASES}
FloatArray = NDArray[np.float32]


def picture(context: Context, causal: bool, last: float = 1.0) -> FloatArray:
    """Logits [N, vocabulary] of N random rows after one token, the last row times `last`."""
    rows = np.random.default_rng(1).standard_normal((N, context.model.n_embd)).astype(np.float32)
    rows[-1] *= last
    context.clear()
    context.decode([2], start=0)
    context.decode(None, rows, start=1, outputs=N, causal=causal)
    return np.stack([context.logits(row).copy() for row in range(N)])


def test_text_and_sound_see_nothing_that_follows(make_context: Callable[..., Context]) -> None:
    context = make_context(outputs=N)
    moved = np.abs(picture(context, True) - picture(context, True, -1)).max(axis=1)
    assert moved[-1] > 1
    assert not moved[:-1].any()


def test_rows_of_a_picture_see_each_other(make_context: Callable[..., Context]) -> None:
    context = make_context(outputs=N)
    assert np.abs(picture(context, False) - picture(context, False, -1)).max(axis=1).min() > 0.1


def test_text_after_a_picture_is_causal_again(make_context: Callable[..., Context]) -> None:
    context = make_context(outputs=N)
    found = []
    for last in (500, 600):
        picture(context, False)
        context.decode([400, 401, last], start=N + 1, outputs=3)
        found.append([context.logits(row).copy() for row in range(3)])
    assert np.array_equal(found[0][:2], found[1][:2])
    assert not np.array_equal(found[0][2], found[1][2])


@pytest.mark.parametrize("name", ["beyond_window", "image_beyond_window", "images_touching"])
def test_masks_are_those_of_transformers(bundle: Path, name: str) -> None:
    """Pictures see themselves in sliding layers only; text is causal; the window is the checkpoint's."""
    case = CASES[name]
    images = [cases.picture(n) for n in case.images]
    with Gemma4(bundle, **EXACT) as model:
        found = model.evaluate(case.prompt, raw=True, images=images)
    assert found.ids.tolist() == GOLDEN[f"{name}.ids"].tolist()
    assert np.abs(found.logits[GOLDEN[f"{name}.rows"]] - GOLDEN[f"{name}.logits"]).max() <= 0.03


TOO_LARGE = """
import sys, numpy as np
from gemma4gguf.native.context import C, Context, ContextOptions
from gemma4gguf.native.weights import Weights
model = Weights(sys.argv[1])
context = Context(model, ContextOptions(256, threads=1, batch=64, micro_batch=32))
batch = context._batch.fill(None, np.ones((64, model.n_embd), np.float32), 64, 0, 1)
C.llama_set_causal_attn(context.handle, sys.argv[2] == "causal")
print("status", C.llama_decode(context.handle, batch))
"""


def test_a_picture_larger_than_a_micro_batch_ends_the_process(bundle: Path) -> None:
    """So it is refused before. Were it not so any more, the check in `Context.decode` could go."""

    def run(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", TOO_LARGE, str(bundle), how]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("causal").stdout == "status 0\n"
    ended = run("not causal")
    assert ended.returncode != 0
    assert "status 0" not in ended.stdout
