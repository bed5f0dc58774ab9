"""Gemma 4 12B with its drafter, as they were released, from a table: what `doctor` plans where nobody names a file.

Nothing comes in. A `Source` goes out, as if the headers of both checkpoints had been read; no file is.
"""

from __future__ import annotations

from collections.abc import Mapping

from converters import mixture
from converters.mixture import MIXTURES

from ..bundle.container import TensorInfo
from ..bundle.projector import PROJECTORS, half_shapes
from ..bundle.schema import Layer, Model, tensors
from ..runtime.memory import Facts, Part
from .plan_source import DRAFTER_TYPE, QUANTISED, Source

TOKENS, MERGES, CONTEXT, WINDOW, WIDTH, FULL_HEAD = 262_144, 514_906, 262_144, 1_024, 3_840, 512
PLACES = 1_120  # of a patch, on each axis
HEADER = 15_823_264  # bytes, with the vocabulary and a template: that of the published text model in Q4_0
EMBEDDER_HEADER = 1_344
SLIDING, FULL = Layer(True, 16, 8, 256, 15_360), Layer(False, 16, 1, FULL_HEAD, 15_360)
GEMMA = Model(TOKENS, WIDTH, FULL_HEAD, (*[SLIDING] * 5, FULL) * 8)
SLIDING_DRAFT, FULL_DRAFT = Layer(True, 16, 8, 256, 8_192), Layer(False, 16, 1, FULL_HEAD, 8_192)
ASSISTANT = Model(TOKENS, 1_024, FULL_HEAD, (*[SLIDING_DRAFT] * 3, FULL_DRAFT), out=WIDTH)


def released() -> Source:
    """The facts of the 12B, to be had in every quantised type. Until one is chosen, its text model is in float32."""
    halves = [half_shapes(half, WIDTH, WIDTH, PLACES) for half in PROJECTORS]
    facts = Facts(
        text=_part(_shapes(GEMMA), "F32", HEADER, TOKENS, MERGES),
        embedder=_part({name: shape for half in halves for name, shape in half.items()}, "F32", EMBEDDER_HEADER),
        drafter=_part(_shapes(ASSISTANT), DRAFTER_TYPE, HEADER, TOKENS, MERGES),
        model=GEMMA,
        limit=CONTEXT,
        window=WINDOW,
    )
    return Source(facts, "F32", QUANTISED, lambda kind: f"gemma-4-12B-it-{kind}.gguf", lambda _: None)


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in tensors(model) if spec.required}


def _part(shapes: Mapping[str, tuple[int, ...]], kind: str, header: int, tokens: int = 0, merges: int = 0) -> Part:
    types = mixture.choose([*shapes.items()], MIXTURES[kind], layers=1, group=1)  # these mixtures look at neither
    return Part(tuple(TensorInfo(n, shape, types[n], 0) for n, shape in shapes.items()), header, tokens, merges)
