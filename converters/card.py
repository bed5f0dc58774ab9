"""Reads a model card's front matter (README.md), within bounds: a damaged or hostile card is the same as none.

In: a checkpoint folder, untrusted. Out: the YAML object, as gguf's own reader returns it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gemma4gguf.limits import current

from .jsonfile import read_whole


def read_card(folder: Path) -> dict[str, Any]:
    """The card's front matter; empty where none can be parsed. Raises ConversionError where it cannot be read."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    try:
        first, *lines = read_whole(path).decode("utf-8").splitlines()
        front, most = "\n".join(lines[: lines.index("---")]) + "\n", current()
        if first != "---" or len(front) > most.card_chars or sum(map(_is_alias, yaml.scan(front))) > most.card_aliases:
            return {}
        # As gguf reads it: the language code `no` is no boolean, and a tab is two spaces.
        found = yaml.safe_load(front.replace("- no\n", '- "no"\n').replace("\t", "  "))
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alias(token: object) -> bool:
    return isinstance(token, yaml.AliasToken)
