"""Summarise what a bundle holds.

A bundle comes in; plain data that JSON can hold goes out. Only headers are read. This module does not print.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bundle.reading import KEY, NAMES, TEXT, Bundle, Section
from ..bundle.settings import end_tokens, file_type
from ..bundle.validation import vocabulary
from ..errors import FormatError

_SHOWN = {
    "layers": "block_count",
    "hidden": "embedding_length",
    "context": "context_length",
    "sliding_window": "attention.sliding_window",
}
_SAMPLING = ("temp", "top_k", "top_p", "min_p", "penalty_repeat")
# general.* keys that say how to read the file, not where it comes from.
_TECHNICAL = {"architecture", "type", "alignment", "file_type", "quantization_version"}


def summary(bundle: Bundle) -> dict[str, Any]:
    """Sections, types, sizes, defaults and provenance, as plain data."""
    text = bundle.text.metadata
    template = text.get("tokenizer.chat_template")
    return {
        "file": str(bundle.path),
        "size": bundle.path.stat().st_size,
        "bundle_version": text.get(KEY + "version"),
        "sections": [_section(section) for section in bundle.sections],
        "missing": list(bundle.missing),
        "model": {name: text.get(f"{TEXT}.{key}") for name, key in _SHOWN.items()},
        "vocabulary": len(_tokens(bundle.text)),
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
        "end_tokens": end_tokens(text),
        "sampling": {name: _short(text.get(f"general.sampling.{name}")) for name in _SAMPLING},
        "provenance": _provenance(bundle.text),
    }


def _section(section: Section) -> dict[str, Any]:
    tensors = section.tensors.values()
    parameters = sum(int(np.prod(t.shape, dtype=object)) for t in tensors)
    return {
        "architecture": section.architecture,
        "what": NAMES.get(section.architecture, "?"),
        "offset": section.offset,
        "size": section.size,
        "header": section.header.data_start - section.offset,
        "file_type": file_type(section.metadata.get("general.file_type")),
        "tensors": len(tensors),
        "parameters": parameters,
        "bits_per_weight": round(8 * sum(t.nbytes for t in tensors) / max(1, parameters), 2),
        "types": dict(Counter(t.type.name for t in tensors).most_common()),
    }


def _short(value: Any) -> Any:
    """0.95 instead of the nearest float32's 0.949999988079071."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _tokens(text: Section) -> Sequence[str]:
    try:
        return vocabulary(text)
    except FormatError:  # a file without one has a summary too
        return ()


def _provenance(section: Section) -> dict[str, Any]:
    found = {}
    for key, value in section.metadata.items():
        group, _, name = key.partition(".")
        if group == "general" and name not in _TECHNICAL and not name.startswith("sampling."):
            found[name] = value if isinstance(value, (str, int, float)) else list(value)
    return found
