"""gemma4gguf: Gemma 4 12B in one GGUF file. It reads, sees, hears and drafts ahead, on llama.cpp.

    from gemma4gguf import Gemma4, convert

    convert("google/gemma-4-12B-it", "gemma.gguf", quant="Q4_K_M")
    with Gemma4("gemma.gguf") as model:
        print(model.generate("What is in this picture?", images=["cat.jpg"]).text)

Names load what they need when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from converters import convert as convert

    from .bundle.reading import Bundle as Bundle
    from .chat.rendering import render as render
    from .chat.stream import Chunk as Chunk
    from .errors import Gemma4Error as Gemma4Error
    from .media.audio import frame as frame
    from .media.embedder import Embedder as Embedder
    from .media.image import Patches as Patches
    from .media.image import patchify as patchify
    from .model import Evaluation as Evaluation
    from .model import Gemma4 as Gemma4
    from .runtime.result import Result as Result


_HOME = {
    "Bundle": ".bundle.reading",
    "Chunk": ".chat.stream",
    "Embedder": ".media.embedder",
    "Evaluation": ".model",
    "Gemma4": ".model",
    "Gemma4Error": ".errors",
    "Patches": ".media.image",
    "Result": ".runtime.result",
    "convert": "converters",
    "frame": ".media.audio",
    "patchify": ".media.image",
    "render": ".chat.rendering",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
