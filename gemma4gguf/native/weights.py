"""The weights and the vocabulary of one GGUF, loaded by llama.cpp.

A path comes in, maybe with a byte offset; weights for contexts and a vocabulary go out. A failure in C becomes a
NativeError. This module does not know bundles.
"""

from __future__ import annotations

import ctypes
import os
import threading
from types import TracebackType
from typing import Any

from ..errors import NativeError
from .library import C, started
from .vocabulary import Vocabulary


class Weights:
    """The weights and the vocabulary of one GGUF, at byte `offset` of a file. Shared by its contexts."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        offset: int = 0,
        descriptor: int | None = None,
        gpu_layers: int | None = None,
        vocab_only: bool = False,
        debug: bool = False,
    ) -> None:
        """Load the file. `descriptor`: it is open already; `path` only names it then. `gpu_layers` None: all layers,
        if there is a GPU. `vocab_only`: no weights. Raises NativeError.
        """
        self._handle: Any = None
        self.lock = threading.Lock()  # held while the vocabulary is read, and while the weights are freed
        log = started(debug)
        params = C.llama_model_default_params()
        params.n_gpu_layers = -1 if gpu_layers is None else gpu_layers
        params.vocab_only = vocab_only
        if offset or descriptor is not None:
            with _c_file(path, offset, descriptor) as file:
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

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _c_file:  # noqa: N801 - reads as a function
    """A C FILE pointer to `path`, or to the file that is open as `descriptor`, already at `offset`."""

    def __init__(self, path: str | os.PathLike[str], offset: int, descriptor: int | None = None) -> None:
        posix = os.name == "posix"
        self._c = ctypes.CDLL(None) if posix else ctypes.cdll.msvcrt
        # FILE * fopen(const char * path, const char * mode);
        self._c.fopen.restype = ctypes.c_void_p
        self._c.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        # FILE * fdopen(int fd, const char * mode);
        self._fdopen = self._c.fdopen if posix else self._c._fdopen
        self._fdopen.restype = ctypes.c_void_p
        self._fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
        # int fseeko(FILE * file, off_t offset, int whence);  (_fseeki64 on Windows)
        self._seek = self._c.fseeko if posix else self._c._fseeki64
        self._seek.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
        # int fclose(FILE * file);
        self._c.fclose.argtypes = [ctypes.c_void_p]
        self._path, self._offset, self._descriptor, self._file = path, offset, descriptor, None

    def __enter__(self) -> Any:
        if self._descriptor is None:
            self._file = self._c.fopen(os.fsencode(self._path), b"rb")
        else:
            self._file = self._fdopen(os.dup(self._descriptor), b"rb")
        if not self._file or self._seek(self._file, self._offset, 0) != 0:
            self.__exit__()
            raise NativeError(f"{self._path}: cannot be opened at byte {self._offset:,}")
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._c.fclose(self._file)
            self._file = None
