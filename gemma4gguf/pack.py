"""A text model, a projector and a drafter, from anyone, to one bundle.

In: GGUF files. Out: a bundle whose sections are theirs, key by key and byte by byte, after a check that they belong
together. A bundle given as the text model brings its own sections, which stay unless another file replaces them.
Loads nothing into llama.cpp and looks at no weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .bundle import (
    DRAFTER,
    EMBEDDER,
    NAMES,
    ORDER,
    TEXT,
    Bundle,
    Section,
    a_kind,
    part_of,
    plan_layout,
    read_sections,
    write_bundle,
)
from .embedder import Embedder
from .errors import FormatError

OPTIONS = {EMBEDDER: "--embedder", DRAFTER: "--drafter"}
TOWERS = {  # projectors of models that have an encoder, by clip.vision.projector_type and clip.audio.projector_type
    "gemma4v": "the vision tower of a Gemma 4 E2B, E4B, 26B or 31B",
    "gemma4a": "the audio tower of a Gemma 4 E2B or E4B",
    "gemma3": "the vision tower of a Gemma 3",
    "gemma3nv": "the vision tower of a Gemma 3n",
    "gemma3na": "the audio tower of a Gemma 3n",
}
# Keys of the other Gemma 4 models, whose architecture has the same name: not zero there.
OTHERS = {
    "embedding_length_per_layer_input": "is a Gemma 4 E2B or E4B (it has per-layer embeddings)",
    "expert_count": "is the Gemma 4 26B (it has experts)",
}
PROJECTORS = ("gemma4uv", "gemma4ua")
SPLIT = "split."  # keys of llama.cpp's gguf-split: of no meaning in a whole file

_OF_MODEL = ("token_embd.weight", "output_norm.weight", "rope_freqs.weight")
_OF_LAYER = (
    *("attn_norm", "attn_q", "attn_q_norm", "attn_output", "post_attention_norm"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm", "layer_output_scale"),
)
# Numbers that a drafter shares with its target, because it reads the target's cache.
_SHARED = {
    "attention.key_length": "wide its heads on full layers are",
    "attention.key_length_swa": "wide its heads on sliding layers are",
    "attention.sliding_window": "far its sliding layers look back",
    "rope.freq_base": "it rotates positions on full layers",
    "rope.freq_base_swa": "it rotates positions on sliding layers",
}


@dataclass(frozen=True)
class Packed:
    """What was written: `sections` are architectures in order, `sizes` their bytes; `notes` are lines for people."""

    path: Path
    sections: tuple[str, ...]
    sizes: tuple[int, ...]
    size: int
    notes: tuple[str, ...]


def pack(
    text: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    embedder: str | os.PathLike[str] | None = None,
    drafter: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Join files to a bundle. `text` is a text model's GGUF or a bundle; `progress` is told (bytes done, in all).

    Raises InputError (no such file), FormatError (not what it should be, or not of the same model) and
    ConversionError (the output cannot be written); nothing is then left under the output's name.
    """
    bundle = Bundle.open(text)
    check_text(bundle.text)
    sections = {s.architecture: s for s in bundle.sections}
    for architecture, given in ((EMBEDDER, embedder), (DRAFTER, drafter)):
        if given is not None:
            sections[architecture] = only(given, architecture)
    if EMBEDDER in sections:
        check_embedder(bundle.text, sections[EMBEDDER])
    if DRAFTER in sections:
        check_drafter(bundle.text, sections[DRAFTER])
    chosen = [sections[name] for name in ORDER if name in sections]
    parts = [part_of(section) for section in chosen]
    parts[0] = replace(parts[0], pairs={k: v for k, v in parts[0].pairs.items() if not k.startswith(SPLIT)})
    total = plan_layout(parts).total
    layout = write_bundle(out, parts, force=force, progress=lambda done: progress(done, total))
    names = tuple(s.architecture for s in chosen)
    return Packed(Path(out), names, layout.sizes, layout.total, tuple(_notes(bundle, names)))


