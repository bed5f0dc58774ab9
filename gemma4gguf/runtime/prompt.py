"""Turn a prompt's segments into spans of token ids and soft tokens.

Text, pictures and clips come in, in prompt order. Spans for `session.feed` and token counts go out. Pictures and clips
are cut into patches and frames here; their soft tokens are computed later, if the cache does not hold them. This module
does not know the chat template or the cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..chat.guards import SPECIAL_TOKENS
from ..chat.rendering import FrameSegment, ImageSegment, MediaSegment, Segment, TextSegment, text_segments
from ..errors import FormatError
from ..media.audio import frame
from ..media.image import Patches, patches_of, patchify, soft_tokens_of
from ..native.vocabulary import Vocabulary
from ..records import Tokens
from .session import Span

BOS = "<bos>"
PLACEHOLDERS = ("<|image|>", "<|audio|>", "<|video|>")
AT_ONCE = 2  # media read at the same time: each may take `Limits.picture_bytes` of memory
BEFORE_SOUND = b"audio"  # what the digest of a clip's first frame begins with
_SPECIAL = re.compile(f"(?={'|'.join(map(re.escape, SPECIAL_TOKENS))})")

Made = TypeVar("Made")


class Embeds(Protocol):
    """What makes soft tokens: a bundle's `Embedder`, or something in its place."""

    def image(self, patches: Patches) -> NDArray[np.float32]: ...

    def audio(self, frames: NDArray[Any]) -> NDArray[np.float32]: ...


def count(spans: Sequence[Span]) -> Tokens:
    """Count a prompt's positions."""
    media = [span for span in spans if span.rows is not None]
    return Tokens(
        prompt=sum(map(len, spans)),
        image=sum(len(span) for span in media if not span.causal),
        audio=sum(len(span) for span in media if span.causal),
    )


def find_token(vocab: Vocabulary, text: str) -> int | None:
    """The id of a special token, or None where the vocabulary does not have it."""
    ids = vocab.tokenize(text, special=True)
    return ids[0] if len(ids) == 1 else None


def token_id(vocab: Vocabulary, text: str) -> int:
    """The id of a special token. Raises FormatError if the vocabulary lacks it."""
    token = find_token(vocab, text)
    if token is None:
        raise FormatError(f"the vocabulary has no token {text!r}: this is not a Gemma 4 model")
    return token


def ids_of(vocab: Vocabulary, text: str) -> list[int]:
    """The ids of `text`, special tokens parsed, in time that grows with its length.

    llama.cpp searches the rest of the text for every special token behind each that it found, which takes minutes for
    100,000 of them. It cuts texts there anyway; cut before they get to it, they give the same ids.
    """
    return [token for piece in _SPECIAL.split(text) if piece for token in vocab.tokenize(piece, special=True)]


def plain_ids(vocab: Vocabulary, text: str, special_tokens: tuple[str, ...] = ()) -> list[int]:
    """The ids of somebody's text. What looks like one of `special_tokens`, or of Gemma 4's own, is none."""
    return [token for piece in text_segments(text, special_tokens) for token in vocab.tokenize(piece, special=False)]


def spans(parts: Iterable[Segment], vocab: Vocabulary, embedder: Callable[[], Embeds], image_tokens: int) -> list[Span]:
    """A prompt's spans: exactly one BOS, then text and media in order. Raises InputError for unusable media."""
    bos = token_id(vocab, BOS)
    out: list[Span] = []
    ids: list[int] = []
    parts = tuple(parts)
    media = _media(parts, lambda part: _medium(part, vocab, embedder, image_tokens))
    for part in parts:
        if isinstance(part, TextSegment):
            ids += ids_of(vocab, part.text)
        else:
            out += [Span(tuple(ids)), next(media)]
            ids = []
    out.append(Span(tuple(ids)))
    first = list(out[0].ids)
    while first[:1] == [bos]:
        del first[0]
    out[0] = Span((bos, *first))
    return [span for span in out if len(span)]


def prepared(parts: Iterable[Segment], image_tokens: int) -> tuple[Segment, ...]:
    """The segments with their media read: what is left to do needs the vocabulary and the embedder."""
    parts = tuple(parts)
    media = _media(parts, lambda part: _read(part, image_tokens))
    return tuple(part if isinstance(part, TextSegment) else replace(part, medium=next(media)) for part in parts)


def _media(parts: Sequence[Segment], make: Callable[[MediaSegment], Made]) -> Iterator[Made]:
    """`make` of each medium, in order. Some are made at the same time."""
    media = [part for part in parts if not isinstance(part, TextSegment)]
    if len(media) < 2:
        return map(make, media)
    contexts = [copy_context() for _ in media]  # the caller's limits hold in other threads too
    with ThreadPoolExecutor(AT_ONCE, "gemma4gguf-media") as pool:
        return iter(list(pool.map(lambda context, part: context.run(make, part), contexts, media)))


@dataclass(frozen=True, eq=False)
class Read:
    """A medium, ready to be embedded: patches, a clip's frames float32 [N, 640], or a video's frame uint8 [H, W, 3]."""

    data: Patches | NDArray[Any]


def _read(part: MediaSegment, image_tokens: int) -> Read:
    if isinstance(part.medium, Read):
        return part.medium
    if isinstance(part.medium, Span):
        assert isinstance(part.medium.source, Read)
        return part.medium.source
    if isinstance(part, FrameSegment):
        return Read(part.medium)
    return Read(patchify(part.medium, image_tokens) if isinstance(part, ImageSegment) else frame(part.medium))


def _medium(part: MediaSegment, vocab: Vocabulary, embedder: Callable[[], Embeds], image_tokens: int) -> Span:
    if isinstance(part.medium, Span):  # read already
        return part.medium
    read = _read(part, image_tokens)
    data, count = read.data, len(read.data)
    if not isinstance(data, Patches) and not isinstance(part, FrameSegment):
        return replace(heard(data, vocab, embedder), source=read)
    if isinstance(data, Patches):
        kind, content = "image", [data.pixels, data.positions]
        make = cache(lambda: embedder().image(data))
    else:  # patches of it would take four times the memory
        kind, content, count = "video", [data], soft_tokens_of(data)
        make = cache(lambda: embedder().image(patches_of(data)))
    digest = hashlib.sha256(kind.encode())
    for array in content:
        digest.update(np.ascontiguousarray(array).data)
    return Span((token_id(vocab, f"<|{kind}|>"),) * count, make, digest.digest(), causal=False, source=read)


def heard(frames: NDArray[Any], vocab: Vocabulary, embedder: Callable[[], Embeds], after: bytes = BEFORE_SOUND) -> Span:
    """Frames of sound float32 [n, 640] as a span. `after`: the digest of the frame before them."""
    each = []
    for row in np.ascontiguousarray(frames):
        after = hashlib.sha256(after + row.data).digest()
        each.append(after)
    ids = (token_id(vocab, "<|audio|>"),) * len(frames)
    return Span(ids, cache(lambda: embedder().audio(frames)), after, each=each)
