"""The weights and the vocabulary of one GGUF, loaded by llama.cpp.

A path comes in, maybe with a byte offset; weights for contexts and a vocabulary go out. A failure in C becomes a
NativeError. This module does not know bundles.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import NativeError
from .handle import Handle
from .library import C, started
from .vocabulary import Vocabulary


class Weights(Handle):
    """The weights and the vocabulary of one GGUF, at byte `offset` of a file. Shared by its contexts."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        offset: int = 0,
        descriptor: int | None = None,
        gpu_layers: int | None = None,
        repack: bool = True,
        vocab_only: bool = False,
        instead: Mapping[str, int | str] | None = None,
        debug: bool = False,
    ) -> None:
        """Load the file. `descriptor`: it is open already; `path` only names it then. `gpu_layers` None: all layers,
        if there is a GPU. `repack`: copy matrices into the order that suits this processor best. `vocab_only`: no
        weights. `instead`: values in place of the file's, by key. Raises NativeError.
        """
        self.lock = threading.Lock()  # held while the vocabulary is read, and while the weights are freed
        log = started(debug)
        params = C.llama_model_default_params()
        params.n_gpu_layers = -1 if gpu_layers is None else gpu_layers
        params.use_extra_bufts = repack
        params.vocab_only = vocab_only
        params.kv_overrides = _overrides(instead or {})  # which keeps the array alive
        if offset or descriptor is not None:
            with _c_file(path, offset, descriptor) as file:
                pointer = C.llama_model_load_from_file_ptr(file, params)
        else:
            pointer = C.llama_model_load_from_file(os.fsencode(path), params)
        if not pointer:
            raise NativeError(f"{path}: llama.cpp cannot load this model{log.last()}")
        super().__init__("model", pointer, C.llama_model_free)
        self.vocab = Vocabulary(self)
        self.n_embd = int(C.llama_model_n_embd_out(pointer))
        self.n_swa = int(C.llama_model_n_swa(pointer))

    def close(self) -> None:
        """Free them, once nobody reads the vocabulary."""
        with self.lock:
            super().close()


def _overrides(values: Mapping[str, int | str]) -> Any:
    """An array of `struct llama_model_kv_override`; one with an empty key is its end."""
    array = (C.llama_model_kv_override * (len(values) + 1))()
    for item, (key, value) in zip(array, values.items(), strict=False):
        item.key = key.encode()
        if isinstance(value, int):
            item.tag, item.value.val_i64 = C.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            item.tag, item.value.val_str = C.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return array


@contextmanager
def _c_file(path: str | os.PathLike[str], offset: int, descriptor: int | None = None) -> Iterator[Any]:
    """A C FILE pointer to `path`, or to the file that is open as `descriptor`, already at `offset`."""
    c = ctypes.CDLL(None) if os.name == "posix" else ctypes.cdll.msvcrt
    # FILE * fopen(const char * path, const char * mode);
    c.fopen.restype, c.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    # FILE * fdopen(int fd, const char * mode);
    fdopen = c.fdopen if os.name == "posix" else c._fdopen
    fdopen.restype, fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
    # int fseeko(FILE * file, off_t offset, int whence);
    seek = c.fseeko if os.name == "posix" else c._fseeki64
    seek.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    # int fclose(FILE * file);
    c.fclose.argtypes = [ctypes.c_void_p]
    file = c.fopen(os.fsencode(path), b"rb") if descriptor is None else fdopen(os.dup(descriptor), b"rb")
    try:
        if not file or seek(file, offset, 0) != 0:
            raise NativeError(f"{path}: cannot be opened at byte {offset:,}")
        yield file
    finally:
        if file:
            c.fclose(file)
