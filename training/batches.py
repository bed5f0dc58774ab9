"""Examples -> arrays: token ids with media placeholders expanded, pictures, frames of sound, padded batches.

In: `Example`s and the tokenizer. Out: `Batch`es of numpy arrays, padded on the left so that replies end in one
column. Knows no torch. Left padding moves every position of a row by the same step, which rotary attention cannot
see. Pictures stay as small as they were drawn: `network` makes them as large as the model sees them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from . import pictures, speech
from .config import FRAME, ID, PAD, PATCH
from .texts import Example

TEXT, IMAGE, VIDEO, AUDIO = 0, 1, 2, 3
MULTIPLE = 8  # of which a batch's length is one: attention on a GPU wants its mask so


@dataclass
class Item:
    kind: str
    ids: NDArray[np.int32]  # [L], prompt then reply
    types: NDArray[np.int8]  # [L]: TEXT, IMAGE, VIDEO or AUDIO
    reply: int  # how many of the last ids are the reply
    pictures: list[NDArray[np.uint8]]  # [height, width, 3] of each picture and each frame of a video, in order
    frames: list[NDArray[np.float32]]  # [N, 640] of each sound


@dataclass
class Batch:
    kinds: list[str]
    ids: NDArray[np.int64]  # [B, L]
    blocks: NDArray[np.int16]  # [B, L]: -1 outside pictures, else the picture's number in its row
    real: NDArray[np.bool_]  # [B, L]
    tail: int  # how many of the last columns hold every reply
    labels: NDArray[np.int64]  # [B, tail]: next token, -100 where nothing is learnt
    learnt: NDArray[np.int64]  # [M]: where labels, read flat, are learnt
    weights: NDArray[np.float32]  # [M]: a weight for each
    pictures: list[NDArray[np.uint8]]  # [n, height, width, 3]: pictures of one size each
    places: NDArray[np.int64]  # [P, 2]: x and y of each of their patches
    seen: NDArray[np.int64]  # [P]: where ids, read flat, have its soft token
    sound: NDArray[np.float32]  # [F, 640]
    heard: NDArray[np.int64]  # [F]: where ids, read flat, have its soft token


def item(example: Example, tokenizer: Tokenizer) -> Item:
    clips = [list(clip.shown()) for clip in example.clips]
    before, *after = example.prompt.split("<|video|>")
    prompt = before
    for shown, rest in zip(clips, after, strict=True):
        prompt += " ".join(f"{stamp} <|video|>" for stamp, _ in shown) + rest
    sounds = [speech.frames(sound) for sound in example.sounds]
    views = {
        IMAGE: [np.asarray(image) for image in example.images],
        VIDEO: [np.asarray(frame) for shown in clips for _, frame in shown],
    }
    left = {
        ID["<|image|>"]: (IMAGE, ID["<|image>"], ID["<image|>"], [soft_tokens(v) for v in views[IMAGE]]),
        ID["<|video|>"]: (VIDEO, ID["<|image>"], ID["<image|>"], [soft_tokens(v) for v in views[VIDEO]]),
        ID["<|audio|>"]: (AUDIO, ID["<|audio>"], ID["<audio|>"], [len(f) for f in sounds]),
    }
    ids: list[int] = []
    types: list[int] = []
    seen: list[NDArray[np.uint8]] = []
    for token in tokenizer.encode(prompt, add_special_tokens=False).ids:
        if token not in left:
            ids.append(token)
            types.append(TEXT)
            continue
        kind, begin, end, counts = left[token]
        count = counts.pop(0)
        ids += [begin, *[token] * count, end]
        types += [TEXT, *[kind] * count, TEXT]
        if kind in views:
            seen.append(views[kind].pop(0))
    reply = tokenizer.encode(example.reply, add_special_tokens=False).ids
    return Item(
        example.kind,
        np.array(ids + reply, np.int32),
        np.array(types + [TEXT] * len(reply), np.int8),
        len(reply),
        seen,
        sounds,
    )


def soft_tokens(pixels: NDArray[np.uint8]) -> int:
    return len(places_of(pixels.shape[1], pixels.shape[0]))


@cache
def places_of(width: int, height: int) -> NDArray[np.int64]:
    """X and y [N, 2] of the patches of a picture."""
    wide, high = pictures.size_for(width, height)
    y, x = np.divmod(np.arange(wide * high // PATCH**2), wide // PATCH)
    return np.stack([x, y], 1)


def stack(items: Sequence[Item], weights: Sequence[float] | None = None) -> Batch:
    """Put a list of items into one Batch; `weights`: what a label of each item counts for."""
    rows = len(items)
    length = -(-max(len(i.ids) for i in items) // MULTIPLE) * MULTIPLE
    tail = max(i.reply for i in items)
    ids = np.full((rows, length), PAD, np.int64)
    types = np.zeros((rows, length), np.int8)
    real = np.zeros((rows, length), bool)
    labels = np.full((rows, tail), -100, np.int64)
    sized: defaultdict[tuple[int, ...], list[tuple[NDArray[np.uint8], NDArray[np.int64]]]] = defaultdict(list)
    for r, it in enumerate(items):
        at = length - len(it.ids)
        ids[r, at:], types[r, at:], real[r, at:] = it.ids, it.types, True
        # what a column predicts is the id of the next one: the model reads columns L - tail - 1 to L - 2
        labels[r, -it.reply :] = it.ids[-it.reply :]
        spots = r * length + at + np.flatnonzero((it.types == IMAGE) | (it.types == VIDEO))
        for pixels in it.pictures:
            count = soft_tokens(pixels)
            sized[pixels.shape].append((pixels, spots[:count]))
            spots = spots[count:]
    seen = (types == IMAGE) | (types == VIDEO)
    starts = seen & ~np.pad(seen, ((0, 0), (1, 0)))[:, :-1]
    shapes = list(sized)
    return Batch(
        kinds=[it.kind for it in items],
        ids=ids,
        blocks=np.where(seen, np.cumsum(starts, 1), -1).astype(np.int16),
        real=real,
        tail=tail,
        labels=labels,
        learnt=np.flatnonzero(labels != -100),
        weights=np.repeat(np.ones(rows) if weights is None else weights, [i.reply for i in items]).astype(np.float32),
        pictures=[np.stack([pixels for pixels, _ in sized[shape]]) for shape in shapes],
        places=joined([places_of(s[1], s[0]) for s in shapes for _ in sized[s]], (0, 2), np.int64),
        seen=joined([spots for shape in shapes for _, spots in sized[shape]], (0,), np.int64),
        sound=joined([f for it in items for f in it.frames], (0, FRAME), np.float32),
        heard=np.flatnonzero(types == AUDIO),
    )


def joined(parts: Sequence[NDArray[Any]], empty: tuple[int, ...], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(empty, dtype)
