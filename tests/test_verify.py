"""`verify`: every fault of a file at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import encode_array, encode_pair, padded
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, KEY, TEXT, Bundle, Section
from gemma4gguf.bundle.writing import Part, part_of, write_bundle
from gemma4gguf.cli import cli, run
from gemma4gguf.tools.verify import faults
from tests.support.bundles import keys, poke, string

NAN = float("nan")


def test_sound_bundles_have_no_faults(bundle: Path, mixed: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    assert faults(bundle, lambda done, total: told.append((done, total))) == []
    assert told == sorted(told)
    assert 0.99 < told[-1][0] / told[-1][1] <= 1
    assert faults(mixed) == []
    text = tmp_path / "text.gguf"
    write_bundle(text, [part_of(Bundle.open(mixed).text)])
    assert faults(text) == []


def bundled(bundle: Path, out: Path, change: Mapping[str, Callable[[Section], Part]]) -> Path:
    """The bundle with some sections changed, written as a bundle, so that its hashes are right."""
    write_bundle(out, [change.get(s.architecture, part_of)(s) for s in Bundle.open(bundle).sections])
    return out


def data(section: Section, tensor: str, value: float) -> Part:
    """A section with one float32 tensor's first value changed."""
    part = part_of(section)
    info = section.tensors[tensor]
    assert info.type is T.F32

    def pieces() -> list[bytes]:
        raw = bytearray(b"".join(map(bytes, part.data())))
        raw[info.offset : info.offset + 4] = np.float32(value).tobytes()
        return [bytes(raw)]

    return replace(part, data=pieces)


@pytest.mark.parametrize(
    ("name", "tensor", "new", "message"),
    [
        (TEXT, "blk.0.attn_norm.weight", b"\xff" * 4, "blk.0.attn_norm.weight holds values that are not finite"),
        (TEXT, "token_embd.weight", b"\0" * 100, "text model: its SHA-256"),
        (TEXT, "blk.3.ffn_up.weight", b"\xff" * 144, "blk.3.ffn_up.weight holds values that are not finite"),  # Q4_K
        (EMBEDDER, "v.patch_embd.weight", b"\0\0\x80\x7f", "v.patch_embd.weight holds values that are not finite"),
        (DRAFTER, "blk.0.ffn_up.weight", b"\xff\xff", "blk.0.ffn_up.weight holds values that are not finite"),  # Q8_0
        (DRAFTER, "output_norm.weight", b"\1", "MTP drafter: its SHA-256"),
    ],
)
def test_damage(mixed: Path, tmp_path: Path, name: str, tensor: str, new: bytes, message: str) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(mixed.read_bytes())
    found = faults(poke(path, name, tensor, new))
    assert any(message in fault for fault in found), found
    assert sum("SHA-256" in fault for fault in found) == 1


