"""Measure what quantising costs: how far a bundle's predictions are from a reference's.

Two bundles of one model and a text come in, and maybe pictures and sound. A `Quality` goes out: KL divergence,
agreement of the likeliest token, perplexities. The text is cut and scored as in llama-perplexity, so that the numbers
can be compared: windows of 512 tokens, each starting with BOS; the predictions in the second half of each count. One
model is in memory at a time; the reference's predictions are kept in a temporary file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.reading import EMBEDDER, Bundle
from ..bundle.settings import image_budget, special_tokens
from ..chat.rendering import Segment, raw_segments
from ..errors import InputError
from ..media.audio import AudioInput
from ..media.embedder import Embedder
from ..media.rgb import ImageInput
from ..native.context import Context, ContextOptions
from ..native.vocabulary import Vocabulary
from ..native.weights import Weights
from ..runtime.loading import load
from ..runtime.prompt import BOS, Embeds, plain_ids, spans, token_id
from ..runtime.scoring import position_logits
from ..runtime.session import Span
from .truth import Truth, is_checkpoint

WINDOW = 512  # tokens evaluated together
STEP = 256  # rows computed at a time, half a window; their logits are 0.3 GB for 262,144 tokens
MEDIUM_TEXT = 400  # characters of text after a picture or clip; all their predictions count
TEXT = "quality.txt"  # beside this module: prose, facts, lists, code and other languages

FloatArray = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Quality:
    """`kl_*`: nats, over all `positions`. `same_top`: the share of positions whose likeliest token agrees.

    `kl_999`: the 99.9 % quantile. `kl_media`: the mean over the positions after media; None without media.
    """

    positions: int
    kl_mean: float
    kl_median: float
    kl_999: float
    kl_max: float
    same_top: float
    perplexity: float
    reference_perplexity: float
    perplexity_ratio: float
    kl_media: float | None


@dataclass(frozen=True)
class Passage:
    """A prompt. Its predictions count from position `first` on, except the last one, which has no next token."""

    spans: tuple[Span, ...]
    first: int
    media: bool

    @property
    def ids(self) -> list[int]:
        return [i for span in self.spans for i in span.ids]

    @property
    def counted(self) -> int:
        return len(self.ids) - 1 - self.first


def measure(path: str | os.PathLike[str], reference: str | os.PathLike[str], **how: Any) -> Quality:
    """Compare one bundle with a reference of the same model: its checkpoint, BF16 or Q8_0. `how`: see `compare`."""
    (found,) = compare([path], reference, **how)
    return found


def compare(
    paths: Sequence[str | os.PathLike[str]],
    reference: str | os.PathLike[str],
    *,
    text: str | None = None,
    images: Sequence[ImageInput] = (),
    audio: Sequence[AudioInput] = (),
    windows: int | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Iterator[Quality]:
    """Compare bundles, one after another, with a reference of the same model, which is evaluated once.

    The reference is another bundle, or the folder of the checkpoint. A checkpoint is computed in float32, by a matrix
    at a time: slowly, and no model is loaded for it.
    `text` None: a fixed one. `windows`: how many of the text's windows count, None for all. Each picture and clip is
    followed by the beginning of the text. `progress` is called with (positions computed, in all), over all models.

    Raises InputError if two are different models, if the text is shorter than one window, or if the reference's
    predictions (a float32 per position and token) do not fit the folder of temporary files; this before any work.
    """
    text = files(__package__).joinpath(TEXT).read_text(encoding="utf-8") if text is None else text
    others = [Bundle.open(path) for path in paths]
    folder = Path(reference)
    truth = Truth(folder) if is_checkpoint(folder) else None
    base = others[0] if truth else Bundle.open(reference)
    media = media_prompts(text, images, audio)
    for other in others:
        _check_pair(base, other)
        if truth:
            truth.check(other)
        if media:
            other.require(EMBEDDER)
    with tempfile.TemporaryFile() as store:
        done = 0
        with load(base.text, gpu_layers=gpu_layers, vocab_only=truth is not None) as model:
            own = cache(lambda: truth or Embedder(base))
            passages = passages_of(model, base, text, media, windows, own)
            positions = sum(p.counted for p in passages)
            total = (1 + len(others)) * positions
            _check_room(4 * positions * model.vocab.size)
            rows = _true(truth, passages) if truth else predictions(model, passages, threads)
            for row in rows:
                store.write(row.data)
                progress(done := done + 1, total)
        for other in others:
            store.seek(0)
            scores = []
            with load(other.text, gpu_layers=gpu_layers) as model:
                if media:  # its own soft tokens, because the embedder may differ too
                    passages = passages_of(model, other, text, media, windows)
                targets = [i for p in passages for i in p.ids[p.first + 1 :]]
                for row, target in zip(predictions(model, passages, threads), targets, strict=True):
                    kept = np.frombuffer(store.read(row.nbytes), np.float32)
                    scores.append(_score(kept, row, target))
                    progress(done := done + 1, total)
            yield _summary(np.array(scores), np.array([p.media for p in passages for _ in range(p.counted)]))


def _check_room(size: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"the reference's predictions take {size:,} bytes in {folder} and {free:,} are free; "
            "count fewer windows (windows=) or set TMPDIR to another folder"
        )


def read_text(path: Path) -> str:
    """A text file, as UTF-8. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def _check_pair(base: Bundle, other: Bundle) -> None:
    for key in ("gemma4.block_count", "gemma4.embedding_length", "tokenizer.ggml.tokens"):
        if base.text.metadata.get(key) != other.text.metadata.get(key):
            raise InputError(
                f"{other.path} and {base.path} are different models ({key} differs); compare one with itself"
            )


