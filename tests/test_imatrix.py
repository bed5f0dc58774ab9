"""Importance matrices that fit badly or not at all: used and said, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import Gemma4Error
from tests.support.broken import fails
from tests.support.quantise_peer import importance_of, write_imatrix_gguf, write_imatrix_legacy


@pytest.fixture(scope="module")
def sums(make_bundle: Callable[..., Path]) -> dict[str, Any]:
    return importance_of(Bundle.open(make_bundle("BF16")).text)


def test_an_importance_matrix_of_another_model(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    for i, change in enumerate(
        [
            {"blk.12.ffn_up.weight": np.ones(256, np.float32)},
            {"blk.0.ffn_up.weight": np.ones(512, np.float32)},
        ]
    ):
        write_imatrix_gguf(tmp_path / f"{i}.gguf", sums | change, 4)
        fails(folder, "belongs to another model", next(iter(change)), imatrix=tmp_path / f"{i}.gguf")
        write_imatrix_legacy(tmp_path / f"{i}.dat", sums | change, 4)
        fails(folder, "belongs to another model", next(iter(change)), imatrix=tmp_path / f"{i}.dat")


def test_importance_values_that_are_not_numbers(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    bad = sums | {"blk.0.ffn_up.weight": np.full(256, np.nan, np.float32)}
    write_imatrix_gguf(tmp_path / "imatrix.gguf", bad, 4)
    fails(folder, "blk.0.ffn_up.weight", "not finite", imatrix=tmp_path / "imatrix.gguf")


def test_an_importance_matrix_with_gaps_is_used_and_said(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    some = {n: v for n, v in sums.items() if not n.startswith("blk.3.ffn")}
    write_imatrix_gguf(tmp_path / "imatrix.gguf", some, 4)
    done = convert(folder, tmp_path / "out.gguf", quant="Q4_0", imatrix=tmp_path / "imatrix.gguf")
    assert any("says nothing about blk.3.ffn_gate.weight" in note for note in done.plan.notes)


def test_what_is_no_importance_matrix(folder: Path, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    fails(folder, "no such file", imatrix=tmp_path / "none.dat")
    fails(folder, "no importance matrix", imatrix=make_bundle("BF16"))
    (tmp_path / "empty.dat").write_bytes(b"")
    fails(folder, "empty.dat", imatrix=tmp_path / "empty.dat")


def test_damaged_importance_matrices(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    """Cut anywhere, or with a byte changed: an error or a conversion, never another kind of exception."""
    write_imatrix_legacy(tmp_path / "whole.dat", sums, 4)
    write_imatrix_gguf(tmp_path / "whole.gguf", sums, 4)
    rng = np.random.default_rng(4)
    for name in ("whole.dat", "whole.gguf"):
        raw = (tmp_path / name).read_bytes()
        for _ in range(40):
            damaged = bytearray(raw[: rng.integers(0, len(raw))])
            if damaged:
                damaged[rng.integers(0, min(len(damaged), 4000))] ^= int(rng.integers(1, 256))
            (tmp_path / "damaged").write_bytes(damaged)
            with pytest.raises(Gemma4Error) as caught:
                convert(folder, tmp_path / "out.gguf", imatrix=tmp_path / "damaged", dry_run=True)
            assert "\n" not in str(caught.value)