def test_all_faults_are_listed(mixed: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(mixed.read_bytes())
    for name, tensor in (
        (TEXT, "output_norm.weight"),
        (EMBEDDER, "v.patch_norm.1.bias"),
        (DRAFTER, "output_norm.weight"),
    ):
        poke(path, name, tensor, np.array([NAN, NAN], np.float32).tobytes())
    section = Bundle.open(path).text
    with open(path, "r+b") as file:
        file.seek(section.offset + section.size)
        file.write(b"extra")
    found = faults(path)
    assert sum("not finite" in fault for fault in found) == 3
    assert sum("SHA-256" in fault for fault in found) == 3
    assert sum("unknown bytes" in fault for fault in found) == 1
    assert all("\n" not in fault for fault in found)


TEMPLATE = "tokenizer.chat_template"
TOKENS = "tokenizer.ggml.tokens"


def renamed(section: Section, old: str, new: str) -> dict[str, bytes]:
    words = [new if word == old else word for word in section.metadata[TOKENS]]
    return {TOKENS: encode_array(TOKENS, V.STRING, words)}


FAULTS: dict[str, tuple[dict[str, Callable[[Section], Part]], str]] = {
    "NaN, hashed as it is": (
        {TEXT: lambda s: data(s, "blk.1.ffn_norm.weight", NAN)},
        "blk.1.ffn_norm.weight holds values that are not finite",
    ),
    "no template": ({TEXT: lambda s: keys(s, {}, TEMPLATE)}, "carries no chat template"),
    "a template that is none": ({TEXT: lambda s: keys(s, string(TEMPLATE, "{% if %}"))}, "chat template, one question"),
    "a template that refuses thoughts": (
        {TEXT: lambda s: keys(s, string(TEMPLATE, "{% if enable_thinking %}{{ raise_exception('no') }}{% endif %}"))},
        "chat template, with thinking",
    ),
    "a template that refuses tools": (
        {TEXT: lambda s: keys(s, string(TEMPLATE, "{% if tools %}{{ raise_exception('no') }}{% endif %}"))},
        "chat template, a tool call",
    ),
    "a template that leaves pictures out": (
        {TEXT: lambda s: keys(s, string(TEMPLATE, "{{ messages[0].role }}"))},
        "chat template, where a picture goes: .*leaves media out",
    ),
    "a special token is not there": (
        {name: lambda s: keys(s, renamed(s, "<|think|>", "<think>")) for name in (TEXT, DRAFTER)},
        r"there is no token <\|think\|>",
    ),
    "a token twice": (  # llama.cpp ends the process over this, and over the next
        {name: lambda s: keys(s, renamed(s, "<|think|>", "<bos>")) for name in (TEXT, DRAFTER)},
        "tokenizer: .*1 of its 1,024 tokens are there twice",
    ),
    "another kind of vocabulary": (
        {TEXT: lambda s: keys(s, string("tokenizer.ggml.model", "bert"))},
        "tokenizer.ggml.model is 'bert'",
    ),
    "no merges": (
        {TEXT: lambda s: keys(s, {}, "tokenizer.ggml.merges")},
        "tokenizer: ",
    ),
    "another drafter's vocabulary": (
        {DRAFTER: lambda s: keys(s, renamed(s, "<|think|>", "<think>"))},
        "MTP drafter: .*another vocabulary",
    ),
    "an embedder for other patches": (
        {EMBEDDER: lambda s: keys(s, {"clip.vision.patch_size": encode_pair("clip.vision.patch_size", V.UINT32, 14)})},
        "multimodal embedder: .*patch_size is 14",
    ),
    "a wrong layer count": (
        {TEXT: lambda s: keys(s, {"gemma4.block_count": encode_pair("gemma4.block_count", V.UINT32, 13)})},
        "text model: .*names no kind for each of its 13 layers",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_hashes_do_not_show(bundle: Path, tmp_path: Path, name: str) -> None:
    change, message = FAULTS[name]
    found = faults(bundled(bundle, tmp_path / "faulty.gguf", change))
    assert any(re.search(message, fault) for fault in found), found
    assert not any("SHA-256" in fault for fault in found)


def test_tensors_out_of_order(bundle: Path, tmp_path: Path) -> None:
    """llama.cpp refuses a table whose tensors do not lie in its order; opening the file here does not."""

    def swapped(section: Section) -> Part:
        part = part_of(section)
        return replace(part, tensors=[*reversed(part.tensors)])

    found = faults(bundled(bundle, tmp_path / "a.gguf", {DRAFTER: swapped}))
    assert any("MTP drafter" in fault and "overlap or leave gaps" in fault for fault in found)


@pytest.mark.parametrize(
    ("key", "new", "message"),
    [
        ("version", encode_pair(KEY + "version", V.UINT32, 2), "bundle version 2, expected 1"),
        ("sizes", encode_array(KEY + "sizes", V.UINT64, [1, 2, 3]), "the bundle says 1"),
        ("sizes", encode_array(KEY + "sizes", V.UINT64, [1, 2]), "names 3 sections, 2 sizes and 3 hashes"),
        ("sha256", encode_pair(KEY + "sha256", V.UINT32, 1), "are damaged"),
        ("sections", encode_array(KEY + "sections", V.STRING, [TEXT, "aura", DRAFTER]), "'aura', which nobody knows"),
        ("sections", encode_array(KEY + "sections", V.STRING, [TEXT, DRAFTER, DRAFTER]), "names 3 sections"),
        ("sections", encode_array(KEY + "sections", V.STRING, [TEXT, "aura", DRAFTER]), "is not among the sections"),
    ],
)
def test_a_bundle_that_says_something_else(bundle: Path, tmp_path: Path, key: str, new: bytes, message: str) -> None:
    first, *others = Bundle.open(bundle).sections
    part = part_of(first)
    pairs = {k: v for k, v in part.pairs.items() if k != KEY + key} | {KEY + key: new}
    # Under names that the writer does not replace with right ones, then put back: same lengths, same layout.
    hidden = {
        k.replace(KEY, "gemma4gguf_bundle."): v.replace(KEY.encode(), b"gemma4gguf_bundle.") for k, v in pairs.items()
    }
    raw = b"".join(
        [replace(part, pairs=hidden).header().replace(b"gemma4gguf_bundle.", KEY.encode()), *map(bytes, part.data())]
    )
    for section in others:
        raw += bytes(padded(len(raw), 65_536) - len(raw)) + b"".join(section.copy())
    (tmp_path / "a.gguf").write_bytes(raw)
    found = faults(tmp_path / "a.gguf")
    assert any(message in fault for fault in found), found
    assert run(cli, ["inspect", str(tmp_path / "a.gguf")]) in (0, 1)


def test_what_does_not_open_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"hello")
    assert len(faults(path)) == 1


def test_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["verify", str(bundle)]) == 0
    assert "sound" in capsys.readouterr().out
    bad = bundled(bundle, tmp_path / "bad.gguf", {TEXT: lambda s: keys(s, {}, TEMPLATE)})
    assert run(cli, ["verify", str(bad)]) == 1
    assert capsys.readouterr().out.count("fault") == 1
    assert run(cli, ["verify", str(bad), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 1
