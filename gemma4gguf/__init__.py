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

if TYPE_CHECKING:
    from converters import convert as convert

    from .answer import Result as Result
    from .audio import frame as frame
    from .bundle import Bundle as Bundle
    from .chat import render as render
    from .embedder import Embedder as Embedder
    from .errors import Gemma4Error as Gemma4Error
    from .image import Patches as Patches
    from .image import patchify as patchify
    from .model import Evaluation as Evaluation
    from .model import Gemma4 as Gemma4
    from .stream import Chunk as Chunk

__version__ = "0.1.0"

_HOME = {
    "Bundle": ".bundle",
    "Chunk": ".stream",
    "Embedder": ".embedder",
    "Evaluation": ".model",
    "Gemma4": ".model",
    "Gemma4Error": ".errors",
    "Patches": ".image",
    "Result": ".answer",
    "convert": "converters",
    "frame": ".audio",
    "patchify": ".image",
    "render": ".chat",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
