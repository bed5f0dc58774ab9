"""llama.cpp's own quantiser, through its C interface, for tests to compare with."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from gemma4gguf.bundle.reading import Section

FloatArray = npt.NDArray[np.float32]
SILENT = llama.llama_log_callback(lambda level, text, data: None)


def llama_quantize(
    source: Path,
    out: Path,
    file_type: int,
    importance: Mapping[str, FloatArray] | None = None,
    overrides: Mapping[str, int] | None = None,
    requantize: bool = False,
) -> None:
    """llama_model_quantize: a GGUF in, a GGUF of that llama_ftype out."""
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = file_type, 2, requantize
    if importance:
        entries = (llama.llama_model_imatrix_data * (len(importance) + 1))()
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    if overrides:
        patterns = (llama.llama_model_tensor_override * (len(overrides) + 1))()
        for pattern, (text, kind) in zip(patterns, overrides.items(), strict=False):
            pattern.pattern, pattern.type = text.encode(), kind
        params.tt_overrides = patterns
    llama.llama_log_set(SILENT, None)
    status = llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    assert status == 0


def importance_of(section: Section) -> dict[str, FloatArray]:
    """Made-up importance values for every matrix of the layers: positive, spread over two decades, a few zeros."""
    values = {}
    for name, info in section.tensors.items():
        if name.startswith("blk.") and len(info.shape) == 2:
            rng = np.random.default_rng(list(name.encode()))
            values[name] = np.exp(rng.normal(0, 1.5, info.shape[1])).astype(np.float32)
            values[name][:: info.shape[1] // 3] = 0
    return values


def write_imatrix_gguf(path: Path, sums: Mapping[str, FloatArray], count: float) -> None:
    """What llama-imatrix writes today: sums of squares and how many tokens they were summed over."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values.reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), count, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_imatrix_legacy(path: Path, sums: Mapping[str, FloatArray], calls: int) -> None:
    """What llama-imatrix wrote before: sums that are still to be divided by the number of calls."""
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(sums)))
        for name, values in sums.items():
            raw = name.encode()
            file.write(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, values.size) + values.tobytes())
        text = b"calibration.txt"
        file.write(struct.pack("<ii", 7, len(text)) + text)
