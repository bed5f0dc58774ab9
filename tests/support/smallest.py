"""The smallest stand-in that still has every kind of layer, tensor and section, for tests that load it often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from converters import convert
from tests.support import standin
from tests.support.standin_config import Sizes
from tests.support.standin_tokenizer import Table

SIZES = replace(
    standin.SMALL,
    hidden=64,
    ffn=64,
    layers=6,
    heads=4,
    kv_heads=2,
    head=16,
    global_head=32,
    window=32,
    drafter_hidden=32,
    drafter_ffn=64,
)


SHORT = Table(512, *range(5, 12))  # the marks, the bytes and some characters
NARROW = replace(SIZES, hidden=32, ffn=32, drafter_hidden=64, drafter_ffn=32, table=SHORT)


def smallest(folder: Path, quant: str = "F32", sizes: Sizes = SIZES) -> Path:
    """Write it with its drafter into `folder` and return the bundle, of about 4 MB (2 MB with `NARROW`)."""
    checkpoint = standin.write_checkpoint(folder / "checkpoint", sizes=sizes)
    drafter = standin.write_drafter(folder / "drafter", sizes=sizes)
    out = folder / f"smallest-{quant}.gguf"
    convert(checkpoint, out, quant=quant, drafter=drafter, drafter_quant=quant, force=True)
    return out
