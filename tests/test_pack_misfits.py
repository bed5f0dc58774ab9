"""`pack`: files that do not fit each other get one clear line that says who does not fit whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import encode_array, encode_pair, padded, place_tensors
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Section, read_sections
from gemma4gguf.bundle.writing import Part, part_of
from gemma4gguf.errors import Gemma4Error
from gemma4gguf.tools.pack import pack
from tests.support.bundles import number, string
from tests.support.parts import changed, save


def tokens(section: Section, new: list[str]) -> dict[str, bytes]:
    return {"tokenizer.ggml.tokens": encode_array("tokenizer.ggml.tokens", V.STRING, new)}


Files = dict[str, Path]  # by architecture, and "bundle", and "out", a folder to write into
Make = Callable[[Files], dict[str, Any]]


def text(f: Files) -> Section:
    return read_sections(f[TEXT])[0]


def embedder(f: Files) -> Section:
    return read_sections(f[EMBEDDER])[0]


def drafter(f: Files) -> Section:
    return read_sections(f[DRAFTER])[0]


def other(f: Files, *parts: Part) -> Path:
    return save(f["out"] / "other.gguf", *parts)


def plain(f: Files, content: bytes) -> Path:
    path = f["out"] / "other.gguf"
    path.write_bytes(content)
    return path


def wider(f: Files) -> Part:
    """An embedder for another model, whole in itself."""
    width = 512
    shapes = {"v.patch_embd.weight": (width, 6912), "v.position_embd.weight": (2, 70, width)}
    shapes |= {f"v.patch_norm.1.{k}": (6912,) for k in ("weight", "bias")}
    shapes |= {f"v.patch_norm.{i}.{k}": (width,) for i in (2, 3) for k in ("weight", "bias")}
    shapes |= {"v.patch_embd.bias": (width,), "mm.input_projection.weight": (width, width)}
    shapes |= {"mm.a.input_projection.weight": (width, 640)}
    table = place_tensors([(name, shape, T.F32) for name, shape in shapes.items()])
    keys: dict[str, bytes] = {}
    for key in ("vision.projection_dim", "vision.embedding_length", "audio.projection_dim"):
        keys |= number(f"clip.{key}", width)
    return Part(
        EMBEDDER, {**part_of(embedder(f)).pairs, **keys}, table, lambda: [bytes(padded(t.nbytes)) for t in table]
    )


def half(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[: len(raw) // 2]


PATTERN = f"{DRAFTER}.attention.sliding_window_pattern"
VOCABULARY = "tokenizer.ggml.tokens"
MISFITS: dict[str, tuple[Make, str]] = {
    # what was given as the projector
    "embedder: no such file": (lambda f: {"embedder": f["out"] / "none.gguf"}, "no such file"),
    "embedder: a folder": (lambda f: {"embedder": f["out"]}, "is a folder, expected a .gguf file"),
    "embedder: empty": (lambda f: {"embedder": plain(f, b"")}, "the file is empty"),
    "embedder: a text file": (lambda f: {"embedder": plain(f, b"# README\n" * 9)}, "not a GGUF file"),
    "embedder: safetensors": (lambda f: {"embedder": plain(f, b"\x50\0\0\0\0\0\0\0{" + b" " * 99)}, "not a GGUF file"),
    "embedder: truncated": (lambda f: {"embedder": plain(f, half(f[EMBEDDER]))}, "truncated"),
    "embedder: the drafter": (
        lambda f: {"embedder": f[DRAFTER]},
        "holds an MTP drafter, expected a multimodal embedder",
    ),
    "embedder: the text model": (lambda f: {"embedder": f[TEXT]}, "holds a text model, expected a multimodal embedder"),
    "embedder: a bundle": (lambda f: {"embedder": f["bundle"]}, "is a whole bundle.*gemma4gguf export"),
    "embedder: a tower": (
        lambda f: {"embedder": other(f, changed(embedder(f), string("clip.vision.projector_type", "gemma4v")))},
        "vision tower of a Gemma 4 E2B, E4B, 26B or 31B; Gemma 4 12B has no encoder.*gemma4uv and gemma4ua",
    ),
    "embedder: an audio tower": (
        lambda f: {"embedder": other(f, changed(embedder(f), string("clip.audio.projector_type", "gemma4a")))},
        "audio tower of a Gemma 4 E2B or E4B",
    ),
    "embedder: Gemma 3's": (
        lambda f: {"embedder": other(f, changed(embedder(f), string("clip.projector_type", "gemma3")))},
        "vision tower of a Gemma 3",
    ),
    "embedder: another family's": (
        lambda f: {"embedder": other(f, changed(embedder(f), string("clip.vision.projector_type", "qwen3vl_merger")))},
        "a projector of type 'qwen3vl_merger'",
    ),
    "embedder: of a wider model": (
        lambda f: {"embedder": other(f, wider(f))},
        "soft tokens of 512 and 512 values, the text model takes 256",
    ),
    "embedder: a tensor is missing": (
        lambda f: {"embedder": other(f, changed(embedder(f), without="v.patch_norm.2.bias"))},
        "has no tensor 'v.patch_norm.2.bias'",
    ),
    "embedder: other patches": (
        lambda f: {"embedder": other(f, changed(embedder(f), number("clip.vision.patch_size", 14)))},
        "clip.vision.patch_size is 14, expected 16",
    ),
    "embedder: with a drafter behind it": (
        lambda f: {"embedder": other(f, part_of(embedder(f)), part_of(drafter(f)))},
        "holds 2 sections, expected a multimodal embedder",
    ),
    # what was given as the drafter
    "drafter: the projector": (
        lambda f: {"drafter": f[EMBEDDER]},
        "holds a multimodal embedder, expected an MTP drafter",
    ),
    "drafter: a text model": (lambda f: {"drafter": f[TEXT]}, "holds a text model, expected an MTP drafter"),
    "drafter: a bundle": (lambda f: {"drafter": f["bundle"]}, "is a whole bundle.*gemma4gguf export"),
    "drafter: truncated": (lambda f: {"drafter": plain(f, half(f[DRAFTER]))}, "truncated|past the end"),
    "drafter: for another width": (
        lambda f: {"drafter": other(f, changed(drafter(f), number(f"{DRAFTER}.embedding_length_out", 3840)))},
        "is for a model of width 3840, .* has 256",
    ),
    "drafter: its width is told wrong": (
        lambda f: {"drafter": other(f, changed(drafter(f), number(f"{DRAFTER}.embedding_length", 64)))},
        r"token_embd.weight has shape \[1024, 128\], expected \[1024, 64\]",
    ),
    "drafter: other words": (
        lambda f: {"drafter": other(f, changed(drafter(f), tokens(drafter(f), [str(i) for i in range(1024)])))},
        "another vocabulary than .*as many tokens, but others",
    ),
    "drafter: fewer words": (
        lambda f: {"drafter": other(f, changed(drafter(f), tokens(drafter(f), ["a"] * 512)))},
        r"expected \[512, 128\]",
    ),
    "drafter: another window": (
        lambda f: {"drafter": other(f, changed(drafter(f), number(f"{DRAFTER}.attention.sliding_window", 1024)))},
        "attention.sliding_window: 1024, 64",
    ),
    "drafter: another rotation": (
        lambda f: {"drafter": other(f, changed(drafter(f), _theta(2e6)))},
        r"rope.freq_base: 2000000.0, 1000000.0",
    ),
    "drafter: other key heads": (
        lambda f: {"drafter": other(f, changed(drafter(f), _kv_heads([2, 2, 2, 2])))},
        "layer 3 is full with 2 key heads, and .* ends with other layers .sliding with 2, full with 1.",
    ),
    "drafter: a layer of unknown kind": (
        lambda f: {"drafter": other(f, changed(drafter(f), {PATTERN: encode_array(PATTERN, V.BOOL, [True])}))},
        "sliding_window_pattern has 1 values for 4 layers",
    ),
    "drafter: a tensor is missing": (
        lambda f: {"drafter": other(f, changed(drafter(f), without="nextn.pre_projection.weight"))},
        "the MTP drafter has no tensor 'nextn.pre_projection.weight'",
    ),
    # what was given as the text model
    "text: the projector": (
        lambda f: {"text": f[EMBEDDER]},
        "holds a multimodal embedder, expected a Gemma 4 text model",
    ),
    "text: the drafter": (lambda f: {"text": f[DRAFTER]}, "holds an MTP drafter, expected a Gemma 4 text model"),
    "text: another family": (
        lambda f: {"text": other(f, replace(changed(text(f), string("general.architecture", "llama"))))},
        "holds a 'llama' model",
    ),
    "text: no such file": (lambda f: {"text": f["out"] / "none.gguf"}, "no such file"),
    "text: a folder": (lambda f: {"text": f["out"]}, "is a folder"),
    "text: empty": (lambda f: {"text": plain(f, b"")}, "the file is empty"),
    "text: truncated": (lambda f: {"text": plain(f, half(f[TEXT]))}, "truncated"),
    "text: swapped order": (
        lambda f: {"text": other(f, part_of(embedder(f)), part_of(text(f)))},
        "holds a multimodal embedder, expected a Gemma 4 text model first",
    ),
    "text: the drafter before the embedder": (
        lambda f: {"text": other(f, part_of(text(f)), part_of(drafter(f)), part_of(embedder(f)))},
        "once, in order",
    ),
    "text: one part of a split": (
        lambda f: {"text": other(f, changed(text(f), {"split.count": encode_pair("split.count", V.UINT16, 3)}))},
        "is one of 3 parts.*llama-gguf-split --merge",
    ),
    "text: a tensor is missing": (
        lambda f: {"text": other(f, changed(text(f), without="blk.7.attn_k.weight"))},
        "the text model has no tensor 'blk.7.attn_k.weight'",
    ),
    "text: all but the vocabulary": (
        lambda f: {"text": other(f, _without_key(text(f), VOCABULARY))},
        "carries no vocabulary",
    ),
    "text: another vocabulary": (
        lambda f: {"text": other(f, changed(text(f), tokens(text(f), [f"t{i}" for i in range(1024)])))},
        "the MTP drafter has another vocabulary than",
    ),
    "text: an E4B": (
        lambda f: {"text": other(f, changed(text(f), number(f"{TEXT}.embedding_length_per_layer_input", 256)))},
        "is a Gemma 4 E2B or E4B .*expected the 12B",
    ),
    "text: the 26B": (
        lambda f: {"text": other(f, changed(text(f), number(f"{TEXT}.expert_count", 128)))},
        "is the Gemma 4 26B .*expected the 12B",
    ),
    "text: no layer kinds": (
        lambda f: {"text": other(f, _without_key(text(f), f"{TEXT}.attention.sliding_window_pattern"))},
        "names no kind for each of its 12 layers",
    ),
}


def _theta(value: float) -> dict[str, bytes]:
    return {f"{DRAFTER}.rope.freq_base": encode_pair(f"{DRAFTER}.rope.freq_base", V.FLOAT32, value)}


def _kv_heads(values: list[int]) -> dict[str, bytes]:
    key = f"{DRAFTER}.attention.head_count_kv"
    return {key: encode_array(key, V.INT32, values)}


def _without_key(section: Section, key: str) -> Part:
    part = part_of(section)
    return replace(part, pairs={k: v for k, v in part.pairs.items() if k != key})


def test_there_are_enough_misfits() -> None:
    assert len(MISFITS) >= 25


@pytest.mark.parametrize("name", MISFITS)
def test_misfits(name: str, bundle: Path, parts: Mapping[str, Path], tmp_path: Path) -> None:
    """One line that names the file and what is wrong; nothing is written."""
    make, message = MISFITS[name]
    given: dict[str, Any] = {"text": parts[TEXT], "embedder": parts[EMBEDDER], "drafter": parts[DRAFTER]}
    wrong = make({**parts, "bundle": bundle, "out": tmp_path})
    before = sorted(tmp_path.iterdir())
    given |= wrong
    with pytest.raises(Gemma4Error, match=message) as failure:
        pack(given.pop("text"), tmp_path / "packed.gguf", **given)
    line = str(failure.value)
    assert "\n" not in line
    assert len(line) < 400
    (named,) = wrong.values()
    assert str(named) in line
    assert sorted(tmp_path.iterdir()) == before
