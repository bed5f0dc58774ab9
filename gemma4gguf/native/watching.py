"""Look at what a context computes on the way: the state after every layer.

A `Watcher` is given to a context; arrays come out by layer. A graph is then computed in as many pieces as there are
layers.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .library import C
from .quantizer import base_library

STATE = b"l_out-"  # how llama.cpp names the state after layer i, which the next one reads: "l_out-i"


@cache
def library() -> ctypes.CDLL:
    lib = base_library()
    # const char * ggml_get_name(const struct ggml_tensor * tensor);
    lib.ggml_get_name.argtypes, lib.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
    # size_t ggml_nbytes(const struct ggml_tensor * tensor);
    lib.ggml_nbytes.argtypes, lib.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    # void ggml_backend_tensor_get(const struct ggml_tensor * tensor, void * data, size_t offset, size_t size);
    lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    lib.ggml_backend_tensor_get.restype = None
    return lib


class Watcher:
    """Keeps the state after each layer, of every row that is evaluated until `take`."""

    failure: Exception | None = None

    def __init__(self) -> None:
        self._lib = library()
        self._seen: dict[int, list[NDArray[np.float32]]] = defaultdict(list)
        self.callback = C.ggml_backend_sched_eval_callback(self._look)  # kept alive, because C holds only its address

    def _look(self, tensor: int, ask: bool, _: Any) -> bool:
        """llama.cpp asks before it computes a tensor whether we want it, and calls again when it is there."""
        name: bytes = self._lib.ggml_get_name(tensor)
        if not name.startswith(STATE):
            return False
        if not ask:
            values = np.empty(self._lib.ggml_nbytes(tensor) // 4, np.float32)
            self._lib.ggml_backend_tensor_get(tensor, values.ctypes.data, 0, values.nbytes)
            self._seen[int(name[len(STATE) :])].append(values)
        return True

    def take(self, width: int) -> list[NDArray[np.float32]]:
        """Layer by layer, float32 [rows, width] in the order of evaluation. The last layer computes rows with logits
        only. Forgets them.
        """
        found = [np.concatenate(self._seen[i]).reshape(-1, width) for i in sorted(self._seen)]
        self._seen.clear()
        return found
