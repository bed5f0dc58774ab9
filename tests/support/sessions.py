"""What tests of the session and of decoding share: prompts, greedy answers and how two may differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.runtime.decode import Drafts, decode
from gemma4gguf.runtime.session import Session, Span
from tests.support.drafters import NEVER, TIE, gap

GREEDY = SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
EXACT: dict[str, Any] = {"threads": 1, "kv_type": "f32", "flash_attention": "off"}  # context options: nothing rounded
IMAGE, VOCABULARY = 258, 1024  # of the stand-in: see tests/support/standin_config.py

PROMPTS = [
    *([2, *(int(i) for i in np.random.default_rng(seed).integers(300, 1000, size))] for seed, size in enumerate(
        (1, 2, 7, 30, 63, 64, 65, 100, 200, 700)
    )),
    [2, *[500] * 40],
    [2, *range(400, 460), *range(400, 430)],
]  # fmt: skip


def ids(
    session: Session,
    prompt: Sequence[int],
    limit: int,
    how: SamplingOptions = GREEDY,
    drafts: Drafts | None = None,
    end: frozenset[int] = NEVER,
) -> list[int]:
    session.feed([Span(tuple(prompt))])
    with Sampler(how, []) as sampler:
        return list(decode(session, sampler, end, limit, drafts))


def same(session: Session, prompt: Sequence[int], plain: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two greedy answers agree, up to a step whose two best logits are as good as equal."""
    if list(plain) == list(other):
        return True
    step = next(i for i, (a, b) in enumerate(zip(plain, other, strict=True)) if a != b)
    return gap(session, [Span(tuple(prompt))], plain[:step]) < TIE


def media(session: Session, content: bytes, length: int, causal: bool) -> Span:
    """A picture or clip whose soft tokens come from its content."""
    width = session.context.model.n_embd
    rows = np.random.default_rng(list(content)).standard_normal((length, width)).astype(np.float32)
    return Span((IMAGE,) * length, lambda: rows, content, causal)
