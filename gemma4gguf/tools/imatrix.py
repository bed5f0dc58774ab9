"""Compute an importance matrix: how much each column of each matrix matters, for text, pictures and sound.

A bundle and what to evaluate come in; llama.cpp's GGUF importance matrix goes out. The engine evaluates text in windows
of 512 tokens as llama-imatrix does, and conversations with pictures and clips; what is multiplied with each matrix is
squared and summed. After each piece the sums are kept beside the output, so that a stopped run goes on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.imatrix import Sums, read_sums, write_sums

from ..arguments import local_path
from ..bundle import newfile
from ..bundle.reading import EMBEDDER, Bundle
from ..bundle.settings import image_budget, special_tokens
from ..chat.rendering import compose
from ..errors import Gemma4Error, InputError
from ..media.audio import AudioInput
from ..media.embedder import Embedder
from ..media.rgb import ImageInput
from ..native.activations import Activations
from ..native.context import Context, ContextOptions
from ..native.weights import Weights
from ..runtime.loading import load
from ..runtime.prompt import spans
from ..runtime.scoring import pieces
from ..runtime.session import Span, evaluate_rows
from . import calibration
from .calibration import Chat
from .quality import WINDOW, text_windows

KINDS = ("text", "picture", "sound")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Importance:
    """`path` is the file. `positions`: how many of each kind were evaluated. `shares`: what each kind counts, in all 1.

    `tensors`: entries of the file. `resumed`: pieces that a run before had done already.
    """

    path: Path
    positions: Mapping[str, int]
    shares: Mapping[str, float]
    tensors: int
    resumed: int


def compute(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    text: str | None = None,
    images: Sequence[ImageInput] = (),
    audio: Sequence[AudioInput] = (),
    shares: Mapping[str, float] | None = None,
    add: Sequence[str | os.PathLike[str]] = (),
    name: str = "",
    threads: int | None = None,
    gpu_layers: int | None = None,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Importance:
    """Evaluate `text`, `images` and `audio`, or the bundled corpus if none is given, and write the file `out`.

    `shares`: what "text", "picture" and "sound" count, such as {"text": 2, "sound": 1}; None: by their positions.
    `add`: importance matrices of the same model whose sums are added. `name`: of the data, written into the file.
    `progress` is called with (positions computed, in all).

    Raises InputError (unusable arguments), FormatError (a bundle without what is asked for) and ConversionError (a
    file that cannot be written or added).
    """
    bundle, path = Bundle.open(source), local_path(out)
    newfile.check_output(path, 0, force=force)
    part = path.with_name(f".{path.name}.unfinished")
    others = [read_sums(local_path(each)) for each in add]
    corpus = text is None and not images and not audio
    with load(bundle.text, gpu_layers=gpu_layers) as model:
        cut = passages(model, bundle, calibration.text() if corpus else text, _chats(corpus, bundle, images, audio))
        positions = {kind: sum(len(s) for p in cut for s in p if kind_of(s) == kind) for kind in KINDS}
        counted = _shares(positions, shares)
        weights = {k: counted[k] * sum(positions.values()) / n for k, n in positions.items() if n}
        task = _task(bundle, cut, weights)
        held, activations = _resumed(part, task), Activations()
        activations.sums = {n: v.astype(np.float64) for n, v in held.sums.items()}
        activations.rows = dict(held.counts)
        total, done = sum(positions.values()), sum(len(s) for p in cut[: held.chunks] for s in p)
        datasets = (name or ("gemma4gguf" if corpus else "given"),)
        block = max([WINDOW, *(len(s) for p in cut for s in p)])
        options = ContextOptions(
            max(sum(map(len, p)) for p in cut), batch=block, micro_batch=block, outputs=block, threads=threads
        )
        with Context(model, options, watcher=activations) as context:
            for number, passage in enumerate(cut[held.chunks :], held.chunks + 1):
                _evaluate(context, activations, passage, weights)
                done += sum(map(len, passage))
                found = Sums(_rounded(activations), dict(activations.rows), datasets, number, task)
                write_sums(part, found, force=True)
                progress(done, total)
    write_sums(path, _added(read_sums(part), others), force=force)
    part.unlink()
    return Importance(path, dict(positions), counted, len(activations.sums), held.chunks)


def _chats(corpus: bool, bundle: Bundle, images: Sequence[ImageInput], audio: Sequence[AudioInput]) -> list[Chat]:
    if corpus:
        return calibration.chats(media=bundle.section(EMBEDDER) is not None)
    if images or audio:
        bundle.require(EMBEDDER)
    asked: list[tuple[str, object, str]] = [("image", image, "What is in this picture?") for image in images]
    asked += [("audio", clip, "What is said?") for clip in audio]
    return [
        Chat(({"role": "user", "content": [{"type": kind, kind: medium}, {"type": "text", "text": question}]},))
        for kind, medium, question in asked
    ]


def passages(model: Weights, bundle: Bundle, text: str | None, chats: Sequence[Chat]) -> list[list[Span]]:
    """What is evaluated, each piece by itself: windows of a text, and whole conversations."""
    budget, never = image_budget(bundle.text.metadata), special_tokens(bundle.text.metadata)
    found = [[span] for span in text_windows(model.vocab, text, never)] if text is not None else []
    embedder = cache(lambda: Embedder(bundle))
    template = bundle.text.metadata.get("tokenizer.chat_template")
    for chat in chats:
        open_turn = chat.messages[-1]["role"] == "user"
        prompt = compose(chat.messages, chat.tools or None, chat.thinking, template, open_turn, special_tokens=never)
        found.append(spans(prompt.segments, model.vocab, embedder, budget))
    return found


def kind_of(span: Span) -> str:
    """One of KINDS."""
    return "text" if span.rows is None else "sound" if span.causal else "picture"


def _shares(positions: Mapping[str, int], asked: Mapping[str, float] | None) -> dict[str, float]:
    """What each kind that is there counts, in all 1."""
    if asked is not None and (set(asked) - set(KINDS) or any(not 0 <= v < 1e9 for v in asked.values())):
        raise InputError(f"shares: {dict(asked)!r:.200}, expected numbers from 0 on for {', '.join(KINDS)}")
    given = {k: float(n if asked is None else asked.get(k, 0)) for k, n in positions.items() if n}
    total = sum(given.values())
    if not total:
        raise InputError("shares: nothing that is given counts more than 0")
    return {k: v / total for k, v in given.items()}


def _task(bundle: Bundle, passages: Sequence[Sequence[Span]], weights: Mapping[str, float]) -> str:
    """A digest of what is computed: an unfinished file of another task is not continued."""
    stat = bundle.path.stat()
    digest = hashlib.sha256(repr((stat.st_size, stat.st_mtime_ns, sorted(weights.items()))).encode())
    for passage in passages:
        for span in passage:
            digest.update(repr((list(span.ids), span.content)).encode())
    return digest.hexdigest()


def _resumed(part: Path, task: str) -> Sums:
    try:
        found = read_sums(part)
    except Gemma4Error:
        return Sums({}, {}, (), 0)
    return found if found.task == task else Sums({}, {}, (), 0)


def _evaluate(
    context: Context, activations: Activations, passage: Sequence[Span], weights: Mapping[str, float]
) -> None:
    context.clear()
    start = 0
    for span, part in pieces(passage, context.options.batch):
        activations.weight = weights[kind_of(span)]
        rows = part.stop - part.start
        evaluate_rows(context, span, part, start=start, outputs=rows)  # each with logits: the last layer drops others
        start += rows


def _rounded(activations: Activations) -> dict[str, NDArray[np.float32]]:
    """The sums as they are stored, so that a run that was stopped and went on gives the same bytes."""
    stored = {name: values.astype(np.float32) for name, values in activations.sums.items()}
    activations.sums = {name: values.astype(np.float64) for name, values in stored.items()}
    return stored


def _added(found: Sums, others: Sequence[Sums]) -> Sums:
    """All sums together, without the mark of an unfinished file."""
    sums, counts = dict(found.sums), dict(found.counts)
    for other in others:
        for name, values in other.sums.items():
            if name in sums and sums[name].size != values.size:
                raise InputError(
                    f"add: {name} has {values.size:,} values, expected {sums[name].size:,}; it is another model's"
                )
            sums[name] = sums[name] + values if name in sums else values
            counts[name] = counts.get(name, 0) + other.counts[name]
    datasets = tuple(dict.fromkeys([*found.datasets, *(d for other in others for d in other.datasets)]))
    weights = {name: weight for other in others for name, weight in other.weights.items()}
    return Sums(sums, counts, datasets, found.chunks + sum(other.chunks for other in others), weights=weights)
