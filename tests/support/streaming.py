"""Cases of `cases` as passages for `gemma4gguf.reference`, cut and embedded by its own functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gemma4gguf.reference.embedder import audio_tokens, frames, image_tokens, patches
from gemma4gguf.reference.model import Cached, Model, Passage, Soft
from gemma4gguf.reference.weights import Weights
from tests.support import cases

FloatArray = npt.NDArray[np.float32]


def soft_tokens(weights: Weights, case: cases.Case) -> tuple[list[FloatArray], list[FloatArray]]:
    """Of each picture and of each clip."""
    images = [image_tokens(weights, *patches(cases.picture(name))) for name in case.images]
    return images, [audio_tokens(weights, frames(cases.clip(name))) for name in case.audio]


def passage(weights: Weights, case: cases.Case, ids: Sequence[int], folder: Path) -> Passage:
    """`ids`: the whole prompt's. `folder`: the checkpoint, whose config names the placeholders."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = np.array(ids, np.int64)
    soft = []
    halves = zip(("image", "audio"), soft_tokens(weights, case), strict=True)
    for kind, media in halves:
        places, taken = np.flatnonzero(found == config[f"{kind}_token_id"]), 0
        for rows in media:
            soft.append(Soft(int(places[taken]), rows, picture=kind == "image"))
            taken += len(rows)
        assert taken == len(places)
    return Passage(found, soft)


def final(model: Model, one: Passage) -> tuple[FloatArray, Cached, Cached]:
    """The final states of a passage, and what a drafter reads: the last sliding and the last full layer's cache."""
    kept: dict[bool, Cached] = {}
    states = np.empty(0, np.float32)
    for number, ([after], [cached]) in enumerate(model.run([one])):
        states, kept[model.layers[number].sliding] = after, cached
    return model.final(states), kept[True], kept[False]
