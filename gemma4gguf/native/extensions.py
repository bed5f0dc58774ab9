"""Functions that drafting needs beyond llama.cpp's stable interface.

A function's name comes in; the function goes out, or None if this library lacks it. Decoding needs none of them.
"""

from __future__ import annotations

import ctypes
from typing import Any

from .library import C

# From llama-ext.h. Each has one of three names: the C name, or the C++ name as Itanium's or Microsoft's ABI mangles it.
_EXTENSIONS: dict[str, tuple[list[str], list[Any], Any]] = {
    # void llama_set_embeddings_nextn(struct llama_context * ctx, bool value, bool masked);
    "llama_set_embeddings_nextn": (
        [
            "_Z26llama_set_embeddings_nextnP13llama_contextbb",
            "?llama_set_embeddings_nextn@@YAXPEAUllama_context@@_N1@Z",
        ],
        [C.llama_context_p_ctypes, ctypes.c_bool, ctypes.c_bool],
        None,
    ),
    # float * llama_get_embeddings_nextn_ith(struct llama_context * ctx, int32_t i);
    "llama_get_embeddings_nextn_ith": (
        [
            "_Z30llama_get_embeddings_nextn_ithP13llama_contexti",
            "?llama_get_embeddings_nextn_ith@@YAPEAMPEAUllama_context@@H@Z",
        ],
        [C.llama_context_p_ctypes, ctypes.c_int32],
        ctypes.POINTER(ctypes.c_float),
    ),
}


def extension(name: str) -> Any:
    """The function, ready to call; None if the library has none of its names."""
    mangled, arguments, result = _EXTENSIONS[name]
    function = next((f for f in (getattr(C._lib, n, None) for n in (name, *mangled)) if f is not None), None)
    if function is not None:
        function.argtypes, function.restype = arguments, result
    return function


def missing_for_drafts() -> list[str]:
    """The names that a drafter needs and this llama.cpp lacks."""
    params = {field[0] for field in C.llama_context_params._fields_}
    return [
        *(name for name in _EXTENSIONS if extension(name) is None),
        *(["LLAMA_CONTEXT_TYPE_MTP"] if not hasattr(C, "LLAMA_CONTEXT_TYPE_MTP") else []),
        *({"ctx_type", "ctx_other"} - params),
    ]
