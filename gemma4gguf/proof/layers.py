"""Does the engine compute what the model says? Each layer is computed again, from the engine's own input of it.

So an error is seen where it is made, and quantised weights, which both use, do not hide it: what remains is how the
engine rounds. The numbers, the norms and the embedder are the source's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryFile

import numpy as np
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray

from ..bundle.reading import EMBEDDER, Bundle
from ..bundle.settings import image_budget
from ..chat.rendering import AudioSegment, ImageSegment
from ..media.embedder import Embedder
from ..native.context import Context, ContextOptions
from ..native.watching import Watcher
from ..native.weights import Weights as Loaded
from ..reference.embedder import audio_tokens, frames, image_tokens, patches
from ..reference.model import Model, Passage, Soft
from ..reference.weights import Numbers, Sections, Shape, Weights
from ..runtime.loading import load
from ..runtime.prompt import spans
from ..runtime.scoring import position_logits
from ..runtime.session import Span
from .prompts import Prompt, prompts

ROWS = 32  # of each prompt's last positions: their logits are compared
# How far a layer's output may be off, by what the engine makes of rows that it multiplies: floats, halves, or 8 bits.
# Measured on tiny and on the stand-in: at most 0.0003 in F32, 0.031 in Q4_K_M; wrong masks and rotations give 0.1 to 1,
# a window that is one position too long 0.05 on tiny.
KEPT, HALVES, ROUNDED = 0.002, 0.02, 0.08
SOFT_EXACT, SOFT_ROUNDED = 1e-4, 0.05  # of soft tokens: with an embedder in F32, and in other types
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """Where engine and reference were compared: the largest difference of a row, by the row's length."""

    modality: str
    where: str
    off: float
    most: float

    @property
    def right(self) -> bool:
        return self.off <= self.most

    def __str__(self) -> str:
        return f"{self.modality}: {self.where}: off by {self.off:.4f}, at most {self.most:g} is rounding"


@dataclass(frozen=True)
class Seen:
    """What the engine made of a prompt: the state after each layer [n, hidden] (after the last one of ROWS rows), and
    logits of those rows.
    """

    prompt: Prompt
    passage: Passage
    states: Sequence[Floats]
    logits: Floats


class FileNorms:
    """A file's matrices with the source's vectors, which no quantiser touches, and the source's numbers."""

    def __init__(self, file: Sections, source: Weights) -> None:
        self._file, self._source = file, source
        self.numbers: Numbers = source.numbers

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def shape(self, name: str) -> Shape:
        return self._file.shape(name)

    def rows(self, name: str, start: int, stop: int) -> Floats:
        return self._file.rows(name, start, stop)

    def whole(self, name: str) -> Floats:
        return self._source.whole(name) if len(self._file.shape(name)) == 1 else self._file.whole(name)


def observe(bundle: Bundle, *, threads: int | None, short: bool) -> list[Seen]:
    """Let the engine read the fixed prompts, and keep what it computes."""
    embedder = Embedder(bundle) if bundle.section(EMBEDDER) else None
    keys = bundle.text.metadata
    budget = image_budget(keys)
    asked = prompts(
        budget,
        keys["gemma4.attention.sliding_window"],
        sees=bool(embedder and embedder.sees),
        hears=bool(embedder and embedder.hears),
        short=short,
    )
    with load(bundle.text, gpu_layers=0) as model:

        def own() -> Embedder:
            assert embedder is not None
            return embedder

        return [
            _seen(model, each, _cut(spans(each.segments, model.vocab, own, budget), each), threads) for each in asked
        ]


def _cut(parts: Sequence[Span], prompt: Prompt) -> Sequence[Span]:
    return parts if prompt.most is None else [replace(parts[0], ids=parts[0].ids[: prompt.most])]


