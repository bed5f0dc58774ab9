"""Quantise float32 rows with ggml's own quantiser, so that the bytes equal llama.cpp's.

Float32 rows and a type come in; stored bytes go out. The calls release Python's lock, so threads run in parallel. Only
libggml-base is loaded; it is found beside llama-cpp-python without importing that. This module does not know models or
files.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from ..errors import NativeError

FloatArray = NDArray[np.float32]
LIBRARY = {"darwin": ("libggml-base.dylib", "libggml-base.so"), "win32": ("ggml-base.dll", "libggml-base.dll")}


def library_path() -> Path:
    """The path of libggml-base. Raises NativeError if llama-cpp-python is not installed or has no such library."""
    folder = os.environ.get("LLAMA_CPP_LIB_PATH")  # llama-cpp-python's own way to name another build
    if folder is None:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or not spec.submodule_search_locations:
            raise NativeError("llama-cpp-python is not installed; run `pip install llama-cpp-python`")
        folder = str(Path(next(iter(spec.submodule_search_locations))) / "lib")
    names = LIBRARY.get(sys.platform, ("libggml-base.so",))
    found = next((path for name in names if (path := Path(folder) / name).is_file()), None)
    if found is None:
        raise NativeError(f"{folder}: has no {names[0]}; install llama-cpp-python again")
    return found


@cache
def base_library() -> ctypes.CDLL:
    """libggml-base. Raises NativeError."""
    path = library_path()
    if sys.platform == "win32":
        os.add_dll_directory(str(path.parent))
    try:
        lib = ctypes.CDLL(str(path))
        # void ggml_quantize_free(void);
        lib.ggml_quantize_free.argtypes, lib.ggml_quantize_free.restype = [], None
        # bool ggml_quantize_requires_imatrix(enum ggml_type type);
        lib.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
        lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        # size_t ggml_quantize_chunk(enum ggml_type type, const float * src, void * dst, int64_t start, int64_t nrows,
        #                            int64_t n_per_row, const float * imatrix);
        lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3]
        lib.ggml_quantize_chunk.argtypes += [ctypes.c_void_p]
        lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        # bool ggml_validate_row_data(enum ggml_type type, const void * data, size_t nbytes);
        lib.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        lib.ggml_validate_row_data.restype = ctypes.c_bool
    except (OSError, AttributeError) as error:
        raise NativeError(f"{path}: cannot be used ({error}); install llama-cpp-python again") from None
    return lib


@contextmanager
def quantizer() -> Iterator[None]:
    """At the end of the block, free the tables that some types build at first use."""
    lib = base_library()
    try:
        yield
    finally:
        lib.ggml_quantize_free()


def requires_importance(kind: GGMLQuantizationType) -> bool:
    """Whether the C library refuses to quantise to this type without importance values."""
    return bool(base_library().ggml_quantize_requires_imatrix(int(kind)))


def row_bytes(kind: GGMLQuantizationType, width: int) -> int:
    """Stored bytes of a row of `width` values. Raises ValueError unless they fill whole blocks of the type."""
    block, size = GGML_QUANT_SIZES[kind]
    if width % block:
        raise ValueError(f"rows of {width} values do not divide into blocks of {block} ({kind.name})")
    return int(width // block * size)


def quantize_rows(
    rows: FloatArray, kind: GGMLQuantizationType, importance: FloatArray | None = None
) -> NDArray[np.uint8]:
    """float32 [n, width] to stored bytes, uint8 [n, row_bytes], as llama_model_quantize writes them.

    `importance` is float32 [width], one weight per column, or None. Raises NativeError if the result is not valid data
    of that type, because a value is too large for it or not finite.
    """
    count, width = rows.shape
    out = np.empty((count, row_bytes(kind, width)), np.uint8)
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise ValueError("rows must be contiguous float32")
    weights = None
    if importance is not None:
        if importance.shape != (width,) or importance.dtype != np.float32 or not importance.flags.c_contiguous:
            raise ValueError(f"importance must be contiguous float32 [{width}]")
        weights = importance.ctypes.data
    lib = base_library()
    written = lib.ggml_quantize_chunk(int(kind), rows.ctypes.data, out.ctypes.data, 0, count, width, weights)
    if written != out.nbytes or not lib.ggml_validate_row_data(int(kind), out.ctypes.data, out.nbytes):
        raise NativeError(f"values cannot be stored as {kind.name}: not finite, or too large for it")
    return out


def is_valid(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> bool:
    """Whether stored bytes are well-formed data of a quantised type: every scale a finite number."""
    raw = np.ascontiguousarray(raw)
    return bool(base_library().ggml_validate_row_data(int(kind), raw.ctypes.data, raw.nbytes))
