"""What a bundle holds, and what is wrong with it.

In: a bundle. Out: a summary as plain data (for `inspect` and its JSON), or every fault found (for `verify`).
The summary reads headers only; the faults read every byte and load the vocabulary, never the weights, into llama.cpp.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray

from ..bundle.container import padded
from ..bundle.reading import (
    BUNDLE_VERSION,
    DRAFTER,
    EMBEDDER,
    KEY,
    NAMES,
    SECTION_ALIGNMENT,
    TEXT,
    Bundle,
    Section,
    digest,
    promises,
)
from ..bundle.validation import check_drafter, check_text, check_vocabulary, vocabulary
from ..chat.rendering import SPECIAL_TOKENS, render
from ..errors import FormatError, Gemma4Error
from ..native import quantizer
from ..native.weights import Model, Vocabulary
from .pack import check_embedder

_SHOWN = {
    "layers": "block_count",
    "hidden": "embedding_length",
    "context": "context_length",
    "sliding_window": "attention.sliding_window",
}
_SAMPLING = ("temp", "top_k", "top_p", "min_p", "penalty_repeat")
# general.* keys that say how to read the file, not where it comes from.
_TECHNICAL = {"architecture", "type", "alignment", "file_type", "quantization_version"}

# ── what it holds ────────────────────────────────────────────────────────────────────────────────────────────────


def summary(bundle: Bundle) -> dict[str, Any]:
    """Sections, types, sizes, defaults and provenance: JSON-ready."""
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
        "end_tokens": _end_tokens(bundle.text),
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
        "file_type": _file_type(section.metadata.get("general.file_type")),
        "tensors": len(tensors),
        "parameters": parameters,
        "bits_per_weight": round(8 * sum(t.nbytes for t in tensors) / max(1, parameters), 2),
        "types": dict(Counter(t.type.name for t in tensors).most_common()),
    }


def _short(value: Any) -> Any:
    """0.95 instead of the nearest float32's 0.949999988079071."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _file_type(number: object) -> str | None:
    try:
        return str(gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_"))
    except ValueError:
        return None


def _end_tokens(text: Section) -> list[str]:
    ids, tokens = text.metadata.get("gemma4gguf.eos_token_ids"), _tokens(text)
    return [tokens[i] for i in ids if type(i) is int and 0 <= i < len(tokens)] if isinstance(ids, list) else []


def _tokens(text: Section) -> Sequence[str]:
    try:
        return vocabulary(text)
    except FormatError:  # a summary tells what is there
        return ()


def _provenance(section: Section) -> dict[str, Any]:
    found = {}
    for key, value in section.metadata.items():
        group, _, name = key.partition(".")
        if group == "general" and name not in _TECHNICAL and not name.startswith("sampling."):
            found[name] = value if isinstance(value, (str, int, float)) else list(value)
    return found


# ── what is wrong ────────────────────────────────────────────────────────────────────────────────────────────────


def faults(path: str | Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Everything that is wrong with a file, one line each; empty when it is sound. Reads the whole file twice.

    `progress` is told (bytes done, in all).
    """
    try:
        bundle = Bundle.open(path)
    except Gemma4Error as error:
        return [str(error)]
    total, done = 2 * sum(section.size for section in bundle.sections), 0

    def report(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    found: list[str] = []
    hashes, values = partial(_hashes, report=report), partial(_values, report=report)
    for check in (_sections, _bounds, hashes, values, _parts, _template, _tokenizer):
        found += check(bundle)
    return found


def _sections(bundle: Bundle) -> Iterator[str]:
    version = bundle.text.metadata.get(KEY + "version", BUNDLE_VERSION)
    if version != BUNDLE_VERSION:
        yield f"bundle version {version!r}, expected {BUNDLE_VERSION}; a newer gemma4gguf may read it"
    yield from (bundle.absence(name) for name in bundle.missing if name in NAMES)
    yield from (f"promises a section {name!r}, which nobody knows" for name in bundle.missing if name not in NAMES)


def _bounds(bundle: Bundle) -> Iterator[str]:
    """Tensors lie one after the other, as llama.cpp wants them; between sections there is nothing."""
    for section in bundle.sections:
        expected = 0
        for name, info in section.tensors.items():
            if info.offset != expected:
                yield (
                    f"{_what(section)}: {name} lies at {info.offset:,} in the data, expected {expected:,}: "
                    "llama.cpp refuses tensors that overlap or leave gaps"
                )
                break
            expected = padded(info.offset + info.nbytes, section.header.alignment)
    with open(bundle.path, "rb") as file:
        for section in bundle.sections:
            end = section.offset + section.size
            file.seek(end)
            if file.read(padded(end, SECTION_ALIGNMENT) - end).strip(b"\0"):
                yield f"{_what(section)}: followed by unknown bytes at {end:,}"


def _hashes(bundle: Bundle, report: Callable[[int], None]) -> Iterator[str]:
    promised = promises(bundle.text)
    for section in bundle.sections:
        if section.architecture not in promised:
            if promised:
                yield f"{_what(section)}: is not among the sections that the bundle names"
            continue
        size, sha = promised[section.architecture]
        if size != section.size:
            yield f"{_what(section)}: {section.size:,} bytes, the bundle says {size:,}"
        found = digest(section)
        report(section.size)
        if found != sha:
            yield f"{_what(section)}: its SHA-256 is not the one the bundle was written with: bytes changed since"


def _values(bundle: Bundle, report: Callable[[int], None]) -> Iterator[str]:
    """No NaN, no infinity, no broken scale: damage that a file without hashes would hide."""
    for section in bundle.sections:
        for name, info in section.tensors.items():
            report(info.nbytes)
            if not _finite(section.raw(name), info.type):
                yield f"{_what(section)}: {name} holds values that are not finite"


def _finite(raw: NDArray[np.uint8], kind: T) -> bool:
    plain = {T.F32: np.float32, T.F16: np.float16}.get(kind)
    return quantizer.is_valid(raw, kind) if plain is None else bool(np.isfinite(raw.view(plain)).all())


def _parts(bundle: Bundle) -> Iterator[str]:
    """Each section is whole, and belongs to the text model."""
    yield from _try(partial(check_text, bundle.text), "text model")
    for name, check in ((EMBEDDER, check_embedder), (DRAFTER, check_drafter)):
        section = bundle.section(name)
        if section is not None:
            yield from _try(partial(check, bundle.text, section), NAMES[name])


def _template(bundle: Bundle) -> Iterator[str]:
    template = bundle.text.metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        yield "text model: it carries no chat template"
        return
    for what, messages, options in _CONVERSATIONS:
        yield from _try(partial(render, messages, template=template, **options), f"chat template, {what}")


_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
_HI: dict[str, Any] = {"role": "user", "content": "Hi"}
_CONVERSATIONS: tuple[tuple[str, list[dict[str, Any]], dict[str, Any]], ...] = (
    ("one question", [_HI], {}),
    ("with thinking", [{"role": "system", "content": "Be brief."}, _HI], {"thinking": True}),
    ("a picture", [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}], {}),
    ("two turns", [_HI, {"role": "assistant", "content": "Hello."}, _HI], {}),
    (
        "a tool call",
        [_HI, {"role": "assistant", "tool_calls": [_CALL]}, {"role": "tool", "tool_call_id": "1", "content": "2"}],
        {"tools": [_TOOL]},
    ),
)


def _tokenizer(bundle: Bundle) -> Iterator[str]:
    try:
        check_vocabulary(bundle.text)
        with Model(bundle.path, vocab_only=True) as model:
            yield from _round_trip(model.vocab, vocabulary(bundle.text))
    except Gemma4Error as error:
        yield f"tokenizer: {error}"


_TEXTS = (
    "Hello, world!",
    "  two  spaces,\ttab,\n\none empty line\n\n\n",
    "Größe naïve façade — “quotes” … 1,234.56 €",
    "你好，世界。 こんにちは 안녕하세요 Привет שלום مرحبا",
    "😀👩‍👩‍👧 e\u0301 \u0000\u0001\x7f\ufeff\U0010ffff",
    "def f(x):\n    return {'a': [x, -1e-6]}  # <turn> </s>",
)
_SAMPLES = 2000  # entries of the vocabulary that are tried


def _round_trip(vocab: Vocabulary, tokens: Sequence[str]) -> Iterator[str]:
    """Text comes back as it went in; special tokens are one id each, and a vocabulary's entries stay themselves."""
    for text in _TEXTS:
        ids = vocab.tokenize(text, special=False)
        back = b"".join(vocab.piece(i, special=False) for i in ids)
        if back != text.encode():
            yield f"tokenizer: {text!r} comes back as {back.decode('utf-8', 'replace')!r}"
    index = {token: i for i, token in enumerate(tokens)}
    for token in SPECIAL_TOKENS:
        ids = vocab.tokenize(token, special=True)
        if token not in index:
            yield f"tokenizer: there is no token {token}"
        elif ids != [index[token]]:
            yield f"tokenizer: {token} becomes {ids}, expected [{index[token]}]"
    wrong = [i for i in _sample(len(tokens)) if not _same(vocab, i)]
    if wrong:
        yield f"tokenizer: {len(wrong)} of its entries do not come back as themselves, {wrong[0]} first"


def _sample(count: int) -> list[int]:
    return list(range(count)) if count <= _SAMPLES else random.Random(0).sample(range(count), _SAMPLES)


def _same(vocab: Vocabulary, token: int) -> bool:
    raw = vocab.piece(token, special=False)
    try:
        text = raw.decode()
    except UnicodeDecodeError:  # a byte of a longer character
        return True
    return b"".join(vocab.piece(i, special=False) for i in vocab.tokenize(text, special=False)) == raw


def _what(section: Section) -> str:
    return NAMES.get(section.architecture, section.architecture)


def _try(action: Callable[[], object], what: str) -> Iterator[str]:
    try:
        action()
    except Gemma4Error as error:
        yield f"{what}: {error}"