def _seen(model: Loaded, prompt: Prompt, parts: Sequence[Span], threads: int | None) -> Seen:
    ids = np.array([i for span in parts for i in span.ids], np.int64)
    soft, at, watcher = [], 0, Watcher()
    for span in parts:
        if span.rows is not None:
            soft.append(Soft(at, span.rows(), picture=not span.causal))
        at += len(span)
    block = max([512, *map(len, parts)])
    options = ContextOptions(
        at, batch=block, micro_batch=block, outputs=ROWS, threads=threads, kv_type="f32", flash_attention="off"
    )
    with Context(model, options, watcher=watcher) as context:
        logits = np.stack([row.copy() for row in position_logits(context, parts, first=max(0, at - ROWS))])
    return Seen(prompt, Passage(ids, soft), _on_disk(watcher.take(model.n_embd)), logits)


def _on_disk(states: Sequence[Floats]) -> list[Floats]:
    """The same in a temporary file: at the 12B's shapes those of all prompts are 2 GB. Raises OSError."""
    found: list[Floats] = []
    start = 0
    with TemporaryFile() as file:
        for state in states:
            file.write(state.data)
        file.flush()
        for state in states:
            found.append(np.memmap(file, np.float32, "r", start, state.shape))
            start += state.nbytes
    return found


def compare(
    bundle: Bundle,
    seen: Sequence[Seen],
    source: Weights,
    layers: Sequence[int],
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[Place]:
    """The embedder, each of `layers`, and the logits, for every prompt in turn. `report`: layers done."""
    yield from _soft_tokens(bundle, seen, source)
    model = Model(FileNorms(Sections(bundle.text, numbers=source.numbers), source))
    most, passages, last = _bound(bundle), [s.passage for s in seen], len(model.layers) - 1
    for done, i in enumerate(layers, 1):
        inputs = [s.states[i - 1] if i else model.embed(s.passage) for s in seen]
        outputs, _ = model.layer(i, inputs, passages)
        kind = "sliding" if model.layers[i].sliding else "full"
        for each, ours in zip(seen, outputs, strict=True):
            theirs = each.states[i]
            yield Place(each.prompt.modality, f"layer {i} ({kind})", _off(ours[-len(theirs) :], theirs), most)
        report(done)
    if last in layers:
        for each in seen:
            ours = model.logits(model.final(each.states[last]))[-len(each.logits) :]
            yield Place(each.prompt.modality, "logits", _off(ours, each.logits), most)


def _soft_tokens(bundle: Bundle, seen: Sequence[Seen], source: Weights) -> Iterator[Place]:
    section = bundle.section(EMBEDDER)
    exact = section is not None and all(t.type is T.F32 for t in section.tensors.values())
    for each in seen:
        for ours, theirs in zip(embedded(source, each).soft, each.passage.soft, strict=True):
            off = _off(theirs.rows, ours.rows)
            yield Place(each.prompt.modality, "embedder", off, SOFT_EXACT if exact else SOFT_ROUNDED)


def embedded(source: Weights, seen: Seen) -> Passage:
    """A prompt with the soft tokens that the source's embedder makes."""
    media = [s.medium for s in seen.prompt.segments if isinstance(s, (ImageSegment, AudioSegment))]
    soft = [
        replace(s, rows=image_tokens(source, *patches(m)) if s.picture else audio_tokens(source, frames(m[0])))
        for m, s in zip(media, seen.passage.soft, strict=True)
    ]
    return Passage(seen.passage.ids, soft)


def _bound(bundle: Bundle) -> float:
    kinds = {t.type for t in bundle.text.tensors.values() if len(t.shape) > 1 and t.name != "token_embd.weight"}
    return KEPT if kinds <= {T.F32} else HALVES if kinds <= {T.F32, T.F16, T.BF16} else ROUNDED


def _off(ours: Floats, theirs: Floats) -> float:
    """The largest difference of two rows by the length of the row; infinite where the counts differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    off = np.linalg.norm(ours - theirs, axis=1) / np.maximum(np.linalg.norm(theirs, axis=1), 1e-30)
    return float(np.nan_to_num(off, nan=np.inf).max())
