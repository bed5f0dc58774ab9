"""Every error that gemma4gguf raises on purpose.

A message is one line: what is wrong, where, what was expected and found, and what to do next.
The library raises these; only the command line prints them and chooses an exit status.
"""

from __future__ import annotations


class Gemma4Error(Exception):
    """Base class: an expected failure, told in one line."""


class InputError(Gemma4Error, ValueError):
    """What the caller gave cannot be used: an option, a message, a picture, a clip."""


class FormatError(Gemma4Error):
    """A file is not what it should be: truncated, of another kind, or inconsistent with itself."""


class ConversionError(Gemma4Error):
    """A checkpoint cannot become a bundle, or the bundle cannot be written."""


class ContextError(Gemma4Error):
    """A prompt and the answer asked for do not fit the context."""


class NativeError(Gemma4Error):
    """llama.cpp refused or failed to do something."""
