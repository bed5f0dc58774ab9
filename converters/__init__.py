"""Checkpoint to bundle: one call, one file, in one pass.

In: a checkpoint folder, a Hub id or a GGUF, and optionally a drafter. Out: a complete bundle, or no file.
Each step is a module: `origin` finds the source; `checkpoint` (with `safetensors`, `config`, `tokenizer`, `gemma4`,
`metadata`) or `gguf_source` reads it; `plan` (with `mixture`, `imatrix`) chooses types; `quantise` makes the data;
`conversion` joins them, and `gemma4gguf.bundle` writes the file.
"""

from __future__ import annotations

from .conversion import Conversion, convert
from .mixture import MIXTURES
from .plan import ConversionPlan, SectionSummary, TensorSummary

__all__ = ["MIXTURES", "Conversion", "ConversionPlan", "SectionSummary", "TensorSummary", "convert"]
