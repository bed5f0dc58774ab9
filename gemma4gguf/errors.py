"""Every error that gemma4gguf raises on purpose, one class for each cause.

A message is one line: what is wrong, where, what was expected and found, and what to do next.
The library raises these and names parameters; only the command line prints them, names options, and chooses an exit
status.
"""

from __future__ import annotations

CLOSED = "this model is closed; open it again"  # told by each owner of something that closing ends


class Gemma4Error(Exception):
    """Base class of all the others: an expected failure, told in one line."""


class InputError(Gemma4Error, ValueError):
    """An argument cannot be used: an option, a message, a picture, a clip. Change it and call again."""


class BusyError(Gemma4Error):
    """The model is at work for another caller. Wait and call again."""


class ContextError(Gemma4Error):
    """A prompt and the answer asked for do not fit the context. Shorten the prompt or open a larger context."""


class FormatError(Gemma4Error):
    """A file is not what it should be: truncated, of another kind, or inconsistent with itself."""


class MissingPartError(Gemma4Error):
    """A bundle lacks what the call needs: its multimodal embedder or its drafter."""


class ConversionError(Gemma4Error):
    """A checkpoint cannot become a bundle, or the bundle cannot be written."""


class MemoryLimitError(Gemma4Error):
    """A model needs more memory than this process may use. Choose a smaller context or type."""


class NativeError(Gemma4Error):
    """llama.cpp refused or failed to do something."""
