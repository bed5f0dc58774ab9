"""llama.cpp's bindings as `C`: started once, with its log kept off the terminal.

Nothing comes in; the bindings go out, and facts about the library and this machine. Importing this module raises
NativeError if llama-cpp-python does not load.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from typing import Any

from ..errors import NativeError

try:
    import llama_cpp.llama_cpp as C
except (ImportError, OSError, RuntimeError) as error:  # not installed, built for another machine, a library missing
    reason = " ".join(str(error).split())
    raise NativeError(f"llama.cpp does not load ({reason}); `gemma4gguf doctor` looks at the installation") from error

__all__ = ["C", "gpu_memory", "gpus", "repacked_types", "started", "supports_gpu", "system_info", "version"]

_ERROR, _CONTINUED = 4, 5  # enum ggml_log_level; a warning is 3
_GPU_TYPES = (1, 2)  # enum ggml_backend_dev_type: with memory of its own, with the processor's


class _Log:
    """Keeps llama.cpp's log off the terminal, and its last errors for our messages."""

    def __init__(self) -> None:
        self.echo = False
        self.errors: deque[str] = deque(maxlen=4)
        self._level = 0
        self._callback = C.llama_log_callback(self._write)  # kept alive, because C holds only its address
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _write(self, level: int, text: bytes, _: Any) -> None:
        level = self._level if level == _CONTINUED else level
        self._level = level
        if self.echo:
            sys.stderr.write(text.decode("utf-8", "replace"))
        elif level >= _ERROR and text.strip():
            self.errors.append(text.decode("utf-8", "replace").strip())

    def last(self) -> str:
        """The last errors in parentheses, with a space before; empty if there are none. Forgets them."""
        text = "; ".join(self.errors)
        self.errors.clear()
        return f" ({text})" if text else ""


_log: _Log | None = None


def started(debug: bool = False) -> _Log:
    """Start llama.cpp once. `debug` lets its log through to standard error."""
    global _log
    if _log is None:
        _log = _Log()
        C.llama_backend_init()
    _log.echo = _log.echo or debug
    return _log


def system_info() -> str:
    """llama.cpp's description of this machine: instruction sets and devices."""
    started()
    return str(C.llama_print_system_info().decode())


# Types whose matrices llama.cpp copies into an order that its kernels for a processor like: (what the processor must
# have, types). Source: ggml-cpu/repack.cpp (ggml_repack_get_optimal_repack_type), amx/common.h (qtype_has_amx_kernels).
_REPACKED = (
    ({"AVX2"}, {"Q4_0", "Q4_K", "IQ4_NL"}),
    ({"AVX512"}, {"Q2_K"}),
    ({"AMX_INT8"}, {"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}),
    ({"NEON", "DOTPROD"}, {"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"}),
    ({"NEON", "MATMUL_INT8"}, {"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}),
)


def repacked_types(info: str | None = None) -> frozenset[str]:
    """Types of which llama.cpp makes a private copy on this processor. `info`: what `system_info` says of another."""
    parts = (system_info() if info is None else info).replace("CPU :", "").split("|")
    has = {name.strip() for name, _, value in (part.partition("=") for part in parts) if value.strip() not in ("", "0")}
    types = [kinds for wanted, kinds in _REPACKED if wanted <= has]
    return frozenset().union(*types) if "REPACK" in has else frozenset()


def version() -> str:
    return str(C.llama_version().decode())


def supports_gpu() -> bool:
    started()
    return bool(C.llama_supports_gpu_offload())


def gpus() -> list[str]:
    """The names of the GPUs that layers can be computed on. Empty where there are none, or the library cannot say."""
    name = _of_device("description", [ctypes.c_void_p], ctypes.c_char_p)
    return [name(device).decode("utf-8", "replace") for kind in _GPU_TYPES for device in _devices(kind)] if name else []


def gpu_memory() -> list[int]:
    """Bytes that are free on each GPU that llama.cpp takes: those with memory of their own, if there are any. Empty
    where there are none, or where one of them does not tell.
    """
    size = ctypes.c_size_t
    ask = _of_device("memory", [ctypes.c_void_p, ctypes.POINTER(size), ctypes.POINTER(size)], None)
    found = next(filter(None, map(_devices, _GPU_TYPES)), []) if ask else []
    free = []
    for device in found:
        left, whole = size(), size()
        ask(device, ctypes.byref(left), ctypes.byref(whole))
        free.append(left.value)
    return free if all(free) else []


def _devices(kind: int) -> list[int]:
    """The addresses of all devices of a kind."""
    count = _of_device("count", [], ctypes.c_size_t)
    get = _of_device("get", [ctypes.c_size_t], ctypes.c_void_p)
    kind_of = _of_device("type", [ctypes.c_void_p], ctypes.c_int)
    if not (count and get and kind_of):
        return []
    return [device for device in map(get, range(count())) if kind_of(device) == kind]


def _of_device(what: str, takes: list[Any], gives: Any) -> Any:
    """A function of ggml's devices, or None where the library has none of that name."""
    started()
    function = getattr(C._lib, f"ggml_backend_dev_{what}", None)
    if function is not None:
        function.argtypes, function.restype = takes, gives
    return function
