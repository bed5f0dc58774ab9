"""How much a matrix matters: measured by rounding it alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf.quants import dequantize

from converters import convert
from converters.budget import _weight as weight_of
from converters.imatrix import read_imatrix
from gemma4gguf.bundle.reading import read_sections
from gemma4gguf.tools import calibration
from gemma4gguf.tools.imatrix import compute
from gemma4gguf.tools.quality import measure as compare
from gemma4gguf.tools.sensitivity import measure, weigh

TINY = Path(__file__).parents[1] / "models" / "tiny"
NAMES = ["blk.0.ffn_down.weight", "blk.5.attn_q.weight"]


def test_the_weight_is_the_divergence_of_a_file_in_which_it_alone_is_rounded(tmp_path: Path) -> None:
    text = calibration.text()[:1200]  # one window
    plain = tmp_path / "f32.gguf"
    convert(TINY, plain, quant="F32")
    before = plain.read_bytes()
    found = measure(plain, {}, text=text, names=NAMES, threads=1)
    assert plain.read_bytes() == before
    for name in NAMES:
        convert(TINY, tmp_path / "one.gguf", quant="F32", types=[f"{name}=Q3_K"], force=True)
        one, whole = read_sections(tmp_path / "one.gguf")[0], read_sections(plain)[0]
        near, exact = (dequantize(s.raw(name), s.tensors[name].type).astype("f8").reshape(-1) for s in (one, whole))
        error = ((near - exact) ** 2).sum() / (exact**2).sum()
        divergence = compare(tmp_path / "one.gguf", plain, text=text, threads=1).kl_mean
        # The engine rounds activations too where a matrix is Q3_K.
        assert found[name] == pytest.approx(divergence / error, rel=0.2)


def test_a_stopped_run_measures_only_what_is_missing(tiny_bundle: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    path, seen = tmp_path / "imatrix.gguf", list[tuple[int, int]]()
    compute(tiny_bundle, path, text=calibration.text()[:1200], threads=1)
    plain = path.read_bytes()
    weigh(tiny_bundle, path, names=NAMES, threads=1)
    whole = path.read_bytes()
    path.write_bytes(plain)
    with pytest.raises(KeyboardInterrupt):
        weigh(tiny_bundle, path, names=NAMES, threads=1, progress=stop)
    assert list(read_imatrix(path).weights) == NAMES[:1]
    weigh(tiny_bundle, path, names=NAMES, threads=1, progress=lambda *done: seen.append(done))
    assert seen == [(2, 2)]
    assert path.read_bytes() == whole
    compute(tiny_bundle, tmp_path / "sum.gguf", text=calibration.text()[:1200], add=[path], threads=1)
    assert list(read_imatrix(tmp_path / "sum.gguf").weights) == NAMES


def test_a_matrix_without_a_weight_has_the_mean_of_its_sort() -> None:
    weights = {"blk.0.ffn_up.weight": 1.0, "blk.1.ffn_up.weight": 3.0, "blk.0.attn_q.weight": 9.0}
    assert weight_of("blk.7.ffn_up.weight", weights) == 2.0
    assert weight_of("token_embd.weight", weights) == 8.0
    assert weight_of("blk.0.attn_v.weight", weights) == 1.0
