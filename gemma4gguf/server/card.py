"""What clients are told about the model: its name, size, type and abilities.

In: an opened bundle. Out: plain values. Only headers are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle, listed_sections
from ..bundle.settings import file_type


@dataclass(frozen=True)
class Card:
    """A model as clients see it. `created`: seconds since 1970; `context`: positions; `digest`: SHA-256 in hex."""

    name: str
    created: int
    size: int
    digest: str
    parameters: int
    quantisation: str
    context: int
    sees_and_hears: bool
    drafts: bool
    template: str

    @classmethod
    def of(cls, bundle: Bundle, context: int) -> Card:
        """From a bundle, opened with a context of so many positions."""
        text, found = bundle.text, bundle.path.stat()
        size_and_digest = listed_sections(text).get(TEXT)
        template = text.metadata.get("tokenizer.chat_template")
        return cls(
            name=bundle.path.stem,
            created=int(found.st_mtime),
            size=found.st_size,
            digest=size_and_digest[1] if size_and_digest else "0" * 64,
            parameters=sum(math.prod(t.shape) for s in bundle.sections for t in s.tensors.values()),
            quantisation=file_type(text.metadata.get("general.file_type")) or "unknown",
            context=context,
            sees_and_hears=bundle.section(EMBEDDER) is not None,
            drafts=bundle.section(DRAFTER) is not None,
            template=template if isinstance(template, str) else "",
        )
