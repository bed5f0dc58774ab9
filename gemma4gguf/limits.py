"""What a file, a picture, a clip, a conversation or a template may cost: every bound that is an option, in one place.

In: names and numbers, from `limited` or from the environment. Out: `current()`, which every reader asks. The sizes of a
model (layers, heads, widths) are no options: llama.cpp depends on their bounds, see `bundle.schema`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Real

from .errors import InputError

VARIABLE = "GEMMA4GGUF_LIMITS"


@dataclass(frozen=True)
class Limits:
    """Upper bounds on what strangers' files and messages may cost. The defaults are far above what Gemma 4 needs.

    `limited` changes them for a block of code, the environment variable GEMMA4GGUF_LIMITS for a process:
    `GEMMA4GGUF_LIMITS="picture_bytes=1e9 sound_seconds=7200"`.
    """

    sections: int = 8  # GGUFs in one file
    header_bytes: int = 1 << 27  # of all headers of a file, which are kept twice while it is open; the 12B's have 30 MB
    entries: int = 1 << 15  # keys in all headers of a file, and as many tensors
    numbers: int = 1 << 21  # in arrays, in all headers of a file: up to 40 bytes each; the 12B's have 1.1 million
    strings: int = 1 << 22  # in arrays, in all headers of a file; the 12B's have 1.6 million
    key_bytes: int = 1 << 12  # of a key or a tensor's name
    string_bytes: int = 1 << 24  # of a value that is one string, such as a chat template
    alignment: int = 1 << 20  # bytes to which a GGUF aligns its tensors
    json_bytes: int = 1 << 28  # of a checkpoint's file that is read whole; the 12B's tokenizer.json has 32 MB
    json_values: int = 1 << 22  # in one JSON file; the 12B's tokenizer.json has 1.9 million
    table_bytes: int = 100_000_000  # of a safetensors header
    cache_bytes: int = 8 << 30  # of one conversation's cache, where nobody asks for a context; the 12B's takes 1 GB
    card_chars: int = 1 << 16  # of a model card's YAML, which is parsed slowly; usual ones have a few thousand
    card_aliases: int = 0  # of a model card's YAML: they make a short text stand for a huge value
    picture_bytes: int = 500_000_000  # that decoding a picture may take: 50 million pixels of a JPEG, 29 of a WebP
    picture_scans: int = 64  # of a progressive JPEG, each as long as a whole picture to decode; usual ones have 10
    sound_seconds: float = 1800.0  # of a clip: 45,000 soft tokens; the model was trained on clips of 30
    sound_samples: int = 180_000_000  # of a clip's file, in all channels: 30 minutes at 48 kHz in stereo
    messages: int = 10_000  # in a conversation; templates take time by the square of their number
    parts: int = 10_000  # of one message
    tools: int = 1_000  # that are declared, and calls in one message
    depth: int = 64  # of lists and mappings in tool arguments and declarations
    values: int = 100_000  # in one call's arguments, one tool's declaration or one template option
    number_bits: int = 4096  # of a number in tool arguments: 1,233 digits; Python reads none of more than 4,300
    schema_bytes: int = 1 << 18  # of a JSON schema that an answer must follow, as JSON
    grammar_bytes: int = 1 << 20  # of a grammar, given or made of a schema
    grammar_parts: int = 200_000  # of a grammar's rules, with repetitions written out: up to 100 bytes each
    saved_bytes: int = 1 << 30  # of a saved conversation
    template_chars: int = 1 << 20  # of a chat template
    template_seconds: float = 4.0  # of processor, for one rendering; on the clock five times as many
    template_memory: int = 480_000_000  # bytes that the process of a stranger's template may address (Linux)
    template_steps: int = 5_000_000  # iterations and calls in one rendering
    text_chars: int = 1 << 24  # of a rendered prompt, and of each text or list that a template makes


_own: ContextVar[Limits | None] = ContextVar("limits", default=None)


def current() -> Limits:
    """The limits that hold here: those of the innermost `limited`, else the environment's, else the defaults.

    Raises InputError where the environment names unknown limits.
    """
    return _own.get() or _from_environment(os.environ.get(VARIABLE, ""))


@contextmanager
def limited(**changes: float) -> Iterator[Limits]:
    """Change limits inside a `with` block, for this thread or task: `picture_bytes=10**9`, for instance.

    `changes`: fields of `Limits`; the others stay as they are outside. Raises InputError.
    """
    token = _own.set(_changed(current(), changes, "limited"))
    try:
        yield current()
    finally:
        _own.reset(token)


@lru_cache(maxsize=8)
def _from_environment(text: str) -> Limits:
    given = dict(part.partition("=")[::2] for part in text.replace(",", " ").split())
    try:
        return _changed(Limits(), {name: float(value) for name, value in given.items()}, VARIABLE)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{VARIABLE}: expected NAME=NUMBER, separated by spaces, found {text!r:.200}") from None


def _changed(limits: Limits, changes: Mapping[str, object], where: str) -> Limits:
    known = vars(limits)
    for name, value in changes.items():
        if name not in known:
            raise InputError(f"{where}: there is no limit {name!r:.80}; known: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise InputError(f"{where}: {name} is {value!r:.80}, expected a number from 0")
    return replace(limits, **{name: type(known[name])(value) for name, value in changes.items()})
