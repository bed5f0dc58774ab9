"""What a bundle holds, and what is wrong with it.

In: a bundle. Out: a summary as plain data (for `inspect` and its JSON), or every fault found (for `verify`).
Loads no weights into llama.cpp; reads the file's bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import EMBEDDER, KEY, NAMES, TEXT, Bundle, Section, digest
from .chat import render
from .embedder import Embedder
from .errors import Gemma4Error

_SHOWN = {
    "layers": "block_count",
    "hidden": "embedding_length",
    "context": "context_length",
    "sliding_window": "attention.sliding_window",
}
_SAMPLING = ("temp", "top_k", "top_p")
_PROVENANCE = ("name", "size_label", "license", "base_model.0.repo_url", "quantized_by")


def summary(bundle: Bundle) -> dict[str, Any]:
    """Sections, types, sizes and defaults: JSON-ready."""
    text = bundle.text.metadata
    template = text.get("tokenizer.chat_template")
    return {
        "file": str(bundle.path),
        "size": bundle.path.stat().st_size,
        "bundle_version": text.get(KEY + "version"),
        "sections": [_section(section) for section in bundle.sections],
        "missing": list(bundle.missing),
        "model": {name: text.get(f"{TEXT}.{key}") for name, key in _SHOWN.items()},
        "vocabulary": len(text.get("tokenizer.ggml.tokens", ())),
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
        "sampling": {name: text.get(f"general.sampling.{name}") for name in _SAMPLING},
        "provenance": {name: text[f"general.{name}"] for name in _PROVENANCE if f"general.{name}" in text},
    }


def _section(section: Section) -> dict[str, Any]:
    tensors = section.tensors.values()
    parameters = sum(int(np.prod(t.shape, dtype=np.int64)) for t in tensors)
    return {
        "architecture": section.architecture,
        "what": NAMES.get(section.architecture, "?"),
        "offset": section.offset,
        "size": section.size,
        "parameters": parameters,
        "bits_per_weight": round(8 * sum(t.nbytes for t in tensors) / max(1, parameters), 2),
        "types": dict(Counter(t.type.name for t in tensors).most_common()),
    }


def faults(path: str | Path) -> list[str]:
    """Everything that is wrong with a file, one line each; empty when it is sound. Reads the whole file."""
    try:
        bundle = Bundle.open(path)
    except Gemma4Error as error:
        return [str(error)]
    found = [bundle.absence(name) for name in bundle.missing if name in NAMES]
    for check in (_hashes, _norms, _template, _embedder):
        found += check(bundle)
    return found


def _hashes(bundle: Bundle) -> Iterator[str]:
    promised = dict(zip(*(bundle.text.metadata.get(KEY + k, ()) for k in ("sections", "sha256")), strict=False))
    sizes = dict(zip(*(bundle.text.metadata.get(KEY + k, ()) for k in ("sections", "sizes")), strict=False))
    for section in bundle.sections:
        what = f"{NAMES.get(section.architecture, section.architecture)}"
        if section.architecture not in promised:
            continue
        if sizes.get(section.architecture) != section.size:
            yield f"{what}: {section.size:,} bytes, the bundle says {sizes.get(section.architecture):,}"
        if digest(section) != promised[section.architecture]:
            yield f"{what}: its SHA-256 is not the one the bundle was written with: bytes changed since"


def _norms(bundle: Bundle) -> Iterator[str]:
    """Vectors are small and always float32: a NaN there means damage that a hash-less file would hide."""
    for section in bundle.sections:
        for name, info in section.tensors.items():
            if len(info.shape) == 1 and not np.isfinite(section.array(name)).all():
                yield f"{NAMES.get(section.architecture)}: {name} holds values that are not finite"


def _template(bundle: Bundle) -> Iterator[str]:
    template = bundle.text.metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        yield "text model: it carries no chat template"
        return
    yield from _try(lambda: render([{"role": "user", "content": "Hi"}], template=template), "chat template")


def _embedder(bundle: Bundle) -> Iterator[str]:
    if bundle.section(EMBEDDER) is not None:
        yield from _try(lambda: Embedder(bundle), "embedder")


def _try(action: Callable[[], object], what: str) -> Iterator[str]:
    try:
        action()
    except Gemma4Error as error:
        yield f"{what}: {error}"
