"""Several sequences in one context: what conversations side by side will lean on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemma4gguf.native.context import Context
from gemma4gguf.native.library import C
from gemma4gguf.native.weights import Weights

SLOTS, CLOSE = 3, 0.02  # CLOSE: logits; other rows in a batch change the last bits
DICE = np.random.default_rng(0)
PROMPTS = [DICE.integers(300, 1000, size).tolist() for size in (90, 5, 40)]  # the first beyond the window of 64
Row = tuple[int, int, int]  # token, position, sequence


@pytest.fixture(params=["split", "unified"])
def handle(request: pytest.FixtureRequest, weights: Weights) -> Iterator[Any]:
    """A context of SLOTS sequences, each with room for 512 positions."""
    params = C.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 512 * SLOTS, 256, 256, SLOTS
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0
    params.flash_attn_type = 0
    params.kv_unified = request.param == "unified"
    made = C.llama_init_from_model(weights.handle, params)
    yield made
    C.llama_free(made)


def decode(handle: Any, rows: Sequence[Row]) -> None:
    """Evaluate rows of any sequences in one call; each gets logits."""
    n = len(rows)
    batch = C.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for i, (token, position, sequence) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, 1
        batch.seq_id[i][0] = sequence
    assert C.llama_decode(handle, batch) == 0
    C.llama_batch_free(batch)


def logits(handle: Any, row: int, size: int) -> NDArray[np.float32]:
    pointer = ctypes.cast(C.llama_get_logits_ith(handle, row), ctypes.POINTER(ctypes.c_float))
    return np.array(np.ctypeslib.as_array(pointer, (size,)))


def alone(make_context: Callable[..., Context], ids: Sequence[int]) -> NDArray[np.float32]:
    """The last logits of a context that holds nothing else."""
    context = make_context()
    context.decode(ids, start=0)
    return np.array(context.logits())


def test_sequences_side_by_side_say_what_each_says_alone(handle: Any, make_context: Callable[..., Context]) -> None:
    """Prompts of different lengths in one call, then a token of each; then another prompt in a slot that was freed."""
    rows = [(token, i, s) for s, ids in enumerate(PROMPTS) for i, token in enumerate(ids)]
    decode(handle, rows)
    decode(handle, [(700 + s, len(ids), s) for s, ids in enumerate(PROMPTS)])
    size = C.llama_vocab_n_tokens(C.llama_model_get_vocab(C.llama_get_model(handle)))
    for s, ids in enumerate(PROMPTS):
        assert np.abs(logits(handle, s, size) - alone(make_context, [*ids, 700 + s])).max() < CLOSE
    assert C.llama_memory_seq_rm(C.llama_get_memory(handle), 1, -1, -1)
    decode(handle, [(token, i, 1) for i, token in enumerate(PROMPTS[2][:20])])
    assert np.abs(logits(handle, 19, size) - alone(make_context, PROMPTS[2][:20])).max() < CLOSE


def test_a_copied_sequence_goes_its_own_way(handle: Any, make_context: Callable[..., Context]) -> None:
    """A whole copy, then the tail removed. (Copying a part between streams of a split cache ends the process.)"""
    memory, ids = C.llama_get_memory(handle), PROMPTS[2]
    decode(handle, [(token, i, 0) for i, token in enumerate(ids)])
    C.llama_memory_seq_cp(memory, 0, 2, -1, -1)
    assert C.llama_memory_seq_rm(memory, 2, 30, -1)
    decode(handle, [(800, 30, 2), (900, len(ids), 0)])
    size = C.llama_vocab_n_tokens(C.llama_model_get_vocab(C.llama_get_model(handle)))
    assert np.abs(logits(handle, 0, size) - alone(make_context, [*ids[:30], 800])).max() < CLOSE
    assert np.abs(logits(handle, 1, size) - alone(make_context, [*ids, 900])).max() < CLOSE
