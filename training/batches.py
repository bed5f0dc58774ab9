"""Examples -> arrays: token ids with media placeholders expanded, patches, frames, padded batches.

In: `Example`s and the tokenizer. Out: `Batch`es of numpy arrays, padded on the left so that replies end in one
column. Knows no torch. Left padding moves every position of a row by the same step, which rotary attention cannot
see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from . import pictures, speech
from .config import ID, IMAGE_BUDGET, PAD, PATCH_VALUES
from .texts import Example

TEXT, IMAGE, AUDIO = 0, 1, 3


@dataclass
class Item:
    kind: str
    ids: NDArray[np.int32]  # [L], prompt then reply
    types: NDArray[np.int8]  # [L]: TEXT, IMAGE or AUDIO
    reply: int  # how many of the last ids are the reply
    patches: list[pictures.Patches]  # of each picture
    frames: list[NDArray[np.float32]]  # [N, 640] of each sound


@dataclass
class Batch:
    kinds: list[str]
    ids: NDArray[np.int64]  # [B, L]
    blocks: NDArray[np.int16]  # [B, L]: -1 outside pictures, else the picture's number in its row
    real: NDArray[np.bool_]  # [B, L]
    tail: int  # how many of the last columns hold every reply
    labels: NDArray[np.int64]  # [B, tail]: next token, -100 where nothing is learnt
    weights: NDArray[np.float32]  # [M]: a weight for each label that is learnt, in reading order
    pixels: NDArray[np.uint8]  # [P, 6912]
    places: NDArray[np.int64]  # [P, 2]
    sound: NDArray[np.float32]  # [F, 640]


def item(example: Example, tokenizer: Tokenizer, budget: int | None = None) -> Item:
    cut = [pictures.patches(image, budget or IMAGE_BUDGET) for image in example.images]
    heard = [speech.frames(sound) for sound in example.sounds]
    waiting = {
        ID["<|image|>"]: ([len(c[0]) for c in cut], ID["<|image>"], ID["<image|>"], IMAGE),
        ID["<|audio|>"]: ([len(f) for f in heard], ID["<|audio>"], ID["<audio|>"], AUDIO),
    }
    ids: list[int] = []
    types: list[int] = []
    for token in tokenizer.encode(example.prompt, add_special_tokens=False).ids:
        if token in waiting:
            counts, begin, end, kind = waiting[token]
            count = counts.pop(0)
            ids += [begin] + [token] * count + [end]
            types += [TEXT] + [kind] * count + [TEXT]
        else:
            ids.append(token)
            types.append(TEXT)
    reply = tokenizer.encode(example.reply, add_special_tokens=False).ids
    return Item(
        example.kind,
        np.array(ids + reply, np.int32),
        np.array(types + [TEXT] * len(reply), np.int8),
        len(reply),
        cut,
        heard,
    )


def stack(items: Sequence[Item], weights: Sequence[float] | None = None) -> Batch:
    """Put a list of items into one Batch; `weights`: what a label of each item counts for."""
    length = max(len(i.ids) for i in items)
    tail = max(i.reply for i in items)
    rows = len(items)
    ids = np.full((rows, length), PAD, np.int64)
    types = np.zeros((rows, length), np.int8)
    real = np.zeros((rows, length), bool)
    labels = np.full((rows, tail), -100, np.int64)
    for r, it in enumerate(items):
        ids[r, -len(it.ids) :], types[r, -len(it.ids) :], real[r, -len(it.ids) :] = it.ids, it.types, True
        labels[r, -it.reply :] = it.ids[-it.reply :]
    # what a column predicts is the id of the next one: the model reads columns L - tail - 1 to L - 2
    seen = types == IMAGE
    starts = seen & ~np.pad(seen, ((0, 0), (1, 0)))[:, :-1]
    blocks = np.where(seen, np.cumsum(starts, 1), -1).astype(np.int16)
    pixels = [p for it in items for p, _ in it.patches]
    places = [xy for it in items for _, xy in it.patches]
    sound = [f for it in items for f in it.frames]
    return Batch(
        [it.kind for it in items],
        ids,
        blocks,
        real,
        tail,
        labels,
        np.repeat(np.ones(rows) if weights is None else weights, [i.reply for i in items]).astype(np.float32),
        np.concatenate(pixels) if pixels else np.zeros((0, PATCH_VALUES), np.uint8),
        np.concatenate(places).astype(np.int64) if places else np.zeros((0, 2), np.int64),
        np.concatenate(sound) if sound else np.zeros((0, 640), np.float32),
    )
