"""Checkpoints with something wrong, and the error that must come of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters import convert
from gemma4gguf.errors import Gemma4Error

Edit = Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]


def fails(source: Path | str, *words: str, **how: Any) -> str:
    """Convert, expect a one-line error with these words, and nothing written. Returns the message."""
    there = Path(how.pop("there", source)).parent
    before = sorted(there.rglob("*"))
    with pytest.raises(Gemma4Error) as caught:
        convert(source, there / "out.gguf", **{"quant": "Q4_0"} | how)
    assert sorted(there.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, edit: Edit) -> None:
    """Rewrite a checkpoint's only file after a change of its header or data."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = edit(json.loads(raw[8:start]), raw[start:])
    blob = json.dumps(header).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + data)
