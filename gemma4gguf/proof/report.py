"""All of it in order: `prove`. A file and its source come in, a `Report` with the verdict goes out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from converters.checkpoint import read_checkpoint
from converters.contents import Contents, SectionContents
from converters.gemma4 import MappedTensor
from converters.gguf_source import read_gguf
from converters.origin import Origin, locate
from converters.safetensors import StoredTensor
from converters.weights import read_folder

from ..bundle.reading import DRAFTER, EMBEDDER, NAMES, TEXT, Bundle, Section, digest
from ..bundle.validation import check, numbers
from ..bundle.writing import Part, planned_section
from ..machine import physical_cores
from ..native.library import version as llama_version
from ..reference.model import Model
from ..reference.weights import Checkpoint, Sections, Weights, from_config
from ..version import __version__
from . import keys, layers, tensors
from .layers import Place, Seen
from .tensors import TensorFinding

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Apart:
    """How far the engine's predictions are from the source's, by the last positions of one prompt: KL divergence in
    nats, the share of positions whose likeliest token agrees, and the largest difference of two logits.
    """

    modality: str
    kl: float
    same_top: float
    largest: float


@dataclass(frozen=True)
class Report:
    """What was compared, and every difference.

    `digests`: SHA-256 of each section, as a bundle lists it. `facts`: of the source, to be held against what was
    published. `left_out`: what was not compared, and why.
    """

    file: Path
    source: str
    versions: dict[str, str]
    digests: dict[str, str]
    facts: dict[str, int | str]
    tensors: tuple[TensorFinding, ...]
    keys: tuple[str, ...]
    places: tuple[Place, ...]
    logits: tuple[Apart, ...]
    left_out: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """One line each: tensors with the largest error first, then keys, then of each modality the first place."""
        wrong = sorted((t for t in self.tensors if t.fault), key=lambda t: -t.error)
        first: dict[str, Place] = {}
        for place in self.places:
            if not place.right:
                first.setdefault(place.modality, place)
        return [*map(str, wrong), *self.keys, *map(str, first.values())]

    @property
    def sound(self) -> bool:
        return not self.faults

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.sound:
            return f"{self.file.name} is NOT what {self.source} makes: {len(self.faults)} differences"
        equal = sum(t.equal for t in self.tensors)
        seen = sorted({p.modality for p in self.places})
        return (
            f"{self.file.name} is what {self.source} makes: {equal:,} of {len(self.tensors):,} tensors byte for byte, "
            f"keys, vocabulary and template; the engine is right on {', '.join(seen)}"
        )

    def json(self) -> dict[str, Any]:
        own = {"sound": self.sound, "verdict": self.verdict, "faults": self.faults}
        return own | asdict(self) | {"file": str(self.file)}


def prove(
    file: str | Path,
    source: str | Path | Origin,
    *,
    drafter: str | Path | None = None,
    quick: bool = False,
    partial: bool = False,
    threads: int | None = None,
    progress: Progress = lambda done, total, stage: None,
) -> Report:
    """Hold a bundle or a plain GGUF against the checkpoint folder, Hub id or GGUF that it was made of.

    `drafter`: the same for its drafter. `quick`: one sliding and one full layer, short prompts, and no predictions of
    the source. `partial`: of the file, only what `needed` names is there. `progress` is called with (done, in all,
    stage). Raises InputError, FormatError, ConversionError and NativeError.
    """
    bundle = Bundle.open(file)
    origin = source
    if not isinstance(origin, Origin):
        origin = locate(origin, lambda done, total: progress(done, total, "download"))
    expected = dict(_sections(origin, _contents(origin)))
    left_out = [f"the {NAMES[name]}: only the source has one" for name in expected if not bundle.section(name)]
    if drafter is not None:
        own = locate(drafter, lambda done, total: progress(done, total, "download"))
        expected |= _sections(own, _contents(own, drafter=True))
    left_out += [
        f"the {NAMES[s.architecture]}: no source was given" for s in bundle.sections if s.architecture not in expected
    ]
    pairs = [(s, *expected[s.architecture]) for s in bundle.sections if s.architecture in expected]
    weights = _weights(origin)
    chosen = _layers(weights, quick)
    if quick:
        left_out.append(f"layers but {', '.join(map(str, chosen))}, long prompts, and the source's predictions")
    if partial:
        left_out.append("the digests: only a part of the file is here")
    found = _tensors(pairs, chosen if quick else None, threads or physical_cores(), progress)
    said = [line for section, _, other in pairs for line in keys.differences(section, other)]
    progress(0, 1, "engine")
    seen = layers.observe(bundle, threads=threads, short=quick)
    progress(1, 1, "engine")
    places = list(layers.compare(bundle, seen, weights, chosen, lambda done: progress(done, len(chosen), "layers")))
    apart = [] if quick else list(_apart(weights, seen, lambda done, total: progress(done, total, "source")))
    return Report(
        bundle.path,
        source.repo or str(source.path) if isinstance(source, Origin) else str(source),
        {"gemma4gguf": __version__, "llama.cpp": llama_version(), "numpy": np.__version__},
        {} if partial else {NAMES[s.architecture]: digest(s) for s in bundle.sections},
        _facts(origin),
        tuple(found),
        tuple(said),
        tuple(places),
        tuple(apart),
        tuple(left_out),
    )


# ── the source ───────────────────────────────────────────────────────────────────────────────────────────────────


def _contents(origin: Origin, *, drafter: bool = False) -> Contents:
    return (read_gguf if origin.is_gguf else read_checkpoint)(origin, drafter=drafter)


def _sections(origin: Origin, contents: Contents) -> Iterator[tuple[str, tuple[tuple[MappedTensor, ...], Section]]]:
    """Architecture -> the source's tensors, and a section with the keys that a conversion would write."""
    for each in contents.sections:
        if each.carried is not None:
            yield each.architecture, (_carried(each.carried), each.carried)
        else:
            yield each.architecture, (each.tensors, _keys(origin, each))


