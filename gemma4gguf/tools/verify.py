"""Find every fault of a bundle.

A path comes in; the faults go out, one line each. Every byte is read. The vocabulary is loaded into llama.cpp, the
weights are not. This module repairs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray

from ..bundle.container import padded
from ..bundle.projector import check_embedder
from ..bundle.reading import (
    BUNDLE_VERSION,
    DRAFTER,
    EMBEDDER,
    KEY,
    NAMES,
    SECTION_ALIGNMENT,
    Bundle,
    Section,
    digest,
    listed_sections,
)
from ..bundle.settings import special_tokens
from ..bundle.validation import check_drafter, check_text, vocabulary
from ..chat.guards import SPECIAL_TOKENS
from ..chat.rendering import compose_turn, render
from ..errors import FormatError, Gemma4Error
from ..native import quantizer
from ..native.vocabulary import Vocabulary
from ..runtime.loading import load
from ..runtime.prompt import plain_ids


def faults(path: str | Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """All faults of a file, one line each; empty if it is sound. Reads the whole file twice.

    `progress` is called with (bytes done, in all).
    """
    damage, defects = examine(path, progress)
    return damage + defects


def examine(
    path: str | Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[str], list[str]]:
    """What `faults` finds, in two: damage, bytes that are not as they were written, and defects of what was written."""
    try:
        bundle = Bundle.open(path)
    except Gemma4Error as error:
        return [str(error)], []
    total, done = 2 * sum(section.size for section in bundle.sections), 0

    def report(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    hashes, values = partial(_hashes, report=report), partial(_values, report=report)
    damage, defects = (
        [fault for check in checks for fault in check(bundle)]
        for checks in ((_sections, _bounds, hashes), (values, _parts, _template, _tokenizer))
    )
    return damage, defects


def _sections(bundle: Bundle) -> Iterator[str]:
    version = bundle.text.metadata.get(KEY + "version", BUNDLE_VERSION)
    if version != BUNDLE_VERSION:
        yield f"bundle version {version!r}, expected {BUNDLE_VERSION}; a newer gemma4gguf may read it"
    yield from (bundle.absence(name) for name in bundle.missing if name in NAMES)
    yield from (f"lists a section {name!r}, which nobody knows" for name in bundle.missing if name not in NAMES)


def _bounds(bundle: Bundle) -> Iterator[str]:
    """Tensors must follow one another without gaps, as llama.cpp requires. Between sections there must be zeros."""
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
    listed = listed_sections(bundle.text)
    for section in bundle.sections:
        if section.architecture not in listed:
            if listed:
                yield f"{_what(section)}: is not among the sections that the bundle names"
            continue
        size, sha = listed[section.architecture]
        if size != section.size:
            yield f"{_what(section)}: {section.size:,} bytes, the bundle says {size:,}"
        found = digest(section)
        report(section.size)
        if found != sha:
            yield f"{_what(section)}: its SHA-256 is not the one the bundle was written with: bytes changed since"


def _values(bundle: Bundle, report: Callable[[int], None]) -> Iterator[str]:
    """No value or scale may be NaN or infinite. This finds damage in files without digests too."""
    for section in bundle.sections:
        for name, info in section.tensors.items():
            report(info.nbytes)
            if not _finite(section.raw(name), info.type):
                yield f"{_what(section)}: {name} holds values that are not finite"


def _finite(raw: NDArray[np.uint8], kind: T) -> bool:
    plain = {T.F32: np.float32, T.F16: np.float16}.get(kind)
    return quantizer.is_valid(raw, kind) if plain is None else bool(np.isfinite(raw.view(plain)).all())


def _parts(bundle: Bundle) -> Iterator[str]:
    """Each section must be whole and belong to the text model."""
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
    if bundle.section(EMBEDDER) is not None:
        asked = partial(compose_turn, "What?", images=[b"a picture"], template=template)
        yield from _try(asked, "chat template, where a picture goes")


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
        check_text(bundle.text)
    except FormatError:  # reported already, as a fault of the text model
        return
    try:
        with load(bundle.text, vocab_only=True) as model:
            yield from _round_trip(model.vocab, vocabulary(bundle.text), special_tokens(bundle.text.metadata))
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


def _round_trip(vocab: Vocabulary, tokens: Sequence[str], never: tuple[str, ...]) -> Iterator[str]:
    """Texts and vocabulary entries must survive a round trip through ids. Each special token must be one id."""
    for text in _TEXTS:
        ids = plain_ids(vocab, text, never)
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
    wrong = [i for i in _sample(len(tokens)) if not _same(vocab, i, never)]
    if wrong:
        yield f"tokenizer: {len(wrong)} of its entries do not come back as themselves, {wrong[0]} first"


def _sample(count: int) -> list[int]:
    return list(range(count)) if count <= _SAMPLES else random.Random(0).sample(range(count), _SAMPLES)


def _same(vocab: Vocabulary, token: int, never: tuple[str, ...]) -> bool:
    raw = vocab.piece(token, special=False)
    try:
        text = raw.decode()
    except UnicodeDecodeError:  # a byte of a longer character
        return True
    return b"".join(vocab.piece(i, special=False) for i in plain_ids(vocab, text, never)) == raw


def _what(section: Section) -> str:
    return NAMES.get(section.architecture, section.architecture)


def _try(action: Callable[[], object], what: str) -> Iterator[str]:
    try:
        action()
    except Gemma4Error as error:
        yield f"{what}: {error}"
