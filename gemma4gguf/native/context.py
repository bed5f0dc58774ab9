"""A llama.cpp context: a KV cache and the computation on it.

Token ids or embedding rows come in, with their positions; logits and hidden rows go out. The caller keeps the positions
in order. A failure in C becomes a NativeError. This module does not know what the rows mean.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, NativeError
from ..machine import physical_cores
from .activations import Activations
from .extensions import extension
from .handle import Handle
from .library import C, started
from .watching import Watcher
from .weights import Weights

KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}  # enum ggml_type
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type


@dataclass(frozen=True)
class ContextOptions:
    """A context's size and how it computes.

    `context`: positions of each of `sequences`. `batch`: rows of a prompt per call. Rows are computed `micro_batch` at
    a time, and those that attend to each other in both directions must all be in one. `outputs`: most rows with logits
    per call. `threads` None: one per physical core. `threads_batch`: for calls with more than one row; None: as
    `threads`. `kv_type` and `flash_attention`: keys of KV_TYPES and FLASH_ATTENTION.
    """

    context: int
    batch: int = 512
    micro_batch: int = 512
    outputs: int = 16
    threads: int | None = None
    kv_type: str = "f16"
    flash_attention: str = "auto"
    sequences: int = 1
    threads_batch: int | None = None

    @property
    def rows(self) -> int:
        """Most rows per call."""
        return max(self.batch, self.micro_batch)


# Between the nodes of a graph, C asks whether to stop. It asks `strlen` of a text that is empty until `abort` writes
# into it, because a callback of Python's own would take the interpreter's lock a thousand times a call.
_LIBC = ctypes.CDLL(None) if os.name == "posix" else ctypes.cdll.msvcrt
_NOT_EMPTY = ctypes.cast(_LIBC.strlen, C.ggml_abort_callback)


class Context(Handle):
    """A KV cache and the computation on it, for one sequence with positions 0, 1, 2, ….

    `decode` evaluates rows. `logits` and `hidden` return what the last call computed, as views that the next call
    overwrites.
    """

    def __init__(
        self,
        model: Weights,
        options: ContextOptions,
        *,
        hidden: bool = False,
        target: Context | None = None,
        watcher: Watcher | Activations | None = None,
    ) -> None:
        """Make a context. `hidden`: keep hidden rows too. `target`: the context whose cache a drafter reads. `watcher`
        sees the state after every layer, or what is multiplied with each matrix.

        Making a drafter's context EMPTIES the target's cache. It must be closed before the target's context. Raises
        NativeError, and InputError for options that exclude each other.
        """
        self._log = started()
        if options.kv_type in ("q8_0", "q4_0") and options.flash_attention == "off":
            raise InputError(f"a {options.kv_type} cache needs flash attention; leave it on auto or choose f16")
        if options.outputs < options.sequences:  # llama.cpp would end the process
            raise NativeError(
                f"outputs is {options.outputs}, expected at least one for each of {options.sequences} sequences"
            )
        params = C.llama_context_default_params()
        threads = options.threads or physical_cores()
        # llama.cpp would shrink the batch to the context. It divides the positions among the sequences, and keeps each
        # sequence's cells apart: cells of sliding layers that two sequences share would never be used again.
        params.n_ctx = max(options.context, options.rows) * options.sequences
        params.n_seq_max = options.sequences
        params.kv_unified = False
        params.n_batch = options.rows
        params.n_ubatch = options.micro_batch
        params.n_outputs_max = options.outputs
        params.n_threads, params.n_threads_batch = threads, options.threads_batch or threads
        params.type_k = params.type_v = KV_TYPES[options.kv_type]
        params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
        params.no_perf = True
        params.swa_full = False  # sliding layers hold their window and a batch, not the whole context
        if target is not None:
            params.ctx_type = C.LLAMA_CONTEXT_TYPE_MTP
            params.ctx_other = target.handle
        if watcher is not None:
            params.cb_eval = watcher.callback
        self.model, self.options, self.threads, self._watcher = model, options, threads, watcher
        pointer = C.llama_init_from_model(model.handle, params)
        if not pointer:
            raise NativeError(
                f"llama.cpp cannot make a context of {options.context:,} positions{self._log.last()}; try a smaller one"
            )
        super().__init__("context", pointer, C.llama_free)
        self._abort = (ctypes.c_char * 2)()
        C.llama_set_abort_callback(self.handle, _NOT_EMPTY, ctypes.addressof(self._abort))
        set_hidden = extension("llama_set_embeddings_nextn")
        self._get_hidden = extension("llama_get_embeddings_nextn_ith") if hidden and set_hidden else None
        if set_hidden:
            # Masked: only rows with logits get a hidden row, and only they go through the last layer's second half.
            set_hidden(self.handle, self._get_hidden is not None, True)
        self._batch = _Batch(options.rows, options.sequences)
        self._width = int(C.llama_model_n_embd_inp(model.handle))
        self._rows = range(0)  # the rows of the last call that have logits

    @property
    def size(self) -> int:
        """Positions that it may hold: as many as were asked for. llama.cpp rounds up, so it has room for them."""
        return self.options.context

    def decode(
        self,
        tokens: Sequence[int] | NDArray[np.int32] | None = None,
        rows: NDArray[np.float32] | None = None,
        *,
        start: int,
        outputs: int = 1,
        causal: bool = True,
        sequence: int = 0,
    ) -> None:
        """Evaluate token ids [n], embedding rows float32 [n, width], or for a drafter both, at positions from `start`.

        The last `outputs` rows get logits. `causal` False: the rows attend to each other in both directions (in sliding
        layers), so all of them must fit one micro-batch. Raises NativeError; the cache must then be cleared.
        """
        n = len(tokens) if tokens is not None else len(rows) if rows is not None else 0
        if n == 0 or n > self.options.rows or (not causal and n > self.options.micro_batch):
            raise NativeError(
                f"a batch of {n} rows, expected 1 to {self.options.rows} (micro-batch {self.options.micro_batch})"
            )
        if outputs > min(n, self.options.outputs):
            raise NativeError(f"logits of {outputs} rows, expected at most {min(n, self.options.outputs)}")
        if rows is not None and rows.shape != (n, self._width):
            raise NativeError(f"embedding rows {list(rows.shape)}, expected {[n, self._width]}")
        self._call(self._batch.fill(tokens, rows, n, start, outputs, sequence), n, outputs, start, causal)

    def decode_several(self, parts: Sequence[tuple[Sequence[int], int, int]]) -> None:
        """Evaluate token ids of several sequences in one call: (ids, start, sequence) each. All rows get logits.

        The rows of the parts follow each other. Raises NativeError; every sequence must then be cleared.
        """
        n = sum(len(tokens) for tokens, _, _ in parts)
        if n == 0 or n > (most := min(self.options.rows, self.options.outputs)):
            raise NativeError(f"{n} rows with logits, expected 1 to {most}")
        self._call(self._batch.fill_several(parts), n, n, parts[0][1], True)

    def _call(self, batch: Any, n: int, outputs: int, start: int, causal: bool) -> None:
        self._rows = range(0)
        self._abort[0] = b"\0"
        if not causal:
            C.llama_set_causal_attn(self.handle, False)
        try:
            status = C.llama_decode(self.handle, batch)
        finally:
            if not causal:
                C.llama_set_causal_attn(self.handle, True)
        if self._watcher is not None and self._watcher.failure is not None:
            raise self._watcher.failure
        if status != 0:
            reason = {1: "no room is left in the context", 2: "it was interrupted"}.get(status, f"status {status}")
            raise NativeError(f"llama.cpp could not evaluate {n} rows at position {start}: {reason}{self._log.last()}")
        self._rows = range(n - outputs, n)

    def abort(self) -> None:
        """End the call that another thread is in, between two nodes of its graph. That call raises NativeError."""
        self._abort[0] = b"\1"

    def logits(self, row: int = -1) -> NDArray[np.float32]:
        """float32 [vocabulary] of batch row `row` of the last call (-1: the last one). A view."""
        return self._row(C.llama_get_logits_ith, row, self.model.vocab.size)

    def hidden(self, row: int = -1) -> NDArray[np.float32]:
        """float32 [width] of the same row: a model's state after its last norm, a drafter's next input. A view."""
        if self._get_hidden is None:
            raise NativeError("this context keeps no hidden rows")
        return self._row(self._get_hidden, row, self.model.n_embd)

    def _row(self, get: Callable[[Any, int], Any], row: int, width: int) -> NDArray[np.float32]:
        at = row if row >= 0 else self._rows.stop + row
        pointer = get(self.handle, at) if at in self._rows else None
        if not pointer:
            raise NativeError(f"batch row {row} has no logits")
        return np.ctypeslib.as_array(pointer, (width,))

    @property
    def _memory(self) -> Any:
        return C.llama_get_memory(self.handle)

    def remove(self, start: int, sequence: int = 0) -> bool:
        """Forget every position of a sequence from `start` on; False if the cache cannot."""
        return bool(C.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def clear(self) -> None:
        C.llama_memory_clear(self._memory, False)

    def first_position(self, sequence: int = 0) -> int:
        """The smallest position that every layer still holds (sliding layers forget old ones); -1 if empty."""
        return int(C.llama_memory_seq_pos_min(self._memory, sequence))

    def copy(self, source: int, target: int) -> None:
        """Make sequence `target` hold what `source` holds. All of it: a partial copy would end the process."""
        self.remove(-1, target)
        C.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def state(self, sequence: int, *, window: bool) -> bytearray:
        """A sequence's cache, to be restored later: only its sliding layers (`window`), or all of it."""
        flags = C.LLAMA_STATE_SEQ_FLAGS_SWA_ONLY if window else 0
        size = int(C.llama_state_seq_get_size_ext(self.handle, sequence, flags))
        state = bytearray(size)  # filled where it lies: a copy may take gigabytes
        written = int(C.llama_state_seq_get_data_ext(self.handle, _bytes_of(state), size, sequence, flags))
        del state[written:]
        return state

    def restore(self, sequence: int, state: bytes | bytearray, *, window: bool) -> bool:
        """Put a state back; False where the cache has no room for it."""
        flags = C.LLAMA_STATE_SEQ_FLAGS_SWA_ONLY if window else 0
        if not state:
            return False
        return bool(C.llama_state_seq_set_data_ext(self.handle, _bytes_of(state), len(state), sequence, flags))