def _notes(bundle: Bundle, packed: tuple[str, ...]) -> Iterator[str]:
    for name in bundle.missing:
        if name not in packed and name in OPTIONS:
            yield f"the {NAMES[name]} that {bundle.path} once had is not in the new file; give it with {OPTIONS[name]}"
    if EMBEDDER not in packed:
        yield "NO EMBEDDER: the bundle reads text and cannot see pictures or hear sound; give one with --embedder"


def only(path: str | os.PathLike[str], architecture: str) -> Section:
    """The one section of a file that must be of this architecture. Raises InputError and FormatError."""
    sections = read_sections(path)
    found = sections[0].architecture
    wanted = f"expected {a_kind(architecture)} (architecture {architecture!r}) for {OPTIONS[architecture]}"
    if found == TEXT and len(sections) > 1:
        raise FormatError(
            f"{path}: is a whole bundle, {wanted}; cut its parts out first with `gemma4gguf export {path} DIR`"
        )
    if found != architecture:
        raise FormatError(f"{path}: holds {a_kind(found)}, {wanted}")
    if len(sections) > 1:
        raise FormatError(f"{path}: holds {len(sections)} sections, {wanted} and nothing else")
    return sections[0]


# ── one section by itself ────────────────────────────────────────────────────────────────────────────────────────


def check_text(text: Section) -> None:
    """Raise FormatError unless the section is a whole Gemma 4 text model without parts elsewhere."""
    meta = text.metadata
    count = meta.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        raise FormatError(
            f"{text.path}: is one of {count} parts; join them first with `llama-gguf-split --merge {text.path} OUT`"
        )
    for key, what in OTHERS.items():
        if meta.get(f"{TEXT}.{key}"):
            raise FormatError(f"{text.path}: {what}, expected the 12B, the one whose embedder has no encoder")
    layers = _count(text, "block_count")
    window = meta.get(f"{TEXT}.attention.sliding_window_pattern")
    if not isinstance(window, list) or len(window) != layers:
        raise FormatError(f"{text.path}: names no kind for each of its {layers} layers; convert the checkpoint again")
    _check_whole(text, _tensors(text, layers, keys=True))
    _check_embedding(text)


def _tensors(section: Section, layers: int, *, keys: bool) -> Iterator[str]:
    """The tensors that a text model (`keys`) or a drafter, which has no keys of its own, cannot do without."""
    yield from _OF_MODEL
    pattern = section.metadata.get(f"{section.architecture}.attention.sliding_window_pattern", [])
    for i in range(layers):
        names = [*_OF_LAYER]
        if keys:
            names += ["attn_k", "attn_k_norm"]
            if i < len(pattern) and pattern[i]:  # full layers use the keys as values
                names.append("attn_v")
        if f"blk.{i}.attn_qkv.weight" in section.tensors:  # the three in one, which llama.cpp reads too
            names = [name for name in names if name not in ("attn_q", "attn_k", "attn_v")]
        yield from (f"blk.{i}.{name}.weight" for name in names)


def _check_whole(section: Section, names: Iterator[str]) -> None:
    missing = [name for name in names if name not in section.tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FormatError(
            f"{section.path}: the {NAMES[section.architecture]} has no tensor {missing[0]!r}{more}; get the file again"
        )


def _check_embedding(section: Section) -> None:
    """The table of token embeddings has the width and the vocabulary that the keys tell."""
    shape = section.tensors["token_embd.weight"].shape
    wanted = (_vocabulary(section), _count(section, "embedding_length"))
    if shape != wanted:
        raise FormatError(
            f"{section.path}: token_embd.weight has shape {list(shape)}, expected {list(wanted)} (vocabulary, width)"
        )


def _count(section: Section, key: str) -> int:
    key = f"{section.architecture}.{key}"
    value = section.metadata.get(key)
    if type(value) is not int or not 1 <= value < 1 << 24:
        raise FormatError(f"{section.path}: {key} is {value!r}, expected a positive number; get the file again")
    return value


def _vocabulary(section: Section) -> int:
    tokens = section.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Sequence) or isinstance(tokens, str) or not tokens:
        raise FormatError(f"{section.path}: carries no vocabulary (tokenizer.ggml.tokens); get the whole file")
    return len(tokens)


