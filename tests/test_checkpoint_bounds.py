"""Checkpoints that are refused: quantised ones, and JSON, shapes and model cards that would cost too much."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from converters import convert
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import ConversionError
from gemma4gguf.tools.verify import faults
from tests.support import variants

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def metadata(tmp_path: Path) -> Mapping[str, Any]:
    return Bundle.open(tmp_path / "out.gguf").text.metadata


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes", "gptq", "awq", "compressed-tensors", "torchao", "mxfp4"])
@pytest.mark.parametrize("place", ["top", "text_config"])
def test_quantised_checkpoints_are_refused_by_method(tmp_path: Path, method: str, place: str) -> None:
    folder = variants.copy(tmp_path / "tiny")
    quantised = {"quantization_config": {"quant_method": method}}
    variants.edit(folder / "config.json", lambda c: (c if place == "top" else c["text_config"]).update(quantised))
    with pytest.raises(ConversionError, match=f"quantised by '{method}'"):
        convert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_config", {"num_hidden_layers": 1 << 24}),
        ("text_config", {"num_hidden_layers": 513, "layer_types": None}),
        ("text_config", {"num_attention_heads": 1 << 20}),
        ("text_config", {"vocab_size": 1 << 30}),
        ("vision_config", {"patch_size": 10_000}),
        ("vision_config", {"patch_size": 256, "pooling_kernel_size": 256}),
        ("vision_config", {"mm_posemb_size": 1 << 30}),
        ("audio_config", {"audio_embed_dim": 1 << 30}),
        ("text_config", {"use_bidirectional_attention": "all"}),
    ],
)
def test_numbers_are_checked_before_anything_is_made_of_them(tmp_path: Path, part: str, change: dict[str, Any]) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.edit(folder / "config.json", lambda c: c[part].update(change))
    tracemalloc.start()
    with pytest.raises(ConversionError, match=rf"{part}\.{next(iter(change))} is "):
        convert(folder, tmp_path / "out.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


def test_shapes_of_thousands_of_digits(tmp_path: Path) -> None:
    folder = variants.copy(tmp_path / "tiny")
    for shape in ([10**4000, 10**4000], [10**4000], [1 << 39, 1 << 39, 1 << 39], [1] * 100):
        variants.save(folder / SINGLE, {"x": ("F32", shape, b"abcd")})
        with pytest.raises(ConversionError) as caught:
            convert(folder, tmp_path / "out.gguf")
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,", b"[[[],"])
@pytest.mark.parametrize("name", [SINGLE, "config.json", "tokenizer.json", INDEX])
def test_json_of_many_values_costs_little(tmp_path: Path, unit: bytes, name: str) -> None:
    folder = variants.copy(tmp_path / "tiny", without={SINGLE} if name == INDEX else set())
    text = b'{"a": [' + unit * (24_000_000 // len(unit)) + b"0]" + b"]" * 0 + b"}"
    start = len(text).to_bytes(8, "little") if name == SINGLE else b""
    (folder / name).write_bytes(start + text)
    tracemalloc.start()
    with pytest.raises(ConversionError, match="values"):
        convert(folder, tmp_path / "out.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "generation_config.json", SINGLE, INDEX, "README.md"]
)
def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    folder = variants.copy(tmp_path / "tiny", without={name} | ({SINGLE} if name == INDEX else set()))
    os.mkfifo(folder / name)
    if name == "README.md":
        convert(folder, tmp_path / "out.gguf", quant="Q8_0")
        return
    with pytest.raises(ConversionError):
        convert(folder, tmp_path / "out.gguf")


# ── model cards ──────────────────────────────────────────────────────────────────────────────────────────────────

LAUGHS = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [{f'*{p},' * 9}]\n" for p, n in pairwise("abcdefghijkl"))


@pytest.mark.parametrize(
    "front",
    [
        LAUGHS + "tags: *l\n",
        "base: &b {x: 1}\ntags: [*b, *b]\n",
        "tags: " + "[" * 5000 + "]" * 5000,
        "description: " + "x" * 70_000,
        "base_model: [[1, 2], {a: b}]\ndatasets: {a: 1}\nlanguage: {no: 1}",
        "name: [a, b]\nversion: {x: 1}\nlicense: 2026-01-01\ntags: [1, null, {a: b}]",
        "base_model: 5\nmodel_name: true\n",
        "%YAML 9\n: : :",
    ],
)
def test_odd_model_cards_cost_nothing_and_stop_nothing(tmp_path: Path, front: str) -> None:
    folder = variants.copy(tmp_path / "tiny")
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    convert(folder, tmp_path / "out.gguf", quant="Q8_0", text_only=True)
    assert sum(len(str(v)) for k, v in metadata(tmp_path).items() if k.startswith("general.")) < 100_000


def test_a_plain_model_card_is_still_read(tmp_path: Path) -> None:
    folder = variants.copy(tmp_path / "tiny")
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\ntags: [a, b]\nname: Bold *one*\n---\n---\nText &a *b\n"
    )
    convert(folder, tmp_path / "out.gguf", quant="Q8_0", text_only=True)
    found = metadata(tmp_path)
    assert (found["general.license"], list(found["general.tags"])) == ("apache-2.0", ["a", "b"])
    assert found["general.name"] == "Bold *one*"


# ── what would be refused later is refused now ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1 << 16, 15 << 20, 17 << 20])
def test_a_large_template_verifies_or_is_refused(tmp_path: Path, size: int) -> None:
    folder = variants.copy(tmp_path / "tiny")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template + "{#" + "x" * size + "#}")
    if size > 1 << 24:
        with pytest.raises(ConversionError, match="at most 16,777,216"):
            convert(folder, tmp_path / "out.gguf", quant="Q8_0")
        assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
        return
    convert(folder, tmp_path / "out.gguf", quant="Q8_0")
    assert not [fault for fault in faults(tmp_path / "out.gguf") if "template" not in fault]


@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": 63},
        {"rms_norm_eps": 5.0},
        {"layer_types": ["sliding_attention"] * 6},
        {"final_logit_softcapping": 1e30},
    ],
)
def test_a_model_that_llama_cpp_would_not_survive_is_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.edit(folder / "config.json", lambda c: c["text_config"].update(change))
    with pytest.raises(ConversionError):
        convert(folder, tmp_path / "out.gguf", quant="Q8_0")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
