"""Our importance matrix against llama-imatrix's, on the same text; and llama-quantize takes ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converters import convert
from converters.imatrix import read_sums
from gemma4gguf.bundle.reading import read_sections
from gemma4gguf.tools import calibration
from gemma4gguf.tools.imatrix import compute
from tests.support.peers import Runner
from tests.support.quantise_peer import llama_quantize

MODELS = Path(__file__).parents[2] / "models"


def test_same_sums(run_peer: Runner, tmp_path: Path) -> None:
    text, model = tmp_path / "text.txt", tmp_path / "tiny.gguf"
    text.write_text(calibration.text(), encoding="utf-8")
    convert(MODELS / "tiny", model, quant="F32")
    compute(model, tmp_path / "ours.gguf", text=calibration.text(), threads=1)
    run_peer.tool(
        "llama-imatrix", "-m", model, "-f", text, "-o", tmp_path / "theirs.gguf", "-c", 512, "-t", 1, "--no-ppl"
    )
    ours, theirs = read_sums(tmp_path / "ours.gguf"), read_sums(tmp_path / "theirs.gguf")
    assert ours.chunks == theirs.chunks
    assert ours.counts == theirs.counts
    assert ours.sums.keys() == theirs.sums.keys()
    for name, values in ours.sums.items():
        np.testing.assert_allclose(values, theirs.sums[name], rtol=0.01)


def test_llama_quantize_takes_it(run_peer: Runner, tmp_path: Path) -> None:
    convert(MODELS / "tiny", tmp_path / "bf16.gguf", quant="BF16", text_only=True)
    compute(tmp_path / "bf16.gguf", tmp_path / "imatrix.gguf", text=calibration.text(), threads=1)
    source, out = tmp_path / "bf16.gguf", tmp_path / "theirs.gguf"
    run_peer.tool("llama-quantize", "--imatrix", tmp_path / "imatrix.gguf", source, out, "IQ4_XS", 1)
    values = read_sums(tmp_path / "imatrix.gguf").matrix(tmp_path / "imatrix.gguf").values
    llama_quantize(source, tmp_path / "same.gguf", 30, dict(values))
    theirs, same = (read_sections(path)[0] for path in (out, tmp_path / "same.gguf"))
    assert [n for n in same.tensors if not np.array_equal(theirs.raw(n), same.raw(n))] == []
