"""The quality command against llama-perplexity --kl-divergence, on the same text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gemma4gguf.tools.quality import TEXT, measure
from tests.support.peers import Runner

TEXT_PATH = Path(__file__).parents[2] / "gemma4gguf" / "tools" / TEXT


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_same_numbers(run_peer: Runner, make_bundle: Callable[..., Path], tmp_path: Path, quant: str) -> None:
    base, other, kept = make_bundle("F32"), make_bundle(quant), tmp_path / "base.bin"
    shared = ["-c", 512, "-b", 512, "-t", 1]
    run_peer.tool("llama-perplexity", "-m", base, "-f", TEXT_PATH, "--kl-divergence-base", kept, "--chunks", 2, *shared)
    compare = ["-m", other, "--kl-divergence-base", kept, "--kl-divergence", *shared]
    said = ""
    for _ in range(30):  # it ends, more often than not, before its log has written the last lines
        said = run_peer.tool("llama-perplexity", *compare)
        if "Same top p:" in said:
            break
    found = measure(other, base, windows=2, threads=1)
    for label, value in {
        r"Mean    KLD": found.kl_mean,
        r"99\.9%   KLD": found.kl_999,
        r"Median  KLD": found.kl_median,
        r"Mean PPL\(Q\)": found.perplexity,
        r"Mean PPL\(base\)": found.reference_perplexity,
        r"Mean PPL\(Q\)/PPL\(base\)": found.perplexity_ratio,
        r"Same top p": 100 * found.same_top,
    }.items():
        line = re.search(rf"{label}\s*:\s*([\d.]+)", said, re.MULTILINE)
        assert line, said
        assert value == pytest.approx(float(line[1]), rel=0.02), label
