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
    from .conversation import Conversation as Conversation
    from .errors import BusyError as BusyError
    from .errors import ContextError as ContextError
    from .errors import ConversionError as ConversionError
    from .errors import FormatError as FormatError
    from .errors import Gemma4Error as Gemma4Error
    from .errors import InputError as InputError
    from .errors import MemoryLimitError as MemoryLimitError
    from .errors import MissingPartError as MissingPartError
    from .errors import NativeError as NativeError
    from .limits import Limits as Limits
    from .limits import limited as limited
    from .listening import Ear as Ear
    from .media.audio import frame as frame
    from .media.embedder import Embedder as Embedder
    from .media.image import Patches as Patches
    from .media.image import patchify as patchify
    from .media.pdf import pages as pages
    from .media.video import Video as Video
    from .media.video import sample as sample
    from .model import Gemma4 as Gemma4
    from .records import Chunk as Chunk
    from .records import DraftCounts as DraftCounts
    from .records import Evaluation as Evaluation
    from .records import Logprob as Logprob
    from .records import Message as Message
    from .records import Result as Result
    from .records import Timings as Timings
    from .records import Tokens as Tokens
    from .records import ToolCall as ToolCall
    from .runtime.options import GenerateOptions as GenerateOptions
    from .runtime.options import Options as Options
    from .tools.export import export as export
    from .tools.pack import pack as pack
    from .transcription import Segment as Segment

_HOME = {
    "Bundle": ".bundle.reading",
    "BusyError": ".errors",
    "Chunk": ".records",
    "ContextError": ".errors",
    "Conversation": ".conversation",
    "ConversionError": ".errors",
    "DraftCounts": ".records",
    "Ear": ".listening",
    "Embedder": ".media.embedder",
    "Evaluation": ".records",
    "FormatError": ".errors",
    "Gemma4": ".model",
    "Gemma4Error": ".errors",
    "GenerateOptions": ".runtime.options",
    "InputError": ".errors",
    "Logprob": ".records",
    "Limits": ".limits",
    "MemoryLimitError": ".errors",
    "Message": ".records",
    "MissingPartError": ".errors",
    "NativeError": ".errors",
    "Options": ".runtime.options",
    "Patches": ".media.image",
    "Result": ".records",
    "Segment": ".transcription",
    "Timings": ".records",
    "Tokens": ".records",
    "ToolCall": ".records",
    "Video": ".media.video",
    "convert": "converters",
    "export": ".tools.export",
    "frame": ".media.audio",
    "limited": ".limits",
    "pack": ".tools.pack",
    "pages": ".media.pdf",
    "patchify": ".media.image",
    "render": ".chat.rendering",
    "sample": ".media.video",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
