"""`inspect` and `verify`: everything a file says of itself, and every fault at once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader
from gguf import GGUFValueType as V

from converters.checkpoint import read_checkpoint
from converters.origin import Origin
from gemma4gguf import __version__
from gemma4gguf.bundle.container import encode_array, encode_header, encode_pair, padded
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, KEY, TEXT, Bundle, Section
from gemma4gguf.bundle.writing import Part, part_of, write_bundle
from gemma4gguf.cli import cli, run
from gemma4gguf.tools.inspect import summary
from gemma4gguf.tools.verify import faults

NAN = float("nan")


@pytest.fixture(scope="module")
def mixed(make_bundle: Callable[..., Path]) -> Path:
    """A bundle of several types."""
    return make_bundle("Q4_K_M", drafter_quant="Q8_0")


# ── inspect ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_summary_agrees_with_the_reference_reader(mixed: Path, tmp_path: Path) -> None:
    """Counts, types and sizes of each section, against gguf-py's of the section as a file of its own."""
    bundle = Bundle.open(mixed)
    report = summary(bundle)
    assert report["size"] == mixed.stat().st_size
    assert [s["architecture"] for s in report["sections"]] == [TEXT, EMBEDDER, DRAFTER]
    for section, told in zip(bundle.sections, report["sections"], strict=True):
        path = tmp_path / "section.gguf"
        path.write_bytes(b"".join(section.copy()))
        reader = GGUFReader(path)
        parameters = sum(int(t.n_elements) for t in reader.tensors)
        assert told["tensors"] == len(reader.tensors)
        assert told["parameters"] == parameters
        assert told["bits_per_weight"] == round(8 * sum(int(t.n_bytes) for t in reader.tensors) / parameters, 2)
        for kind, count in told["types"].items():
            assert count == sum(t.tensor_type == T[kind] for t in reader.tensors)
        assert told["size"] == path.stat().st_size
        assert told["header"] == min(int(t.data_offset) for t in reader.tensors)
    assert [s["file_type"] for s in report["sections"]] == ["Q4_K_M", "F32", "Q8_0"]


def test_a_summary_names_defaults_and_origin(mixed: Path) -> None:
    report = summary(Bundle.open(mixed))
    meta = Bundle.open(mixed).text.metadata
    assert report["model"] == {"layers": 12, "hidden": 256, "context": 8192, "sliding_window": 64}
    assert report["sampling"] == {"temp": 1.0, "top_k": 64, "top_p": 0.95, "min_p": None, "penalty_repeat": None}
    assert report["end_tokens"] == ["<eos>", "<turn|>", "<|tool_response>"]
    assert report["vocabulary"] == 1024
    assert report["chat_template_sha256"] == hashlib.sha256(meta["tokenizer.chat_template"].encode()).hexdigest()
    assert report["provenance"]["name"] == meta["general.name"]
    assert not {"architecture", "type", "file_type", "sampling.temp"} & set(report["provenance"])
    assert json.loads(json.dumps(report)) == report


CARD = """---
license: apache-2.0
base_model: google/gemma-4-12B
tags: [vision]
---
# A model card
"""