def _keys(origin: Origin, contents: SectionContents) -> Section:
    return planned_section(Part(contents.architecture, contents.pairs(0), [], lambda: []), origin.path)


def _carried(section: Section) -> tuple[MappedTensor, ...]:
    start = section.header.data_start
    return tuple(
        MappedTensor(t.name, t.shape, StoredTensor(t.name, t.shape, t.type, section.path, start + t.offset))
        for t in section.tensors.values()
    )


def _weights(origin: Origin) -> Weights:
    if not origin.is_gguf:
        return Checkpoint(origin.path)
    bundle = Bundle.open(origin.path)
    return Sections(bundle.text, bundle.section(EMBEDDER))


def _facts(origin: Origin) -> dict[str, int | str]:
    """Of a checkpoint: how many tensors and parameters there are, and which tokenizer.json."""
    if origin.is_gguf:
        return {}
    stored, _ = read_folder(origin.path)
    words = (origin.path / "tokenizer.json").read_bytes()
    return {
        "tensors": len(stored),
        "parameters": sum(prod(tensor.shape) for tensor in stored.values()),
        "tokenizer.json bytes": len(words),
        "tokenizer.json SHA-256": hashlib.sha256(words).hexdigest(),
    }


def _layers(weights: Weights, quick: bool) -> list[int]:
    """All, or the first of each kind."""
    sliding = weights.numbers.sliding
    return _first_of_each(sliding) if quick else list(range(len(sliding)))


def _first_of_each(sliding: Sequence[bool]) -> list[int]:
    return sorted({sliding.index(kind) for kind in sliding})


def needed(bundle: Bundle, *, drafter: bool) -> list[tuple[int, int]]:
    """The bytes of a file that a quick proof reads: (start, stop) each. Raises FormatError.

    All vectors are among them: without its norms a layer that is not compared would hand on nothing.
    """
    check(bundle.text, bundle.text)
    chosen = _first_of_each([layer.sliding for layer in numbers(bundle.text).layers])
    found = []
    for section in bundle.sections:
        if section.architecture == DRAFTER and not drafter:
            continue
        start = section.header.data_start
        found.append((section.offset, start))
        for tensor in section.tensors.values():
            if section.architecture != TEXT or len(tensor.shape) == 1 or _is_in(chosen, tensor.name):
                found.append((start + tensor.offset, start + tensor.offset + tensor.nbytes))
    return found


def needed_of_source(source: Origin, names: Iterable[str]) -> list[str]:
    """The tensors of a checkpoint, by plain name, that a quick proof reads."""
    sliding = from_config(json.loads((source.path / "config.json").read_text(encoding="utf-8"))).sliding
    chosen = _first_of_each(sliding)
    found = [(name, re.search(r"(?:^|\.)layers\.(\d+)\.", name)) for name in names]
    return [name for name, layer in found if layer is None or int(layer[1]) in chosen]


def _is_in(layers: Sequence[int], name: str) -> bool:
    """Whether a tensor of the text model belongs to one of these layers, or to none."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return layer is None or int(layer[1]) in layers


# ── the comparisons ──────────────────────────────────────────────────────────────────────────────────────────────


def _tensors(
    pairs: Sequence[tuple[Section, Sequence[MappedTensor], Section]],
    only: Sequence[int] | None,
    threads: int,
    progress: Progress,
) -> list[TensorFinding]:
    work = [
        (
            section,
            [t for t in source if only is None or section.architecture == DRAFTER or _is_in(only, t.name)],
            set(section.tensors) - {t.name for t in source},
        )
        for section, source, _ in pairs
    ]
    total, done = sum(s.tensors[t.name].nbytes for s, own, _ in work for t in own if t.name in s.tensors), 0

    def report(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total, "tensors")

    return [finding for each in work for finding in tensors.compare(*each, threads, report)]


def _apart(weights: Weights, seen: Sequence[Seen], report: Callable[[int, int], None]) -> Iterator[Apart]:
    """The source's own predictions, from its own embeddings on, against the engine's."""
    model = Model(weights)
    passages = [layers.embedded(weights, each) for each in seen]
    states: list[layers.Floats] = []
    for done, (after, _) in enumerate(model.run(passages), 1):
        states = after
        report(done, len(model.layers))
    for each, state in zip(seen, states, strict=True):
        ours = model.logits(model.final(state[-len(each.logits) :])).astype(np.float64)
        theirs = each.logits.astype(np.float64)
        p, q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (ours, theirs))
        divergence = (np.exp(p) * (p - q)).sum(axis=1)
        same = (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()
        largest = np.abs(ours - theirs).max()
        yield Apart(each.prompt.modality, float(divergence.mean()), float(same), float(largest))
