"""Weights on a grid: step and codes are found, and stored so that the weights come back."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

from converters.grid import GRIDS, HALF_STEP, Fit, FloatArray, Grid, Lattice, fit, store
from gemma4gguf.native.quantizer import quantize_rows
from tests.support.qat import KINDS, Steps, extremum, learned_float32, on_grid, rounded

BLOCKS = 2000
GRID = {grid.type: grid for grid in GRIDS}
BFLOAT16 = HALF_STEP[T.BF16]


def weights(seed: int = 0) -> FloatArray:
    return (np.random.default_rng(seed).normal(size=(BLOCKS, 32)) * 0.02).astype(np.float32)


def fitted(blocks: FloatArray, kind: T = T.Q4_0) -> Fit:
    return fit(np.ascontiguousarray(blocks.T), BFLOAT16, GRID[kind])


def gives_back(blocks: FloatArray, steps: FloatArray, codes: FloatArray) -> np.ndarray:
    """Whether each block [n, 32] is step * code, rounded to bfloat16."""
    return np.asarray((rounded((steps[:, None] * codes).astype(np.float32)) == blocks).all(1))


@pytest.mark.parametrize("steps", KINDS, ids=lambda steps: steps.__name__)
def test_what_is_called_exact_comes_back_and_nothing_else(steps: Steps) -> None:
    blocks = on_grid(weights(), steps, "w", 0)
    found = fitted(blocks)
    assert found.found.all()
    np.testing.assert_array_equal(found.exact, gives_back(blocks, found.steps, found.codes.T.astype(np.float32)))
    assert found.exact.mean() >= (0.97 if steps is learned_float32 else 0.999)
    np.testing.assert_array_equal(found.steps, found.steps.astype(np.float16))


def test_a_step_that_half_precision_could_hold_is_never_missed() -> None:
    """The slow twin: every half-precision number near the step is tried."""
    blocks = on_grid(weights(1), learned_float32, "w", 0)[:400]
    found = fitted(blocks)
    near = found.steps.astype(np.float16).view(np.uint16)[None] + np.arange(-8, 9, dtype=np.int32)[:, None]
    tried = near.astype(np.uint16).view(np.float16).astype(np.float32)
    possible = np.array([gives_back(blocks, steps, found.codes.T.astype(np.float32)) for steps in tried]).any(0)
    np.testing.assert_array_equal(found.exact, possible)


@pytest.mark.parametrize("precision", [T.F16, T.F32])
def test_weights_of_other_precisions(precision: T) -> None:
    steps = np.random.default_rng(2).uniform(0.001, 0.002, (BLOCKS, 1)).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(weights(2) / 0.003), -8, 7)
    blocks = (steps * codes).astype(np.float16 if precision is T.F16 else np.float32).astype(np.float32)
    found = fit(np.ascontiguousarray(blocks.T), HALF_STEP[precision], GRID[T.Q4_0])
    assert found.exact.mean() >= 0.999


@pytest.mark.parametrize(("kind", "lowest", "highest"), [(T.Q4_0, -8, 7), (T.Q4_1, -3, 12), (T.Q8_0, -127, 127)])
def test_stored_blocks_are_read_by_everyone(kind: T, lowest: int, highest: int) -> None:
    codes = np.random.default_rng(3).integers(lowest, highest + 1, (BLOCKS, 32)).astype(np.float32)
    codes[:, :2] = lowest, highest
    codes[0] = 0
    blocks = np.float32(2**-7) * codes * np.where(np.arange(BLOCKS) % 2, 1, -1)[:, None].astype(np.float32)
    raw, count = store(blocks, Lattice(GRID[kind], BFLOAT16), lambda rest: quantize_rows(rest, kind))
    np.testing.assert_array_equal(dequantize(raw, kind).reshape(-1, 32), blocks)
    assert (count.exact, count.rounded, count.off, count.error) == (BLOCKS, 0, 0, 0)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.type.name)
def test_ordinary_weights_lie_on_no_grid(grid: Grid) -> None:
    assert not fit(np.ascontiguousarray(rounded(weights(4)).T), BFLOAT16, grid).found.any()


def test_blocks_on_no_grid_are_stored_as_llama_cpp_does() -> None:
    blocks = on_grid(weights(5), extremum, "w", 0)
    blocks[::7] = rounded(weights(6))[::7]
    raw, count = store(blocks, Lattice(GRID[T.Q4_0], BFLOAT16), lambda rest: quantize_rows(rest, T.Q4_0))
    off = len(blocks[::7])
    assert (count.exact, count.off) == (BLOCKS - off, off)
    np.testing.assert_array_equal(
        raw.reshape(BLOCKS, -1)[::7], quantize_rows(np.ascontiguousarray(blocks[::7]), T.Q4_0)
    )
    assert count.error == pytest.approx(np.abs(dequantize(raw, T.Q4_0).reshape(-1, 32) - blocks)[::7].max())


def test_what_was_stored_as_q4_k_lies_on_none_of_these_grids_and_needs_none() -> None:
    """Its scales are 6 bits of a larger block's. llama.cpp's own search finds nearly the same blocks again."""
    plain = weights(7).reshape(-1, 256)
    once = dequantize(quantize_rows(plain, T.Q4_K), T.Q4_K).reshape(plain.shape).astype(np.float32)
    source = rounded(once)
    assert max(fit(np.ascontiguousarray(source.reshape(-1, 32).T), BFLOAT16, grid).found.mean() for grid in GRIDS) < 0.1
    again = dequantize(quantize_rows(source, T.Q4_K), T.Q4_K).reshape(plain.shape)
    assert np.square(again - source).sum() < 0.01 * np.square(once - plain).sum()