def text_windows(vocab: Vocabulary, text: str, never: tuple[str, ...]) -> list[Span]:
    """A text cut into windows of WINDOW tokens, the first of each replaced by BOS. Raises InputError without any.

    `never`: the vocabulary's special tokens; what looks like one of them is text.
    """
    bos = token_id(vocab, BOS)
    ids = [bos, *plain_ids(vocab, text, never)]
    starts = range(0, len(ids) - WINDOW + 1, WINDOW)
    if not starts:
        raise InputError(f"the text has {len(ids):,} tokens, expected at least {WINDOW}; give a longer one")
    return [Span((bos, *ids[start + 1 : start + WINDOW])) for start in starts]


def media_prompts(text: str, images: Sequence[ImageInput], audio: Sequence[AudioInput]) -> list[list[Segment]]:
    """Each picture and each clip, followed by the beginning of `text`."""
    start = text[:MEDIUM_TEXT]
    pictures = [raw_segments(f"<|image|>{start}", [image]) for image in images]
    return pictures + [raw_segments(f"<|audio|>{start}", [], [clip]) for clip in audio]


def passages_of(
    model: Weights,
    bundle: Bundle,
    text: str,
    media: Sequence[Sequence[Segment]],
    windows: int | None,
    embedder: Callable[[], Embeds] | None = None,
) -> list[Passage]:
    """The prompts of a comparison: windows of `text`, then each medium with what follows it.

    `embedder`: makes the soft tokens in place of the bundle's.
    """
    embedder = embedder or cache(lambda: Embedder(bundle))
    windows_of_text = text_windows(model.vocab, text, special_tokens(bundle.text.metadata))[:windows]
    found = [Passage((span,), WINDOW // 2, media=False) for span in windows_of_text]
    budget = image_budget(bundle.text.metadata)
    for parts in media:
        whole = tuple(spans(parts, model.vocab, embedder, budget))
        found.append(Passage(whole, sum(map(len, whole[:-1])), media=True))
    return found


def predictions(model: Weights, passages: Sequence[Passage], threads: int | None) -> Iterator[FloatArray]:
    """Log probabilities float32 [vocabulary] of every position that counts, in order."""
    longest = max(sum(map(len, p.spans)) for p in passages)
    block = max([WINDOW, *(len(s) for p in passages for s in p.spans if not s.causal)])
    options = ContextOptions(longest, batch=block, micro_batch=block, outputs=STEP, threads=threads)
    with Context(model, options) as context:
        for passage in passages:
            rows = position_logits(context, passage.spans, first=passage.first)
            yield from map(_log_softmax, islice(rows, passage.counted))


def _true(truth: Truth, passages: Sequence[Passage]) -> Iterator[FloatArray]:
    """The same by a checkpoint."""
    logits = truth.logits([(p.spans, p.first) for p in passages])
    for passage in passages:
        yield from map(_log_softmax, islice(logits, passage.counted))
        next(logits)  # of the last position, which has no next token


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max()
    normal: FloatArray = shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)
    return normal


def _score(base: FloatArray, other: FloatArray, target: int) -> tuple[float, bool, float, float]:
    """KL divergence from the reference, whether the likeliest tokens agree, and both log likelihoods of `target`."""
    divergence = np.dot(np.exp(base), base - other)
    return float(divergence), bool(base.argmax() == other.argmax()), float(base[target]), float(other[target])


def _summary(scores: NDArray[np.float64], media: NDArray[np.bool_]) -> Quality:
    divergence, same, base, other = scores.T
    means = np.exp(-other.mean()), np.exp(-base.mean())
    return Quality(
        positions=len(scores),
        kl_mean=float(divergence.mean()),
        kl_median=float(np.median(divergence)),
        kl_999=float(np.quantile(divergence, 0.999)),
        kl_max=float(divergence.max()),
        same_top=float(same.mean()),
        perplexity=float(means[0]),
        reference_perplexity=float(means[1]),
        perplexity_ratio=float(means[0] / means[1]),
        kl_media=float(divergence[media].mean()) if media.any() else None,
    )
