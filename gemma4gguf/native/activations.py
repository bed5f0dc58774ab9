"""Listen to llama.cpp while it computes: the squares of what is multiplied with each matrix.

An `Activations` goes into a context. After each call its sums hold, for each matrix of the layers, the squares of the
activations by column, summed over rows. This module does not know what the rows are.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NativeError
from .library import C
from .watching import library

_F32 = 0  # enum ggml_type


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, up to the name."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


@cache
def _product() -> int:
    """The number of a matrix product in this library's enum ggml_op."""
    lib = library()
    # const char * ggml_op_name(enum ggml_op op);
    lib.ggml_op_name.argtypes, lib.ggml_op_name.restype = [ctypes.c_int], ctypes.c_char_p
    return next(n for n in range(200) if lib.ggml_op_name(n) == b"MUL_MAT")


def _plain(name: bytes) -> str:
    """A tensor's name; of a copy on another device, `CPU#name#0`, that of the original."""
    parts = name.split(b"#")
    return parts[len(parts) > 1].decode("utf-8", "replace")


class Activations:
    """Sums of squares: `sums[name]` float64 [columns], over `rows[name]` rows, each times `weight` as it was then."""

    def __init__(self) -> None:
        self.weight = 1.0
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.rows: dict[str, float] = {}
        self.failure: Exception | None = None
        self.callback = C.ggml_backend_sched_eval_callback(self._seen)  # kept alive, because C holds only its address
        self._lib, self._product = library(), _product()

    def _seen(self, node: int, ask: bool, _: Any) -> bool:
        """C asks before each node whether we want it, and calls again when it is computed. False then ends the call."""
        tensor = ctypes.cast(node, ctypes.POINTER(_Tensor)).contents
        name = _plain(tensor.src[0].contents.name) if tensor.op == self._product else ""
        if not name.startswith("blk."):
            return not ask
        if not ask:
            try:
                self._add(name, tensor.src[1])
            except Exception as error:  # nothing may be raised through C
                self.failure = error
                return False
        return True

    def _add(self, name: str, pointer: Any) -> None:
        given = pointer.contents
        columns, rows = int(given.ne[0]), int(np.prod(given.ne[1:4]))
        if given.type != _F32 or given.nb[0] != 4 or given.nb[1] != 4 * columns or not rows:
            raise NativeError(f"{name}: its activations are not float32 rows one after another")
        values = np.empty((rows, columns), np.float32)
        self._lib.ggml_backend_tensor_get(pointer, values.ctypes.data, 0, values.nbytes)
        squares = self.weight * np.einsum("rc,rc->c", values, values, dtype=np.float64)
        if not np.isfinite(squares).all():
            raise NativeError(f"{name}: its activations are not finite")
        self.sums[name] = self.sums.get(name, 0) + squares
        self.rows[name] = self.rows.get(name, 0) + self.weight * rows
