"""The other Gemma models, which share names with the 12B, and what tells them apart in a GGUF.

A section comes in; the model that it belongs to goes out, in words for messages. This module does not raise errors, and
it does not know config.json: `converters.config` reads that, with the words from here.
"""

from __future__ import annotations

from .reading import Section

SMALL = "a Gemma 4 E2B or E4B (it has per-layer embeddings)"
EXPERTS = "the Gemma 4 26B (26B-A4B, a mixture of experts)"
DENSE = "the Gemma 4 31B (it has a separate vision encoder)"

_KEYS = {"embedding_length_per_layer_input": SMALL, "expert_count": EXPERTS}  # not zero in those models
_TOWERS = {  # projectors with an encoder, by clip.vision.projector_type or clip.audio.projector_type
    "gemma4v": "the vision tower of a Gemma 4 E2B, E4B, 26B or 31B",
    "gemma4a": "the audio tower of a Gemma 4 E2B or E4B",
    "gemma3": "the vision tower of a Gemma 3",
    "gemma3nv": "the vision tower of a Gemma 3n",
    "gemma3na": "the audio tower of a Gemma 3n",
}


def relative(section: Section) -> str | None:
    """Another Gemma 4 whose text model or drafter this is. None for the 12B, whose keys these are not."""
    return next((what for key, what in _KEYS.items() if section.metadata.get(f"{section.architecture}.{key}")), None)


def tower(projector: str) -> str:
    """What a projector of this type is, if it is not the 12B's."""
    return _TOWERS.get(projector, f"a projector of type {projector!r:.80}")
