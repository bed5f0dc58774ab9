"""Measure how much each matrix matters: what its error alone changes in the model's predictions.

A bundle, its importance values and a sample come in; a weight for each matrix goes out, nats of KL divergence per error
of its output. One matrix at a time is rounded to three bits in a private copy of the bundle, the sample is evaluated,
and the matrix is put back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
from numpy.typing import NDArray

from converters.imatrix import read_sums, write_sums
from converters.mixture import fitted, quantisable
from converters.rows import slabs

from ..bundle.container import tensor_nbytes
from ..bundle.reading import EMBEDDER, Bundle, Section, read_sections
from ..errors import InputError
from ..media.audio import AudioInput
from ..media.rgb import ImageInput
from ..native import quantizer
from ..runtime.loading import load
from ..runtime.session import Span
from . import calibration
from .quality import Passage, media_prompts, passages_of, predictions

FloatArray = NDArray[np.float32]
ROUGH = T.Q3_K  # what a matrix is rounded to: far enough to be seen, near enough for errors to add up
STORED = (T.F32, T.F16, T.BF16, T.Q8_0)
WINDOWS, MEDIA = 2, 2  # of the text; pictures, and clips


def measure(
    source: str | os.PathLike[str],
    values: Mapping[str, FloatArray],
    *,
    text: str,
    images: Sequence[ImageInput] = (),
    audio: Sequence[AudioInput] = (),
    names: Sequence[str] | None = None,
    known: Mapping[str, float] = MappingProxyType({}),
    keep: Callable[[Mapping[str, float]], None] = lambda weights: None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """A weight for each matrix of a bundle's text model, or for those of `names`, by name.

    `values`: importance, float32 [columns], by name. `text`, `images` and `audio` are the sample. `known` are weights
    that were measured before; `keep` is called with all of them after each new one.
    Takes an evaluation of the sample for each matrix, and room for a copy of the bundle among the temporary files.
    Raises InputError for a bundle whose matrices are rounded already.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copyfile(source, Path(folder) / "copy.gguf"))
        section, bundle = read_sections(Path(source))[0], Bundle.open(path)
        names = names or [n for n, t in section.tensors.items() if quantisable(n, t.shape)]
        coarse = [n for n in names if section.tensors[n].type not in STORED]
        if coarse:
            raise InputError(
                f"{source}: {coarse[0]} is {section.tensors[coarse[0]].type.name}, expected Q8_0 or better"
            )
        with load(bundle.text, gpu_layers=gpu_layers, vocab_only=True) as model:
            found = passages_of(model, bundle, text, media_prompts(text, images, audio), None)
            passages = _embedded(_sample(found))

        def each_position() -> Iterator[FloatArray]:
            with load(Bundle.open(path).text, gpu_layers=gpu_layers) as model:  # which was changed since
                yield from predictions(model, passages, threads)

        base, weights = np.array(list(each_position())), {name: known[name] for name in names if name in known}
        for done, name in enumerate([name for name in names if name not in known], 1 + len(weights)):
            error = _round(section, name, path, values.get(name))
            divergences = [float(np.exp(b) @ (b - c)) for b, c in zip(base, each_position(), strict=True)]
            _restore(section, name, path)
            weights[name] = max(float(np.mean(divergences)), 0.0) / max(error, 1e-12)
            keep(weights)
            progress(done, len(names))
        return weights


def weigh(source: str | os.PathLike[str], path: str | os.PathLike[str], **how: Any) -> None:
    """Measure a bundle's weights on the bundled corpus, and write them into its importance matrix at `path`.

    Each is written as soon as it is measured, and those that the file holds already are not measured again.
    """
    found, chats = read_sums(Path(path)), calibration.chats(media=Bundle.open(source).section(EMBEDDER) is not None)
    parts = [part for chat in chats for m in chat.messages for part in m.get("content", "") if isinstance(part, dict)]
    sample = {kind: [part[kind] for part in parts if part["type"] == kind][:MEDIA] for kind in ("image", "audio")}
    values = found.matrix(Path(path)).values
    text, images, audio = calibration.text(), sample["image"], sample["audio"]

    def keep(weights: Mapping[str, float]) -> None:
        write_sums(Path(path), replace(found, weights=weights), force=True)

    measure(source, values, text=text, images=images, audio=audio, known=found.weights, keep=keep, **how)


def _sample(found: Sequence[Passage]) -> list[Passage]:
    """Windows from the whole text, the first and the last among them, and all media."""
    windows = [passage for passage in found if not passage.media]
    places = {i * (len(windows) - 1) // (WINDOWS - 1) for i in range(WINDOWS)}
    return [windows[i] for i in sorted(places)] + [passage for passage in found if passage.media]


def _embedded(passages: Sequence[Passage]) -> list[Passage]:
    """The same with their soft tokens computed, once for all evaluations."""
    return [replace(p, spans=tuple(s if s.rows is None else _kept(s, s.rows()) for s in p.spans)) for p in passages]


def _kept(span: Span, rows: FloatArray) -> Span:
    return replace(span, rows=lambda: rows)


def _round(section: Section, name: str, copy: Path, importance: FloatArray | None) -> float:
    """Round a matrix of a copy of the section's file, some rows at a time. Returns its error, a share of its output."""
    info, raw = section.tensors[name], section.raw(name)
    width = info.shape[-1]
    kind, across = fitted(ROUGH, width), np.ones(width) if importance is None else importance
    raw, lost, held = raw.reshape(-1, tensor_nbytes((width,), info.type)), 0.0, 0.0
    with _at(section, name, copy) as file:
        for start, stop in slabs(len(raw), width):
            rows = dequantize(raw[start:stop], info.type).reshape(-1, width).astype(np.float32)
            near = dequantize(quantizer.quantize_rows(rows, kind, importance), kind).reshape(rows.shape)
            lost += float((np.square(rows - near) @ across).sum())
            held += float((np.square(rows) @ across).sum())
            file.write(_stored(near.astype(np.float32), info.type).tobytes())
    return lost / max(held, 1e-30)


def _restore(section: Section, name: str, copy: Path) -> None:
    with _at(section, name, copy) as file:
        file.write(section.raw(name).data)


@contextmanager
def _at(section: Section, name: str, copy: Path) -> Iterator[IO[bytes]]:
    """The copy, open where a tensor begins."""
    with open(copy, "r+b") as file:
        file.seek(section.header.data_start + section.tensors[name].offset)
        yield file


def _stored(rows: FloatArray, kind: T) -> NDArray[np.uint8]:
    return rows.view(np.uint8).reshape(-1) if kind is T.F32 else quantizer.quantize_rows(rows, kind).reshape(-1)