class _Batch:
    """One `struct llama_batch` and the arrays that it points to, made once."""

    def __init__(self, capacity: int, sequences: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._rows: NDArray[np.float32] | None = None
        self._positions = np.zeros(capacity, np.int32)
        self._ramp = np.arange(capacity, dtype=np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        self._ids = (C.llama_seq_id * sequences)(*range(sequences))  # each row points to one of these
        size, first = ctypes.sizeof(C.llama_seq_id), ctypes.addressof(self._ids)
        self._addresses = np.array([first + size * i for i in range(sequences)], np.uintp)
        self._sequences = np.full(capacity, first, np.uintp)
        self._token_pointer = _pointer(self._tokens, C.llama_token)
        self._batch = C.llama_batch(
            pos=_pointer(self._positions, C.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=self._sequences.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    def fill(
        self,
        tokens: Sequence[int] | NDArray[np.int32] | None,
        rows: NDArray[np.float32] | None,
        n: int,
        start: int,
        outputs: int,
        sequence: int = 0,
    ) -> Any:
        """Fill the struct and return it. It is valid until the next call."""
        batch = self._batch
        batch.n_tokens = n
        batch.token = batch.embd = None
        if tokens is not None:
            self._tokens[:n] = tokens
            batch.token = self._token_pointer
        if rows is not None:
            self._rows = np.ascontiguousarray(rows, np.float32)  # kept alive for the call
            batch.embd = _pointer(self._rows, ctypes.c_float)
        np.add(self._ramp[:n], start, out=self._positions[:n])
        self._sequences[:n] = self._addresses[sequence]
        self._wanted[: n - outputs] = 0
        self._wanted[n - outputs : n] = 1
        return batch

    def fill_several(self, parts: Sequence[tuple[Sequence[int], int, int]]) -> Any:
        """The same for rows of several sequences, all with logits."""
        n = 0
        for tokens, start, sequence in parts:
            rows = slice(n, n + len(tokens))
            self._tokens[rows] = tokens
            self._positions[rows] = range(start, start + len(tokens))
            self._sequences[rows] = self._addresses[sequence]
            n = rows.stop
        self._wanted[:n] = 1
        batch = self._batch
        batch.n_tokens, batch.token, batch.embd = n, self._token_pointer, None
        return batch


def _bytes_of(data: bytes | bytearray) -> Any:
    """A pointer to them, valid for one call."""
    return _pointer(np.frombuffer(data, np.uint8), ctypes.c_uint8)


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
