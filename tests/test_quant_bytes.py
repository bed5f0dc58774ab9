"""Every type, with and without importance values: tensor types and bytes as llama_model_quantize writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from converters import MIXTURES, convert
from gemma4gguf.bundle.reading import DRAFTER, Section, read_sections
from tests.support.quantise_peer import (
    FloatArray,
    importance_of,
    llama_quantize,
    write_imatrix_gguf,
    write_imatrix_legacy,
)
from tests.support.standin import SMALL, write_checkpoint, write_drafter

COUNT = 3.0  # tokens behind the importance values; a division that does not come out even


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its drafter, both as BF16 GGUFs of our own, and importance values in both formats."""
    path = tmp_path_factory.mktemp("quantise")
    write_checkpoint(path / "model")
    write_drafter(path / "drafter")
    no_width_divides = replace(SMALL, drafter_hidden=160, drafter_ffn=320)  # into blocks of 256
    write_drafter(path / "narrow", sizes=no_width_divides)
    convert(path / "model", path / "bf16.gguf", quant="BF16", text_only=True)
    sums = importance_of(text_of(path / "bf16.gguf"))
    write_imatrix_gguf(path / "imatrix.gguf", sums, COUNT)
    write_imatrix_legacy(path / "imatrix.dat", sums, int(COUNT))
    return path


def text_of(path: Path) -> Section:
    return read_sections(path)[0]


def assert_same_tensors(ours: Section, theirs: Section) -> None:
    assert list(ours.tensors) == list(theirs.tensors)  # their order too
    assert {n: t.type.name for n, t in ours.tensors.items()} == {n: t.type.name for n, t in theirs.tensors.items()}
    different = [n for n in ours.tensors if not np.array_equal(ours.raw(n), theirs.raw(n))]
    assert different == []


def assert_same_keys(ours: Section, theirs: Section) -> None:
    own = {k: v for k, v in ours.header.pairs.items() if not k.startswith(("gemma4gguf.bundle.", "quantize."))}
    peer = {k: v for k, v in theirs.header.pairs.items() if not k.startswith("gemma4gguf.bundle.")}
    assert own == peer


@pytest.mark.parametrize("quant", MIXTURES)
def test_text_model_without_importance(folder: Path, tmp_path: Path, quant: str) -> None:
    convert(folder / "model", tmp_path / "ours.gguf", quant=quant)
    llama_quantize(folder / "bf16.gguf", tmp_path / "theirs.gguf", MIXTURES[quant].file_type)
    ours, theirs = text_of(tmp_path / "ours.gguf"), text_of(tmp_path / "theirs.gguf")
    assert_same_tensors(ours, theirs)
    assert_same_keys(ours, theirs)


QUANTISED = [q for q in MIXTURES if q not in ("F32", "BF16", "F16")]


@pytest.mark.parametrize(
    ("quant", "file"), [*((q, "imatrix.gguf") for q in QUANTISED), ("Q4_0", "imatrix.dat"), ("Q4_K_M", "imatrix.dat")]
)
def test_text_model_with_importance(folder: Path, tmp_path: Path, quant: str, file: str) -> None:
    convert(folder / "model", tmp_path / "ours.gguf", quant=quant, imatrix=folder / file, text_only=True)
    values: dict[str, FloatArray] = {}
    for name, sums in importance_of(text_of(folder / "bf16.gguf")).items():
        values[name] = sums / np.float32(COUNT)
    llama_quantize(folder / "bf16.gguf", tmp_path / "theirs.gguf", MIXTURES[quant].file_type, values)
    ours, theirs = text_of(tmp_path / "ours.gguf"), text_of(tmp_path / "theirs.gguf")
    assert_same_tensors(ours, theirs)
    assert_same_keys(ours, theirs)
    assert ours.metadata["quantize.imatrix.file"] == file
    assert ours.metadata["quantize.imatrix.dataset"] == "calibration.txt"
    assert ours.metadata["quantize.imatrix.entries_count"] == len(values)
    assert ours.metadata["quantize.imatrix.chunks_count"] == 7


@pytest.mark.parametrize(("quant", "drafter"), [*((q, "narrow") for q in MIXTURES), ("Q4_K_M", "drafter")])
def test_drafter(folder: Path, tmp_path: Path, quant: str, drafter: str) -> None:
    convert(folder / "bf16.gguf", tmp_path / "ours.gguf", quant="BF16", drafter=folder / drafter, drafter_quant=quant)
    convert(folder / "bf16.gguf", tmp_path / "plain.gguf", quant="BF16", drafter=folder / drafter, drafter_quant="BF16")
    (tmp_path / "bf16.gguf").write_bytes(b"".join(section_of(tmp_path / "plain.gguf").copy()))
    llama_quantize(tmp_path / "bf16.gguf", tmp_path / "theirs.gguf", MIXTURES[quant].file_type)
    ours, theirs = section_of(tmp_path / "ours.gguf"), text_of(tmp_path / "theirs.gguf")
    assert_same_tensors(ours, theirs)
    assert_same_keys(ours, theirs)


def section_of(path: Path) -> Section:
    return next(s for s in read_sections(path) if s.architecture == DRAFTER)


@pytest.mark.parametrize(
    ("source", "quant"), [("F32", "Q4_0"), ("F16", "Q4_K_M"), ("BF16", "IQ4_XS"), ("Q8_0", "Q4_0"), ("Q8_0", "Q4_K_M")]
)
def test_gguf_sources(folder: Path, tmp_path: Path, source: str, quant: str) -> None:
    convert(folder / "model", tmp_path / "source.gguf", quant=source)
    convert(tmp_path / "source.gguf", tmp_path / "ours.gguf", quant=quant)
    convert(folder / "model", tmp_path / "text.gguf", quant=source, text_only=True)
    kind = MIXTURES[quant].file_type
    llama_quantize(tmp_path / "text.gguf", tmp_path / "theirs.gguf", kind, requantize=source == "Q8_0")
    assert_same_tensors(text_of(tmp_path / "ours.gguf"), text_of(tmp_path / "theirs.gguf"))
    before, after = read_sections(tmp_path / "source.gguf")[1], read_sections(tmp_path / "ours.gguf")[1]
    assert b"".join(before.copy()) == b"".join(after.copy())


def test_overrides(folder: Path, tmp_path: Path) -> None:
    given = {r"blk\.[0-3]\.ffn_down": "Q8_0", "attn_v": "Q5_0", "token_embd": "Q4_K"}
    convert(folder / "model", tmp_path / "ours.gguf", quant="Q4_K_M", types=[f"{n}={t}" for n, t in given.items()])
    kinds = {n: int(GGMLQuantizationType[t]) for n, t in given.items()}
    llama_quantize(folder / "bf16.gguf", tmp_path / "theirs.gguf", MIXTURES["Q4_K_M"].file_type, overrides=kinds)
    assert_same_tensors(text_of(tmp_path / "ours.gguf"), text_of(tmp_path / "theirs.gguf"))
