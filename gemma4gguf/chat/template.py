"""Render a chat template: a known one here, any other in a process of its own.

In: the template's source, which comes from a bundle, and plain data. Out: the rendered text. A stranger's template can
overflow the C stack, or take gigabytes inside one filter. `sandbox` cannot stop that; ending a process can: `child`.
"""

from __future__ import annotations

import atexit
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from . import sandbox
from .child import Child

# SHA-256 of templates that were read by people.
KNOWN = {
    "d3336440b9985a54f69dabd192ac044058912c2c38d0798c8e39c20fdbd76d66": "chat_template.jinja beside this file",
    "0a15bd115ba7dea1f042ac5163e6e5ed4ed32003abe1c9a623faada5844973a4": "models/tiny",
    "ae53464bf3be25802b3a5b37def7fd89667067d7577049b3b2d74c4d8de4c6d4": "Gemma 4 12B, 26B and 31B, of 2026-07-09",
    "0a2c8073c878ab1da004bee933a998606537bbb62016310352c7285c3f01c5b5": "Gemma 4 E2B and E4B, of 2026-07-09",
}
MAX_DEPTH = 16  # of data that is rendered here: templates recurse into it, and a thread's stack may be small

_child = Child()
atexit.register(_child.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child.forget)


def render_template(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> str:
    """Render a chat template. `variables`: further names that it may use, such as `enable_thinking`.

    `messages`, `tools` and `variables` must be plain data (texts, numbers, lists, mappings). Raises InputError if the
    template rejects the messages, FormatError if it does not compile, fails, or takes too much time or memory.
    """
    names = {"documents": None, **variables, "messages": messages, "tools": tools}
    here = digest(source) in KNOWN and not _deeper(names, MAX_DEPTH)
    return (sandbox.render if here else _child.render)(source, names)


def digest(source: str) -> str:
    """The key of a template in `KNOWN`."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def _deeper(value: Any, levels: int) -> bool:
    """Whether plain data is nested more than so many levels deep."""
    if not isinstance(value, (Mapping, list)):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)
