"""`pack`: anyone's files become one bundle, or one clear line says who does not fit whom."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf import Gemma4
from gemma4gguf.bundle.container import encode_array, encode_pair, padded, place_tensors
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle, Section, read_sections
from gemma4gguf.bundle.writing import Part, part_of
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import ConversionError, Gemma4Error
from gemma4gguf.tools.pack import pack

GREEDY = {"temperature": 0, "max_tokens": 8}


def save(path: Path, *parts: Part) -> Path:
    """Sections as plain GGUF files, without a bundle's keys, one after the other at multiples of 65,536."""
    raw = b""
    for part in parts:
        raw += bytes(padded(len(raw), 65_536) - len(raw)) + b"".join([part.header(), *map(bytes, part.data())])
    path.write_bytes(raw)
    return path


def changed(section: Section, keys: Mapping[str, bytes] | None = None, *, without: str = "") -> Part:
    """A section with other keys, or without the tensor `without`."""
    part = part_of(section)
    pairs = {**part.pairs, **(keys or {})}
    kept = [t for t in part.tensors if t.name != without]
    if not without:
        return replace(part, pairs=pairs)
    table = place_tensors([(t.name, t.shape, t.type) for t in kept])
    raws = [section.raw(t.name).tobytes() for t in kept]
    return Part(part.architecture, pairs, table, lambda: [raw + bytes(padded(len(raw)) - len(raw)) for raw in raws])


