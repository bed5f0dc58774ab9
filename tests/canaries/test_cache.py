"""The cache: going back, what is left after an eviction, and states that are kept."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gemma4gguf.bundle.reading import DRAFTER, Bundle
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.library import C
from gemma4gguf.native.weights import Weights
from tests.support.sessions import EXACT

IDS = np.random.default_rng(0).integers(300, 1000, 1000).astype(np.int32)
KEPT, AFTER, STEP = 300, 400, 100  # a state is kept at KEPT; logits are compared at AFTER
CLOSE = 0.02  # logits: a cell at another place of the cache is added up in another order
WINDOW_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_SWA_ONLY


def feed(context: Context, start: int, stop: int) -> NDArray[np.float32]:
    """Evaluate IDS[start:stop]; the logits of the last."""
    for i in range(start, stop, STEP):
        context.decode(IDS[i : min(stop, i + STEP)], start=i)
    return np.array(context.logits())


def keep(context: Context, flags: int) -> ctypes.Array[ctypes.c_uint8]:
    size = C.llama_state_seq_get_size_ext(context.handle, 0, flags)
    state: ctypes.Array[ctypes.c_uint8] = (ctypes.c_uint8 * size)()
    assert C.llama_state_seq_get_data_ext(context.handle, state, size, 0, flags) == size
    return state


def test_going_back_gives_the_same_logits(make_context: Callable[..., Context]) -> None:
    context = make_context(batch=STEP, micro_batch=STEP)
    feed(context, 0, KEPT)
    expected = feed(context, KEPT, AFTER)
    assert context.remove(KEPT + 50)
    feed(context, KEPT + 50, AFTER)
    assert context.remove(KEPT)
    assert np.abs(feed(context, KEPT, AFTER) - expected).max() < CLOSE


def test_going_back_before_the_window_says_yes_and_the_window_is_gone(make_context: Callable[..., Context]) -> None:
    """seq_rm returns true; only seq_pos_min, which is the sliding layers', tells."""
    context = make_context(2048, batch=STEP, micro_batch=STEP)
    feed(context, 0, KEPT)
    cold = feed(context, KEPT, AFTER)
    feed(context, AFTER, len(IDS))
    held = context.first_position()
    assert len(IDS) - held < 512
    assert held <= len(IDS) - context.model.n_swa
    assert context.remove(KEPT)
    assert context.first_position() == -1
    assert np.abs(feed(context, KEPT, AFTER) - cold).max() > 10 * CLOSE


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_a_checkpoint_of_the_window_brings_it_back(make_context: Callable[..., Context], kv_type: str) -> None:
    """State flag 1 holds the sliding layers only: with it, a cache goes back further than the window."""
    how = {} if kv_type == "f32" else {"kv_type": kv_type, "flash_attention": "auto"}
    context = make_context(2048, batch=STEP, micro_batch=STEP, **how)
    feed(context, 0, KEPT)
    state = keep(context, WINDOW_ONLY)
    assert len(state) < 0.8 * C.llama_state_seq_get_size_ext(context.handle, 0, 0)
    cold = feed(context, KEPT, AFTER)
    feed(context, AFTER, len(IDS))
    assert context.remove(KEPT)
    assert C.llama_state_seq_set_data_ext(context.handle, state, len(state), 0, WINDOW_ONLY) == len(state)
    assert context.first_position() <= KEPT - context.model.n_swa
    assert np.abs(feed(context, KEPT, AFTER) - cold).max() < CLOSE


def test_a_whole_sequence_survives_in_a_file(make_context: Callable[..., Context], tmp_path: Path) -> None:
    context, path = make_context(batch=STEP, micro_batch=STEP), str(tmp_path / "state").encode()
    feed(context, 0, KEPT)
    ids = (C.llama_token * KEPT)(*IDS[:KEPT].tolist())
    assert C.llama_state_seq_save_file(context.handle, path, 0, ids, KEPT)
    cold = feed(context, KEPT, AFTER)
    other = make_context(batch=STEP, micro_batch=STEP)
    out, count = (C.llama_token * 1024)(), ctypes.c_size_t(0)
    assert C.llama_state_seq_load_file(other.handle, path, 0, out, 1024, ctypes.byref(count))
    assert list(out[: count.value]) == list(ids)
    assert np.abs(feed(other, KEPT, AFTER) - cold).max() < CLOSE


def test_a_batch_is_cut_to_the_context_and_the_context_rounded_up(
    weights: Weights, make_context: Callable[..., Context]
) -> None:
    """So a context is asked for at least as large as its batch, and has room for every position asked for."""
    params = C.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 64, 512, 512
    handle = C.llama_init_from_model(weights.handle, params)
    assert C.llama_n_batch(handle) == 64
    C.llama_free(handle)
    for size, batch in ((64, 512), (600, 512), (1001, 64)):
        context = make_context(size, batch=batch, micro_batch=batch)
        assert (C.llama_n_batch(context.handle), C.llama_n_ubatch(context.handle)) == (batch, batch)
        assert C.llama_n_ctx(context.handle) >= size


def test_a_full_cache_is_status_1(make_context: Callable[..., Context]) -> None:
    context = make_context(256, batch=64, micro_batch=64)
    batch = context._batch
    filled = range(0, C.llama_n_ctx(context.handle), 64)
    assert [C.llama_decode(context.handle, batch.fill([5] * 64, None, 64, i, 1)) for i in filled] == [0] * len(filled)
    assert C.llama_decode(context.handle, batch.fill([5], None, 1, filled.stop, 1)) == 1


def test_making_a_drafter_empties_the_cache_of_its_target(bundle: Path, make_context: Callable[..., Context]) -> None:
    """So it is made before anything is fed. Were it not so any more, it could be made at any time."""
    context = make_context(hidden=True)
    feed(context, 0, 50)
    assert context.first_position() == 0
    section = Bundle.open(bundle).require(DRAFTER)
    one = ContextOptions(1024, batch=1, micro_batch=1, outputs=1, **EXACT)
    with Weights(section.path, offset=section.offset) as model, Context(model, one, hidden=True, target=context):
        assert context.first_position() == -1
