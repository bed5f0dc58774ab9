"""The C quantiser's boundary and the stream above it: against slow twins, within bounds, and cleaned up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from converters import convert
from converters import quantise as stream
from converters.gemma4 import MappedTensor
from converters.quantise import PlannedTensor
from converters.rows import SLAB
from converters.safetensors import StoredTensor
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import ConversionError, NativeError
from gemma4gguf.native import quantizer

RNG = np.random.default_rng(5)
ROWS = (RNG.standard_normal((7, 512)) * np.exp(RNG.normal(0, 2, (7, 1)))).astype(np.float32)


@pytest.mark.parametrize("kind", [T.F16, T.BF16, T.Q8_0, T.Q5_1, T.Q5_0, T.Q4_1, T.Q4_0])
def test_rows_against_gguf_s_own_python(kind: T) -> None:
    expected = gguf.quants.quantize(ROWS, kind).view(np.uint8).reshape(7, -1)
    np.testing.assert_array_equal(quantizer.quantize_rows(ROWS, kind), expected)


@pytest.mark.parametrize("kind", [T.Q6_K, T.Q5_K, T.Q4_K, T.Q3_K, T.Q2_K, T.IQ4_XS, T.IQ4_NL])
def test_rows_come_back_near_enough(kind: T) -> None:
    stored = quantizer.quantize_rows(ROWS, kind)
    back = gguf.quants.dequantize(stored, kind)
    spread = ROWS.std(axis=1, keepdims=True)
    bits = 8 * stored.shape[1] / ROWS.shape[1]
    assert np.sqrt((((back - ROWS) / spread) ** 2).mean()) < 2.0 ** (1 - bits)
    assert quantizer.is_valid(stored, kind)


def test_importance_moves_the_error_to_what_matters_less() -> None:
    weights = np.where(np.arange(512) % 2, 100, 0.01).astype(np.float32)
    plain, weighted = (
        (gguf.quants.dequantize(quantizer.quantize_rows(ROWS, T.Q4_0, w), T.Q4_0) - ROWS)[:, 1::2]
        for w in (None, weights)
    )
    assert (weighted**2).sum() < (plain**2).sum()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_values_that_do_not_fit(value: float) -> None:
    rows = ROWS.copy()
    rows[3, 5] = value
    with pytest.raises(NativeError, match="F16"):
        quantizer.quantize_rows(rows, T.F16)


def test_arguments_are_checked_before_c_sees_them() -> None:
    with pytest.raises(ValueError, match="float32"):
        quantizer.quantize_rows(ROWS.astype(np.float64), T.Q8_0)
    with pytest.raises(ValueError, match="contiguous"):
        quantizer.quantize_rows(ROWS[:, ::2], T.Q8_0)
    with pytest.raises(ValueError, match="divide"):
        quantizer.quantize_rows(ROWS[:, :100].copy(), T.Q4_K)
    with pytest.raises(ValueError, match="importance"):
        quantizer.quantize_rows(ROWS, T.Q4_0, np.ones(256, np.float32))


def test_the_library_is_found_or_the_cure_is_told(tmp_path: Path) -> None:
    assert quantizer.library_path().is_file()
    code = (
        "from gemma4gguf.native import quantizer\n"
        "try: quantizer.library_path()\n"
        "except quantizer.NativeError as error: print(error)"
    )
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert str(tmp_path) in said
    assert "install llama-cpp-python again" in said


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────────


def wide_target(tmp_path: Path) -> PlannedTensor:
    """A billion values that take no disk: the 12B's token embedding, all zeros."""
    path, shape = tmp_path / "sparse.bin", (262_144, 3840)
    with open(path, "wb") as file:
        file.truncate(2 * shape[0] * shape[1])
    return PlannedTensor(
        MappedTensor("token_embd.weight", shape, StoredTensor("embed", shape, T.BF16, path, 0)), T.Q8_0
    )


def test_pieces_stay_small_and_an_abandoned_stream_ends_its_threads(tmp_path: Path) -> None:
    target = wide_target(tmp_path)
    before = threading.active_count()
    pieces = stream.pieces([target], threads=3)
    sizes = [len(next(pieces)) for _ in range(5)]
    assert max(sizes) <= 2 * SLAB
    assert threading.active_count() > before
    pieces.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    target = wide_target(tmp_path)
    pieces = stream.pieces([target], threads=2)
    next(pieces)
    assert target.tensor.stored is not None
    os.truncate(target.tensor.stored.path, 1000)
    with pytest.raises(ConversionError, match="changed while it was read"):
        list(pieces)


@pytest.mark.parametrize(("dtype", "numpy_type"), [("F32", np.float32), ("F16", np.float16)])
@pytest.mark.parametrize("quant", ["F32", "BF16", "F16", "Q4_0"])
def test_checkpoints_stored_in_other_types(
    tmp_path: Path, checkpoint: Path, make_bundle: Callable[..., Path], dtype: str, numpy_type: type, quant: str
) -> None:
    """The same values in float32 give the same file; in float16 the file of the rounded values."""
    restored = restore(checkpoint, tmp_path / checkpoint.name, dtype, numpy_type)
    convert(restored, tmp_path / "out.gguf", quant=quant, text_only=True)
    text = Bundle.open(tmp_path / "out.gguf").text
    if dtype == "F32":
        same = Bundle.open(make_bundle(quant)).text
        assert all(np.array_equal(text.raw(n), same.raw(n)) for n in text.tensors)
        return
    exact = Bundle.open(make_bundle("F32")).text
    for name in ("blk.3.ffn_down.weight", "token_embd.weight", "blk.5.attn_norm.weight"):
        rounded = exact.array(name).astype(np.float16).astype(np.float32)
        rounded = rounded.reshape(-1, rounded.shape[-1])
        kind = text.tensors[name].type
        expected = rounded.view(np.uint8) if kind is T.F32 else quantizer.quantize_rows(rounded, kind)
        np.testing.assert_array_equal(text.raw(name), expected.reshape(-1))


def restore(checkpoint: Path, folder: Path, dtype: str, numpy_type: type) -> Path:
    """A copy of a checkpoint with its values stored in another type."""
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    raw = (checkpoint / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), bytearray()
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        halves = np.frombuffer(raw[start + begin : start + end], np.uint16).astype(np.uint32) << 16
        first = len(data)
        data += halves.view(np.float32).astype(numpy_type).tobytes()
        entry |= {"dtype": dtype, "data_offsets": [first, len(data)]}
    blob = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(blob).to_bytes(8, "little") + blob + bytes(data))
    return folder