# ── sections beside each other ───────────────────────────────────────────────────────────────────────────────────


def check_embedder(text: Section, embedder: Section) -> None:
    """Raise FormatError unless the section is the encoder-free embedder of a model as wide as `text`."""
    meta = embedder.metadata
    for kind in _projectors(meta):
        if kind not in PROJECTORS:
            what = TOWERS.get(kind, f"a projector of type {kind!r}")
            raise FormatError(
                f"{embedder.path}: holds {what}; Gemma 4 12B has no encoder, its embedder is of the types "
                f"{' and '.join(PROJECTORS)}: give the mmproj file of a 12B"
            )
    Embedder(Bundle(embedder.path, (text, embedder), ()))  # its own checks: every tensor, every size, the width


def _projectors(meta: Mapping[str, Any]) -> list[str]:
    keys = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")
    return [str(meta[key]) for key in keys if key in meta]


def check_drafter(text: Section, drafter: Section) -> None:
    """Raise FormatError unless the section drafts for a model such as `text`."""
    where = f"{drafter.path}: the MTP drafter"
    layers = _count(drafter, "block_count")
    names = [*_tensors(drafter, layers, keys=False), "nextn.pre_projection.weight", "nextn.post_projection.weight"]
    _check_whole(drafter, iter(names))
    _check_embedding(drafter)
    hidden, width = _count(text, "embedding_length"), _count(drafter, "embedding_length")
    made = drafter.metadata.get(f"{DRAFTER}.embedding_length_out")
    if made != hidden:
        raise FormatError(f"{where} is for a model of width {made}, {text.path} has {hidden}; take the model's own")
    for name, shape in (("pre", (width, 2 * hidden)), ("post", (hidden, width))):
        found = drafter.tensors[f"nextn.{name}_projection.weight"].shape
        if found != shape:
            raise FormatError(f"{where}: nextn.{name}_projection.weight is {list(found)}, expected {list(shape)}")
    for key, how in _SHARED.items():
        own, target = drafter.metadata.get(f"{DRAFTER}.{key}"), text.metadata.get(f"{TEXT}.{key}")
        if own != target:
            raise FormatError(f"{where} and {text.path} differ in how {how} ({key}: {own}, {target}): not one model")
    _check_layer_kinds(text, drafter, where)
    if drafter.header.pairs["tokenizer.ggml.tokens"] != text.header.pairs["tokenizer.ggml.tokens"]:
        own, target = _vocabulary(drafter), _vocabulary(text)
        detail = f"{own:,} tokens, {target:,} there" if own != target else "as many tokens, but others"
        raise FormatError(f"{where} has another vocabulary than {text.path} ({detail}): not one model")


def _check_layer_kinds(text: Section, drafter: Section, where: str) -> None:
    """A drafter's sliding layers read the cache of the target's last but one layer, its full ones that of the last."""
    target, own = (_layer_kinds(section) for section in (text, drafter))
    last = dict(zip((True, False), target[-2:], strict=False))  # by: is it sliding?
    for i, (sliding, heads) in enumerate(own):
        if (sliding, heads) != last.get(sliding):
            kind = "sliding" if sliding else "full"
            raise FormatError(
                f"{where}: layer {i} is {kind} with {heads} key heads, and {text.path} ends with other layers "
                f"({_told(target[-2:])}): not one model"
            )


def _layer_kinds(section: Section) -> list[tuple[bool, int]]:
    """(is it sliding, its key heads) of each layer."""
    layers = _count(section, "block_count")
    values = []
    for key in ("attention.sliding_window_pattern", "attention.head_count_kv"):
        key = f"{section.architecture}.{key}"
        value = section.metadata.get(key)
        value = value if isinstance(value, list) else [value] * layers
        if len(value) != layers:
            raise FormatError(f"{section.path}: {key} has {len(value)} values for {layers} layers; get the file again")
        values.append(value)
    return [(bool(sliding), heads) for sliding, heads in zip(*values, strict=True)]


def _told(kinds: list[tuple[bool, int]]) -> str:
    return ", ".join(f"{'sliding' if sliding else 'full'} with {heads}" for sliding, heads in kinds)
