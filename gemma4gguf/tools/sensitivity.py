"""Measure how much each matrix matters: what its error alone changes in the model's predictions.

A bundle, its importance values and a sample come in; a weight for each matrix goes out, nats of KL divergence per error
of its output. One matrix at a time is rounded to three bits in a private copy of the bundle, the sample is evaluated,
and the matrix is put back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
from numpy.typing import NDArray

from converters.imatrix import read_sums, write_sums
from converters.mixture import fitted, quantisable

from ..bundle.reading import EMBEDDER, Bundle, read_sections
from ..errors import InputError
from ..media.audio import AudioInput
from ..media.rgb import ImageInput
from ..native import quantizer
from ..runtime.loading import load
from . import calibration
from .quality import media_prompts, passages_of, predictions

FloatArray = NDArray[np.float32]
ROUGH = T.Q3_K  # what a matrix is rounded to: far enough to be seen, near enough for errors to add up
STORED = (T.F32, T.F16, T.BF16, T.Q8_0)
WINDOWS, MEDIA = 1, 2  # of the text; pictures, and clips


def measure(
    source: str | os.PathLike[str],
    values: Mapping[str, FloatArray],
    *,
    text: str,
    images: Sequence[ImageInput] = (),
    audio: Sequence[AudioInput] = (),
    names: Sequence[str] | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """A weight for each matrix of a bundle's text model, or for those of `names`, by name.

    `values`: importance, float32 [columns], by name. `text`, `images` and `audio` are the sample.
    Takes an evaluation of the sample for each matrix, and room for a copy of the bundle among the temporary files.
    Raises InputError for a bundle whose matrices are rounded already.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copyfile(source, Path(folder) / "copy.gguf"))
        section = read_sections(path)[0]
        names = names or [n for n, t in section.tensors.items() if quantisable(n, t.shape)]
        coarse = [n for n in names if section.tensors[n].type not in STORED]
        if coarse:
            raise InputError(
                f"{source}: {coarse[0]} is {section.tensors[coarse[0]].type.name}, expected Q8_0 or better"
            )
        media = media_prompts(text, images, audio)

        def predicted() -> FloatArray:
            bundle = Bundle.open(path)
            with load(bundle.text, gpu_layers=gpu_layers) as model:
                passages = passages_of(model, bundle, text, media, WINDOWS)
                return np.array(list(predictions(model, passages, threads)))

        base, weights = predicted(), {}
        for done, name in enumerate(names, 1):
            info = section.tensors[name]
            place = section.header.data_start + info.offset
            raw = _read(path, place, info.nbytes)
            rows = dequantize(raw, info.type).reshape(-1, info.shape[-1]).astype(np.float32)
            kind = fitted(ROUGH, info.shape[-1])
            important = values.get(name)
            near = dequantize(quantizer.quantize_rows(rows, kind, important), kind).reshape(rows.shape)
            across = np.ones(rows.shape[1]) if important is None else important
            error = float((np.square(rows - near) @ across).sum() / max((np.square(rows) @ across).sum(), 1e-30))
            _patch(path, place, _stored(near.astype(np.float32), info.type))
            changed = predicted()
            _patch(path, place, raw)
            divergence = float((np.exp(base) * (base - changed)).sum(1).mean())
            weights[name] = max(divergence, 0.0) / max(error, 1e-12)
            progress(done, len(names))
        return weights


def weigh(source: str | os.PathLike[str], path: str | os.PathLike[str], **how: Any) -> None:
    """Measure a bundle's weights on the bundled corpus, and write them into its importance matrix at `path`."""
    found, chats = read_sums(Path(path)), calibration.chats(media=Bundle.open(source).section(EMBEDDER) is not None)
    parts = [part for chat in chats for m in chat.messages for part in m.get("content", "") if isinstance(part, dict)]
    sample = {kind: [part[kind] for part in parts if part["type"] == kind][:MEDIA] for kind in ("image", "audio")}
    values = found.matrix(Path(path)).values
    text, images, audio = calibration.text(), sample["image"], sample["audio"]
    weights = measure(source, values, text=text, images=images, audio=audio, **how)
    write_sums(Path(path), replace(found, weights=weights), force=True)


def _stored(rows: FloatArray, kind: T) -> NDArray[np.uint8]:
    return rows.view(np.uint8).reshape(-1) if kind is T.F32 else quantizer.quantize_rows(rows, kind).reshape(-1)


def _read(path: Path, place: int, size: int) -> NDArray[np.uint8]:
    with open(path, "rb") as file:
        file.seek(place)
        return np.frombuffer(file.read(size), np.uint8)


def _patch(path: Path, place: int, raw: NDArray[np.uint8]) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(raw.tobytes())
