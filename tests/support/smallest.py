"""The smallest stand-in that still has every kind of layer, tensor and section, for tests that load it often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from converters import convert
from tests.support import standin

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


def smallest(folder: Path, quant: str = "F32") -> Path:
    """Write it with its drafter into `folder` and return the bundle, of about 5 MB."""
    checkpoint = standin.write_checkpoint(folder / "checkpoint", sizes=SIZES)
    drafter = standin.write_drafter(folder / "drafter", sizes=SIZES)
    out = folder / f"smallest-{quant}.gguf"
    convert(checkpoint, out, quant=quant, drafter=drafter, drafter_quant=quant, force=True)
    return out
