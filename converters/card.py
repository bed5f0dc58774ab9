"""Reads a model card's front matter (README.md), within bounds: a damaged or hostile card is the same as none.

In: a checkpoint folder, untrusted. Out: the YAML object, as gguf's own reader returns it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import yaml

MAX_BYTES = 1 << 22  # of a README.md
MAX_FRONT_MATTER = 1 << 16  # characters of YAML, which is parsed slowly; usual ones have a few thousand


def read_card(folder: Path) -> dict[str, Any]:
    """The card's front matter; empty where there is none that can be read. Raises nothing."""
    path = folder / "README.md"
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return {}
        front = path.read_text(encoding="utf-8").partition("\n---")[0]
        # Aliases make a short text stand for a huge value.
        if len(front) > MAX_FRONT_MATTER or any(isinstance(token, yaml.AliasToken) for token in yaml.scan(front)):
            return {}
        return dict(gguf.Metadata.load_model_card(folder))
    except Exception:  # of many kinds: a card is prose, and may be anything
        return {}
