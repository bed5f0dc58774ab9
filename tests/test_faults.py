"""A disk that fails at any read or write of a conversion: one line and nothing left, or the whole file.

All positions of a small conversion; `scripts/check_faults.py` does the same with all of the tiny model and its drafter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from converters import convert
from tests.support import variants
from tests.support.faults import READS, Faults, outcome

MODELS = variants.TINY.parent


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model cut down to a sliding layer and a full one, as a language model alone."""
    folder = variants.copy(tmp_path_factory.mktemp("faults") / "small")
    own = "model.language_model."
    kept = {
        name.replace(".layers.2.", ".layers.1."): tensor
        for name, tensor in variants.load(folder / "model.safetensors").items()
        if name.startswith((f"{own}layers.0.", f"{own}layers.2.", f"{own}embed_tokens", f"{own}norm"))
    }
    variants.save(folder / "model.safetensors", kept)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Gemma4UnifiedForCausalLM"]}))
    return folder


Work = Callable[[], object]


def every(work: Work, out: Path, step: int = 1) -> None:
    """Run `work` with a fault at every `step`-th operation, of both kinds, over no file and over an older one."""
    with Faults() as faults:
        work()
    whole, wrong, refused = out.read_bytes(), [], 0
    for at in faults.seen[::step]:
        for kind in ("error", *(["short"] if at.what in READS else [])):
            out.unlink(missing_ok=True)
            if at.number % 2:
                out.write_bytes(b"an older file")
            found = outcome(work, out, at, kind, whole)
            refused += found == "refused"
            if found not in ("refused", "whole"):
                wrong.append(f"{kind}: {found}")
    assert not wrong, "\n".join(wrong)
    assert refused > len(faults.seen) / step / 2


def test_every_operation_of_a_small_conversion(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    every(lambda: convert(small, out, quant="Q8_0", threads=1, force=True), out)


def test_operations_of_a_whole_one(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    drafter = MODELS / "tiny-assistant"
    every(lambda: convert(variants.TINY, out, quant="Q8_0", drafter=drafter, threads=1, force=True), out, step=47)


def test_operations_of_a_requantisation(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source, out = tmp_path_factory.mktemp("source") / "source.gguf", tmp_path / "out.gguf"
    convert(variants.TINY, source, quant="BF16", drafter=MODELS / "tiny-assistant")
    every(lambda: convert(source, out, quant="Q4_0", threads=1, force=True), out, step=47)
