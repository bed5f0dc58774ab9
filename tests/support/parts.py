"""A bundle's parts as files of their own, the way a user of another runtime would cut them."""

from __future__ import annotations

from pathlib import Path

from gemma4gguf import Bundle

ARCHITECTURES = {"text": "gemma4", "embedder": "clip", "drafter": "gemma4-assistant"}


def cut(bundle: Path, architecture: str, out: Path) -> Path:
    """Write the section's bytes to out and return out."""
    section = Bundle.open(bundle).require(architecture)
    with open(bundle, "rb") as file:
        file.seek(section.offset)
        out.write_bytes(file.read(section.size))
    return out
