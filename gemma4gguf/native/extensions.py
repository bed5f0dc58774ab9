"""What drafting needs of llama.cpp beyond its stable interface, looked up name by name.

In: a function's name. Out: the function, or None, so that a library without it still decodes.
"""

from __future__ import annotations

import ctypes
from typing import Any

from .library import C

# From llama-ext.h. Each has three possible names: that of C, and what Itanium's and Microsoft's C++ make of it.
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
    """The function, ready to call; None where the library has none of its names."""
    mangled, arguments, result = _EXTENSIONS[name]
    function = next((f for f in (getattr(C._lib, n, None) for n in (name, *mangled)) if f is not None), None)
    if function is not None:
        function.argtypes, function.restype = arguments, result
    return function


def missing_for_drafts() -> list[str]:
    """What a drafter needs and this llama.cpp does not have, by name."""
    params = {field[0] for field in C.llama_context_params._fields_}
    return [
        *(name for name in _EXTENSIONS if extension(name) is None),
        *(["LLAMA_CONTEXT_TYPE_MTP"] if not hasattr(C, "LLAMA_CONTEXT_TYPE_MTP") else []),
        *({"ctx_type", "ctx_other"} - params),
    ]
