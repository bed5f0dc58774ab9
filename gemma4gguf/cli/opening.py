"""The model of a command that runs one, and what is told about it when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import LONGEST
from .show import note, number

if TYPE_CHECKING:
    from ..model import Gemma4


def opened(file: Path, **options: Any) -> Gemma4:
    """Open a model. A context that was looked for is told."""
    from ..model import Gemma4

    model = Gemma4(file, **options)
    if options.get("context") == LONGEST:
        most = model.bundle.text.metadata["gemma4.context_length"]
        why = "all that the model was made for" if model.context == most else "what fits the memory that is free now"
        note(f"context: {number(model.context)} tokens, {why}")
    return model