@pytest.fixture(scope="module")
def parts(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stand-in's sections as three files of anyone's: no bundle keys, other names."""
    folder = tmp_path_factory.mktemp("parts")
    return {
        s.architecture: save(folder / f"part-{s.architecture}.gguf", part_of(s)) for s in Bundle.open(bundle).sections
    }


def test_anyones_files_become_the_bundle_of_the_converter(
    bundle: Path, parts: Mapping[str, Path], tmp_path: Path
) -> None:
    """The converter and pack lay out the same sections the same way, whoever wrote the parts."""
    out = tmp_path / "out.gguf"
    result = pack(parts[TEXT], out, embedder=parts[EMBEDDER], drafter=parts[DRAFTER])
    assert out.read_bytes() == bundle.read_bytes()
    assert result.sections == (TEXT, EMBEDDER, DRAFTER)
    assert result.size == out.stat().st_size
    assert result.sizes == tuple(s.size for s in Bundle.open(bundle).sections)
    assert result.notes == ()


def test_a_packed_bundle_answers_as_the_converted_one(bundle: Path, parts: Mapping[str, Path], tmp_path: Path) -> None:
    pack(parts[TEXT], tmp_path / "out.gguf", embedder=parts[EMBEDDER])
    picture = np.full((96, 96, 3), (200, 30, 90), np.uint8)
    answers = []
    for path in (bundle, tmp_path / "out.gguf"):
        with Gemma4(path, context=1024, image_tokens=70) as model:
            answers.append(model.generate("What is this?", images=[picture], **GREEDY).text)
    assert answers[0] == answers[1]


def test_a_bundle_brings_its_own_sections(bundle: Path, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "same.gguf")
    assert (tmp_path / "same.gguf").read_bytes() == bundle.read_bytes()


def test_a_given_file_replaces_a_section(bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    """Another drafter into a bundle: the rest stays, byte for byte."""
    other = make_bundle("F32", drafter_quant="Q8_0")
    section = Bundle.open(other).require(DRAFTER)
    pack(bundle, tmp_path / "out.gguf", drafter=save(tmp_path / "drafter.gguf", part_of(section)))
    assert (tmp_path / "out.gguf").read_bytes() == other.read_bytes()


def test_text_alone_is_said_loudly(parts: Mapping[str, Path], tmp_path: Path) -> None:
    result = pack(parts[TEXT], tmp_path / "out.gguf")
    assert result.sections == (TEXT,)
    assert [note for note in result.notes if "NO EMBEDDER" in note]
    assert Bundle.open(tmp_path / "out.gguf").missing == ()


def test_a_rewritten_bundle_is_told_what_it_lost(bundle: Path, tmp_path: Path) -> None:
    text = Bundle.open(bundle).text
    (tmp_path / "lost.gguf").write_bytes(b"".join(text.copy()))
    result = pack(tmp_path / "lost.gguf", tmp_path / "out.gguf")
    assert sum("once had" in note for note in result.notes) == 2
    assert Bundle.open(tmp_path / "out.gguf").missing == ()


def test_what_a_split_leaves_in_the_keys_goes(bundle: Path, parts: Mapping[str, Path], tmp_path: Path) -> None:
    text = read_sections(parts[TEXT])[0]
    keys = {"split.count": encode_pair("split.count", V.UINT16, 1), "split.no": encode_pair("split.no", V.UINT16, 0)}
    merged = save(tmp_path / "merged.gguf", changed(text, keys))
    pack(merged, tmp_path / "out.gguf", embedder=parts[EMBEDDER], drafter=parts[DRAFTER])
    assert (tmp_path / "out.gguf").read_bytes() == bundle.read_bytes()


def test_query_key_and_value_may_be_one_tensor(parts: Mapping[str, Path], tmp_path: Path) -> None:
    """llama.cpp reads either form, so both are whole models."""
    text = read_sections(parts[TEXT])[0]
    apart = [f"blk.0.attn_{name}.weight" for name in "qkv"]
    raws = {name: text.raw(name).tobytes() for name in text.tensors if name not in apart}
    raws["blk.0.attn_qkv.weight"] = b"".join(text.raw(name).tobytes() for name in apart)
    rows = sum(text.tensors[name].shape[0] for name in apart)
    shapes = {name: info.shape for name, info in text.tensors.items()} | {"blk.0.attn_qkv.weight": (rows, 256)}
    table = place_tensors([(name, shapes[name], T.F32) for name in raws])
    fused = Part(
        TEXT, part_of(text).pairs, table, lambda: [raw + bytes(padded(len(raw)) - len(raw)) for raw in raws.values()]
    )
    pack(save(tmp_path / "fused.gguf", fused), tmp_path / "out.gguf", embedder=parts[EMBEDDER], drafter=parts[DRAFTER])
    assert "blk.0.attn_qkv.weight" in Bundle.open(tmp_path / "out.gguf").text.tensors


def test_its_own_source_can_be_replaced(bundle: Path, parts: Mapping[str, Path], tmp_path: Path) -> None:
    """The new file takes the name only when it is whole, so the source may be the output."""
    own = shutil.copy(parts[TEXT], tmp_path / "own.gguf")
    pack(own, own, embedder=parts[EMBEDDER], drafter=parts[DRAFTER], force=True)
    assert Path(own).read_bytes() == bundle.read_bytes()


# ── misfits ──────────────────────────────────────────────────────────────────────────────────────────────────────


def string(key: str, value: str) -> dict[str, bytes]:
    return {key: encode_pair(key, V.STRING, value)}


def number(key: str, value: int) -> dict[str, bytes]:
    return {key: encode_pair(key, V.UINT32, value)}


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
    shapes = {"v.patch_embd.weight": (width, 6912), "v.position_embd.weight": (2, 16, width)}
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
        lambda f: {"text": other(f, changed(text(f), tokens(text(f), [str(i) for i in range(1024)])))},
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


def test_an_output_that_exists_stays(parts: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(ConversionError, match="exists already"):
        pack(parts[TEXT], tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_command(bundle: Path, parts: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    line = ["pack", str(parts[TEXT]), "--embedder", str(parts[EMBEDDER]), "--drafter", str(parts[DRAFTER]), str(out)]
    assert run(cli, [*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sections"] == [TEXT, EMBEDDER, DRAFTER]
    assert out.read_bytes() == bundle.read_bytes()
    assert run(cli, line) == 1
    shown = capsys.readouterr()
    assert "exists already" in shown.err
    assert shown.out == ""
    assert run(cli, [*line, "--force"]) == 0
    assert "MTP drafter" in capsys.readouterr().out
    assert run(cli, ["pack", str(parts[TEXT]), str(tmp_path / "text.gguf")]) == 0
    assert "NO EMBEDDER" in capsys.readouterr().err
