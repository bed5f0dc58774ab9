"""llama.cpp as small handles: a model, its context, a sampler chain.

In: a path and options, then token ids or embedding rows with their positions. Out: logits, hidden rows, sampled ids.
With `quantizer`, the only code that touches llama_cpp or ctypes. Knows nothing of prompts, pictures or bundles; who
calls keeps positions in order. Every handle is a context manager; a failure in C becomes a NativeError.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, NativeError
from .extensions import extension
from .library import C

KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}  # enum ggml_type
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type
_ERROR = 3  # enum ggml_log_level
_CONTINUED = 5

# ── log ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Log:
    """Keeps llama.cpp's lines off the terminal, and the last complaints for our own messages."""

    def __init__(self) -> None:
        self.echo = False
        self.errors: deque[str] = deque(maxlen=4)
        self._level = 0
        self._callback = C.llama_log_callback(self._write)  # kept: C holds only its address
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _write(self, level: int, text: bytes, _: Any) -> None:
        level = self._level if level == _CONTINUED else level
        self._level = level
        if self.echo:
            sys.stderr.write(text.decode("utf-8", "replace"))
        elif level >= _ERROR and text.strip():
            self.errors.append(text.decode("utf-8", "replace").strip())

    def last(self) -> str:
        text = "; ".join(self.errors)
        self.errors.clear()
        return f" ({text})" if text else ""


_log: _Log | None = None


def _library(debug: bool = False) -> _Log:
    """Start llama.cpp once; `debug` lets its log lines through to standard error."""
    global _log
    if _log is None:
        _log = _Log()
        C.llama_backend_init()
    _log.echo = _log.echo or debug
    return _log


def system_info() -> str:
    """What llama.cpp says of this machine: instruction sets and devices."""
    _library()
    return str(C.llama_print_system_info().decode())


def version() -> str:
    return str(C.llama_version().decode())


def supports_gpu() -> bool:
    _library()
    return bool(C.llama_supports_gpu_offload())


def default_threads() -> int:
    """Physical cores that this process may use: a second thread on a core slows decoding down."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows
        return max(1, os.cpu_count() or 1)
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(topology.format(cpu)).read_text() for cpu in allowed}) or 1
    except OSError:
        return len(allowed)


# ── model ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Model:
    """The weights and the vocabulary of one GGUF, at byte `offset` of a file. Shared by its contexts."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        offset: int = 0,
        gpu_layers: int | None = None,
        vocab_only: bool = False,
        debug: bool = False,
    ) -> None:
        """Load it. `gpu_layers` None: all of them where a GPU can be used. `vocab_only`: no weights. Raises
        NativeError.
        """
        self._handle: Any = None
        self.lock = threading.Lock()  # held while the vocabulary is read, and while all is freed
        log = _library(debug)
        params = C.llama_model_default_params()
        params.n_gpu_layers = -1 if gpu_layers is None else gpu_layers
        params.vocab_only = vocab_only
        if offset:
            with _c_file(path, offset) as file:
                self._handle = C.llama_model_load_from_file_ptr(file, params)
        else:
            self._handle = C.llama_model_load_from_file(os.fsencode(path), params)
        if not self._handle:
            raise NativeError(f"{path}: llama.cpp cannot load this model{log.last()}")
        self.vocab = Vocabulary(self)
        self.n_embd = int(C.llama_model_n_embd_out(self._handle))
        self.n_swa = int(C.llama_model_n_swa(self._handle))

    @property
    def handle(self) -> Any:
        if not self._handle:
            raise NativeError("the model is closed")
        return self._handle

    def close(self) -> None:
        with self.lock:
            handle, self._handle = self._handle, None
            if handle:
                C.llama_model_free(handle)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _c_file:  # noqa: N801 - reads as a function
    """A C FILE pointer to `path`, already at `offset`."""

    def __init__(self, path: str | os.PathLike[str], offset: int) -> None:
        self._c = ctypes.CDLL(None) if os.name == "posix" else ctypes.cdll.msvcrt
        # FILE * fopen(const char * path, const char * mode);
        self._c.fopen.restype = ctypes.c_void_p
        self._c.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        # int fseeko(FILE * file, off_t offset, int whence);  (_fseeki64 on Windows)
        self._seek = self._c.fseeko if os.name == "posix" else self._c._fseeki64
        self._seek.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
        # int fclose(FILE * file);
        self._c.fclose.argtypes = [ctypes.c_void_p]
        self._path, self._offset, self._file = path, offset, None

    def __enter__(self) -> Any:
        self._file = self._c.fopen(os.fsencode(self._path), b"rb")
        if not self._file or self._seek(self._file, self._offset, 0) != 0:
            raise NativeError(f"{self._path}: cannot be opened at byte {self._offset:,}")
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._c.fclose(self._file)


