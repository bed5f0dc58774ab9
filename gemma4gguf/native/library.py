"""llama-cpp-python's bindings, as `C`. Raises NativeError where they do not load."""

from __future__ import annotations

from ..errors import NativeError

try:
    import llama_cpp.llama_cpp as C
except (ImportError, OSError, RuntimeError) as error:  # not installed, built for another machine, a library missing
    reason = " ".join(str(error).split())
    raise NativeError(f"llama.cpp does not load ({reason}); `gemma4gguf doctor` looks at the installation") from error

__all__ = ["C"]