def test_where_a_model_comes_from_is_read_off_its_card(checkpoint: Path, tmp_path: Path) -> None:
    """Name, licence, base model, repository, and who quantised it: the keys that the Hub's pages show."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "gemma-4-12B-it"))
    (folder / "README.md").write_text(CARD)
    material = read_checkpoint(Origin(folder, "gemma-4-12B-it", repo="google/gemma-4-12B-it")).sections[0]
    path = tmp_path / "keys.gguf"
    path.write_bytes(encode_header(material.pairs(0).values(), []))
    found = summary(Bundle.open(path))["provenance"]
    assert found["name"] == "Gemma 4 12B It"
    assert found["license"] == "apache-2.0"
    assert found["base_model.0.name"] == "Gemma 4 12B"
    assert found["base_model.0.repo_url"] == "https://huggingface.co/google/gemma-4-12B"
    assert found["source.repo_url"] == "https://huggingface.co/google/gemma-4-12B-it"
    assert found["quantized_by"] == f"gemma4gguf {__version__}"
    assert found["tags"] == ["vision"]


def test_a_person_reads_it_too(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["inspect", str(mixed)]) == 0
    shown = capsys.readouterr()
    for wanted in ("Q4_K_M: ", "multimodal embedder", "MTP drafter", "top p", "0.95", "<turn|>", "8,192", "SHA-256"):
        assert wanted in shown.out
    assert shown.err == ""


def test_a_file_cannot_write_on_the_terminal(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and line ends in names from a file are shown as replacement characters."""
    evil = "\x1b]0;pwned\x07\x1b[2J\nfault: none\u202e"
    part = keys(Bundle.open(bundle).text, string("general.name", evil) | string(evil, evil))
    renamed = [replace(t, name=evil) if t.name == "output_norm.weight" else t for t in part.tensors]
    path = tmp_path / "evil.gguf"
    write_bundle(path, [replace(part, tensors=renamed)])
    poke(path, TEXT, evil, b"\xff" * 8)
    for command in (
        ["inspect"],
        ["verify"],
        ["export", "--for", "lmstudio", str(tmp_path / "out")],
        ["pack", str(tmp_path / "o")],
    ):
        run(cli, [command[0], str(path), *command[1:]])
        shown = capsys.readouterr()
        assert "pwned" in shown.out or command[0] not in ("inspect", "verify")
        assert not set("\x1b\x07\u202e") & set(shown.out + shown.err)
        assert not [line for line in shown.out.splitlines() if line.startswith("fault: none")]


def test_lost_sections_show(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lost.gguf"
    path.write_bytes(b"".join(Bundle.open(mixed).text.copy()))
    assert run(cli, ["inspect", str(path)]) == 0
    assert capsys.readouterr().err.count("gemma4gguf pack") == 2
    assert run(cli, ["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == [EMBEDDER, DRAFTER]


@pytest.mark.parametrize("value", [7, -1, "x", [True], [0.5], True, NAN], ids=repr)
def test_keys_of_another_type_stop_no_summary(mixed: Path, value: object) -> None:
    bundle = Bundle.open(mixed)
    text = bundle.text
    for key in text.metadata:
        header = replace(text.header, metadata={**text.metadata, key: value})
        assert summary(replace(bundle, sections=(replace(text, header=header), *bundle.sections[1:])))["sections"]


# ── verify ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sound_bundles_have_no_faults(bundle: Path, mixed: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    assert faults(bundle, lambda done, total: told.append((done, total))) == []
    assert told == sorted(told)
    assert 0.99 < told[-1][0] / told[-1][1] <= 1
    assert faults(mixed) == []
    text = tmp_path / "text.gguf"
    write_bundle(text, [part_of(Bundle.open(mixed).text)])
    assert faults(text) == []


def keys(section: Section, new: Mapping[str, bytes], without: str = "") -> Part:
    part = part_of(section)
    kept = {k: v for k, v in part.pairs.items() if k != without}
    return replace(part, pairs=kept | dict(new))


def bundled(bundle: Path, out: Path, change: Mapping[str, Callable[[Section], Part]]) -> Path:
    """The bundle with some sections changed, written as a bundle, so that its hashes are right."""
    write_bundle(out, [change.get(s.architecture, part_of)(s) for s in Bundle.open(bundle).sections])
    return out


def poke(path: Path, architecture: str, tensor: str, new: bytes) -> Path:
    section = Bundle.open(path).require(architecture)
    with open(path, "r+b") as file:
        file.seek(section.header.data_start + section.tensors[tensor].offset)
        file.write(new)
    return path


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
        poke(path, name, tensor, np.float32([NAN, NAN]).tobytes())
    section = Bundle.open(path).text
    with open(path, "r+b") as file:
        file.seek(section.offset + section.size)
        file.write(b"extra")
    found = faults(path)
    assert sum("not finite" in fault for fault in found) == 3
    assert sum("SHA-256" in fault for fault in found) == 3
    assert sum("unknown bytes" in fault for fault in found) == 1
    assert all("\n" not in fault for fault in found)


def string(key: str, value: str) -> dict[str, bytes]:
    return {key: encode_pair(key, V.STRING, value)}


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