class Vocabulary:
    """Token ids and bytes, in both directions. Any thread may ask, as long as the model is open."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.size = int(C.llama_vocab_n_tokens(self._handle))
        self.bos = int(C.llama_vocab_bos(self._handle))

    @property
    def _handle(self) -> Any:
        return C.llama_model_get_vocab(self._model.handle)

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Ids of `text`, without BOS. `special`: text such as `<|turn>` becomes its own token, else plain text."""
        raw = text.encode("utf-8", "surrogatepass")
        room = len(raw) + 8
        out = (C.llama_token * room)()
        # int32_t llama_tokenize(vocab, text, text_len, tokens, n_tokens_max, add_special, parse_special);
        with self._model.lock:
            n = C.llama_tokenize(self._handle, raw, len(raw), out, room, False, special)
        if n < 0:
            raise NativeError(f"llama.cpp cannot tokenise a text of {len(raw):,} bytes")
        return list(out[:n])

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes a token stands for; nothing for a control token unless `special`."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            # int32_t llama_token_to_piece(vocab, token, buf, length, lstrip, special);
            with self._model.lock:
                n = C.llama_token_to_piece(self._handle, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def text(self, token: int) -> str:
        """A token's entry in the vocabulary, as stored."""
        with self._model.lock:
            return str((C.llama_vocab_get_text(self._handle, token) or b"").decode("utf-8", "replace"))

    def suppressed(self) -> list[int]:
        """Ids that the model must never emit, as its file lists them."""
        count = ctypes.c_int32(0)
        with self._model.lock:
            pointer = C.llama_vocab_get_suppress_tokens(self._handle, ctypes.byref(count))
            return [int(pointer[i]) for i in range(count.value)]


# ── context ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ContextOptions:
    """How much a context holds and how it computes.

    `context` positions; `batch` rows at most in one call, computed `micro_batch` at a time; `outputs` rows with
    logits at most in one call; `threads` None: one per physical core; `kv_type` and `flash_attention`: keys of
    KV_TYPES and FLASH_ATTENTION.
    """

    context: int
    batch: int = 512
    micro_batch: int = 512
    outputs: int = 16
    threads: int | None = None
    kv_type: str = "f16"
    flash_attention: str = "auto"


class Context:
    """A KV cache and what computes on it: one sequence, positions 0, 1, 2 and on.

    `decode` evaluates rows; `logits` and `hidden` read what the last call computed, as views that the next call
    overwrites.
    """

    def __init__(
        self, model: Model, options: ContextOptions, *, hidden: bool = False, target: Context | None = None
    ) -> None:
        """Make it. `hidden`: keep hidden rows too. `target`: the context whose cache a drafter reads, and whose
        cache is EMPTIED here; close the drafter's context first. Raises NativeError.
        """
        self._handle: Any = None
        self._log = _library()
        if options.kv_type in ("q8_0", "q4_0") and options.flash_attention == "off":
            raise InputError(f"a {options.kv_type} cache needs flash attention; leave it on auto or choose f16")
        params = C.llama_context_default_params()
        threads = options.threads or default_threads()
        params.n_ctx = max(options.context, options.batch)  # llama.cpp would shrink the batch to the context
        params.n_batch = options.batch
        params.n_ubatch = options.micro_batch
        params.n_outputs_max = options.outputs
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = KV_TYPES[options.kv_type]
        params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
        params.no_perf = True
        params.swa_full = False  # sliding layers hold their window and a batch, not the whole context
        if target is not None:
            params.ctx_type = C.LLAMA_CONTEXT_TYPE_MTP
            params.ctx_other = target.handle
        self.model, self.options, self.threads = model, options, threads
        self._handle = C.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise NativeError(
                f"llama.cpp cannot make a context of {options.context:,} positions{self._log.last()}; try a smaller one"
            )
        set_hidden = extension("llama_set_embeddings_nextn")
        self._get_hidden = extension("llama_get_embeddings_nextn_ith") if hidden and set_hidden else None
        if set_hidden:
            # Masked: only rows with logits get a hidden row, and only they go through the last layer's second half.
            set_hidden(self._handle, self._get_hidden is not None, True)
        self._batch = _Batch(options.batch)
        self._width = int(C.llama_model_n_embd_inp(model.handle))
        self._rows = range(0)  # of the last call, those with logits

    @property
    def handle(self) -> Any:
        if not self._handle:
            raise NativeError("the context is closed")
        return self._handle

    @property
    def size(self) -> int:
        """Positions that it may hold: what was asked for (llama.cpp rounds up, so there is never less)."""
        return self.options.context

    def decode(
        self,
        tokens: Sequence[int] | NDArray[np.int32] | None = None,
        rows: NDArray[np.float32] | None = None,
        *,
        start: int,
        outputs: int = 1,
        causal: bool = True,
    ) -> None:
        """Evaluate token ids [n], embedding rows float32 [n, width], or (a drafter) both, at `start`, `start`+1 and on.

        The last `outputs` rows get logits. `causal` False: the rows see each other both ways (sliding layers), so
        all of them must fit one micro-batch. Raises NativeError; the cache is then as good as lost: `clear` it.
        """
        n = len(tokens) if tokens is not None else len(rows) if rows is not None else 0
        if n == 0 or n > self.options.batch or (not causal and n > self.options.micro_batch):
            raise NativeError(
                f"a batch of {n} rows, expected 1 to {self.options.batch} (micro-batch {self.options.micro_batch})"
            )
        if outputs > min(n, self.options.outputs):
            raise NativeError(f"logits of {outputs} rows, expected at most {min(n, self.options.outputs)}")
        if rows is not None and rows.shape != (n, self._width):
            raise NativeError(f"embedding rows {list(rows.shape)}, expected {[n, self._width]}")
        self._rows = range(0)
        batch = self._batch.fill(tokens, rows, n, start, outputs)
        if not causal:
            C.llama_set_causal_attn(self.handle, False)
        try:
            status = C.llama_decode(self.handle, batch)
        finally:
            if not causal:
                C.llama_set_causal_attn(self.handle, True)
        if status != 0:
            reason = "no room is left in the context" if status == 1 else f"status {status}"
            raise NativeError(f"llama.cpp could not evaluate {n} rows at position {start}: {reason}{self._log.last()}")
        self._rows = range(n - outputs, n)

    def logits(self, row: int = -1) -> NDArray[np.float32]:
        """float32 [vocabulary] of batch row `row` of the last call (-1: the last one). A view."""
        return self._row(C.llama_get_logits_ith, row, self.model.vocab.size)

    def hidden(self, row: int = -1) -> NDArray[np.float32]:
        """float32 [width] of the same row: after a model's last norm; a drafter's, for its next step. A view."""
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

    def remove(self, start: int) -> bool:
        """Forget every position from `start` on; False where the cache cannot."""
        return bool(C.llama_memory_seq_rm(self._memory, 0, start, -1))

    def clear(self) -> None:
        C.llama_memory_clear(self._memory, False)

    def first_position(self) -> int:
        """The smallest position that every layer still holds (sliding layers forget old ones); -1 when empty."""
        return int(C.llama_memory_seq_pos_min(self._memory, 0))

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle:
            C.llama_free(handle)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Batch:
    """One `struct llama_batch` and the arrays it points to, made once: all rows belong to sequence 0."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._rows: NDArray[np.float32] | None = None
        self._positions = np.zeros(capacity, np.int32)
        self._ramp = np.arange(capacity, dtype=np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        sequence = (C.llama_seq_id * 1)(0)
        self._sequences = (ctypes.POINTER(C.llama_seq_id) * capacity)(*[sequence] * capacity)
        self._token_pointer = _pointer(self._tokens, C.llama_token)
        self._batch = C.llama_batch(
            pos=_pointer(self._positions, C.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=ctypes.cast(self._sequences, ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    def fill(
        self,
        tokens: Sequence[int] | NDArray[np.int32] | None,
        rows: NDArray[np.float32] | None,
        n: int,
        start: int,
        outputs: int,
    ) -> Any:
        """The struct; it stands until the next call."""
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
        self._wanted[: n - outputs] = 0
        self._wanted[n - outputs : n] = 1
        return batch


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. `temperature` 0: the likeliest. `top_k` 0, `top_p` 1, `min_p` 0: off."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int


GREEDY = 1e-6  # temperatures below overflow float32 and mean the likeliest token anyway


class Sampler:
    """One id out of one row of logits, by llama.cpp's own chain; greedy when the temperature is 0 or next to it.

    The order is transformers' (temperature, top-k, top-p, min-p); top-k goes first because it commutes with
    temperature and shortens the rest. `suppressed` ids are never chosen, in any mode.
    """

    def __init__(self, how: Sampling, suppressed: Iterable[int]) -> None:
        self._suppressed = np.asarray(sorted(set(suppressed)), np.int64)
        self._chain: Any = None
        if how.temperature < GREEDY:
            return
        _library()
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        steps: list[tuple[bool, Callable[[], Any]]] = [
            (how.top_k > 0, lambda: C.llama_sampler_init_top_k(how.top_k)),
            (how.temperature != 1, lambda: C.llama_sampler_init_temp(how.temperature)),
            (how.top_p < 1, lambda: C.llama_sampler_init_top_p(how.top_p, 1)),
            (how.min_p > 0, lambda: C.llama_sampler_init_min_p(how.min_p, 1)),
            (True, lambda: C.llama_sampler_init_dist(how.seed)),
        ]
        for wanted, make in steps:
            if wanted:
                C.llama_sampler_chain_add(self._chain, make())

    def sample(self, context: Context, row: int = -1) -> int:
        """Choose from batch row `row` of the context's last call; the chain's random state moves on by one."""
        logits = context.logits(row)
        logits[self._suppressed] = -np.inf
        best = int(logits.argmax())  # a NaN, where there is one
        if not np.isfinite(logits[best]):
            raise NativeError("the model computed no finite logit; the file may be damaged (`gemma4gguf verify`)")
        if self._chain is None:
            return best
        return int(C.llama_sampler_sample(self._chain, context.handle, row))

    def close(self) -> None:
        chain, self._chain = self._chain, None
        if chain:
            C.llama_sampler_free(chain)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
