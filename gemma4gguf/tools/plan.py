"""What of a model fits into a memory: the best type and context, and the commands that get and run it.

In: a bundle, a checkpoint folder or a Hub id, of which only headers are read, and bytes of memory. Out: a `Plan`. What
a type weighs is the converter's own mixture, what a context weighs is `runtime.memory`. Nothing is loaded or written.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters import mixture
from converters.checkpoint import read_checkpoint
from converters.contents import Contents
from converters.gguf_source import read_gguf
from converters.mixture import FLOATS, MIXTURES, UNDER_FOUR_BITS
from converters.origin import HUB_ID, Origin, locate
from converters.plan import plan_section

from ..bundle.reading import Bundle, Section
from ..bundle.validation import check_text
from ..bundle.writing import planned_section
from ..errors import InputError
from ..machine import memory_limit
from ..native.context import KV_TYPES, ContextOptions
from ..native.library import repacked_types
from ..runtime.memory import Facts, Memory, memory
from ..runtime.room import contexts, first_that_fits, usable

TYPE, DRAFTER_TYPE = "Q4_K_M", "Q8_0"  # what a conversion makes where nobody asks for another
ENOUGH = 8_192  # positions: a better type is not worth a shorter context
Progress = Callable[[int, int], None]  # bytes so far, bytes in all


@dataclass(frozen=True)
class Choice:
    """A type of the text model in a memory. `context`: the one asked for, or the longest that fits, or the shortest.

    `size`: of the bundle, in bytes.
    """

    type: str
    size: int
    context: int
    memory: Memory
    fits: bool


@dataclass(frozen=True)
class Plan:
    """`limit` (of the memory) and `room` (what a model may take of it) in bytes.

    `choices` are the types that may be: a bundle's own, the one asked for, or all. `best` is the one of the best
    quality that fits, of 4 bits a weight and more where it may be any; None: it does not fit. `instead` is then the
    best of any type that would, or None. `least` takes least of all types.
    """

    source: str
    limit: int
    room: int
    parallel: int
    kv_type: str
    choices: tuple[Choice, ...]
    best: Choice | None
    instead: Choice | None
    least: Choice
    get: str | None
    run: str | None


@dataclass(frozen=True)
class _Model:
    """A source's facts, for the type it has or is to get. `type` None: any may be chosen, `trained_for` first.

    `path` is the bundle where there is one; `name` is what it would be called.
    """

    facts: Facts
    name: str
    type: str | None
    trained_for: str | None = None
    path: Path | None = None


def plan(
    source: str | Path,
    *,
    limit: int | None = None,
    context: int | None = None,
    parallel: int = 1,
    kv_type: str = "f16",
    drafter: str | Path | None = None,
    repacked: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Plan:
    """Plan a bundle, a checkpoint folder or a Hub id; `NAME:TYPE` asks for one type.

    `limit`: bytes of memory; None: what this machine lets this process use. `context` positions for each of `parallel`
    conversations; None: as many as fit, up to 32,768. `drafter` goes into the bundle of a checkpoint. `repacked`: types
    that the processor has copied; None: those of this one. Raises InputError, FormatError and ConversionError.
    """
    if kv_type not in KV_TYPES:
        raise InputError(f"kv_type is {kv_type!r}, expected one of {', '.join(KV_TYPES)}")
    limit = memory_limit() if limit is None else limit
    if limit is None:
        raise InputError("limit: this system does not tell how much memory it has; give it")
    model = _read(source, drafter, progress)
    longest = model.facts.limit
    if context is not None and context > longest:
        raise InputError(f"context is {context:,}, the model was made for at most {longest:,}")
    lengths = contexts(longest) if context is None else [context]
    enough, room = min(ENOUGH, lengths[0]), usable(limit)

    copied = repacked_types() if repacked is None else repacked

    def choice(name: str) -> Choice:
        facts = _retyped(model, name)

        def needs(context: int) -> Memory:
            outputs = ContextOptions.outputs * parallel
            options = ContextOptions(context, sequences=parallel, outputs=outputs, kv_type=kv_type)
            return memory(facts, options, repacked=copied)

        length = first_that_fits(lengths, needs, room)
        needed = needs(length)
        return Choice(name, _size(facts), length, needed, needed.total <= room)

    every = [choice(name) for name, kind in MIXTURES.items() if kind.default not in FLOATS]
    choices = [choice(model.type)] if model.type else every
    best = _best([c for c in choices if model.type or c.type not in UNDER_FOUR_BITS], enough, model.trained_for)
    instead = None if best else _best(every, enough, None)
    least = min(every, key=lambda c: c.memory.total)
    get, run = _commands(str(source), model, best or instead, drafter, kv_type)
    return Plan(str(source), limit, room, parallel, kv_type, tuple(choices), best, instead, least, get, run)


def _best(choices: Sequence[Choice], enough: int, first: str | None) -> Choice | None:
    """The first that fits with `enough` positions, else the first that fits; `first` is a type that goes before all."""
    fitting = sorted((c for c in choices if c.fits), key=lambda c: (c.context < enough, c.type != first))
    return fitting[0] if fitting else None


def _size(facts: Facts) -> int:
    """Bytes of the bundle."""
    return sum(part.header + part.size for part in (facts.text, facts.embedder, facts.drafter) if part)


def _retyped(model: _Model, name: str) -> Facts:
    """The facts of the same model with its text matrices in a mixture's types."""
    if name == model.type:
        return model.facts
    facts, first = model.facts, model.facts.model.layers[0]
    shapes = [(tensor.name, tensor.shape) for tensor in facts.text.tensors]
    types = mixture.choose(shapes, MIXTURES[name], layers=len(facts.model.layers), group=first.heads // first.kv_heads)
    tensors = tuple(replace(tensor, type=types[tensor.name]) for tensor in facts.text.tensors)
    return replace(facts, text=replace(facts.text, tensors=tensors))


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(source: str | Path, drafter: str | Path | None, progress: Progress) -> _Model:
    path = Path(source).expanduser()
    if path.is_file():
        if drafter is not None:
            raise InputError(f"drafter: {path} is a finished bundle; add one with `gemma4gguf pack`")
        bundle = Bundle.open(path)
        check_text(bundle.text)
        return _Model(Facts.of(bundle.sections), path.name, _stored(bundle.text), path=path)
    name, asked = _split(str(source))
    origin = locate(name, progress, plan_only=True)
    contents = _contents(origin)
    sections = [_planned(origin, contents, i, asked or TYPE) for i in range(len(contents.sections))]
    if drafter is not None:
        other = locate(drafter, progress, plan_only=True)
        sections.append(_planned(other, _contents(other, drafter=True), 0, DRAFTER_TYPE))
    return _Model(Facts.of(sections), origin.name, asked, contents.trained_for)


def _split(source: str) -> tuple[str, str | None]:
    """A source and the type after its colon, if there is one."""
    name, colon, kind = source.rpartition(":")
    if not colon or Path(source).expanduser().exists() or not (HUB_ID.fullmatch(name) or Path(name).is_dir()):
        return source, None
    return name, mixture.mixture("source", kind).name


def _contents(origin: Origin, *, drafter: bool = False) -> Contents:
    return (read_gguf if origin.is_gguf else read_checkpoint)(origin, drafter=drafter)


def _planned(origin: Origin, contents: Contents, index: int, kind: str) -> Section:
    part = plan_section(contents.sections[index], MIXTURES[kind]).part(threads=1)
    return planned_section(part, origin.path)


def _stored(text: Section) -> str:
    """The name of a text section's mixture."""
    number = text.metadata.get("general.file_type")
    return next((name for name, kind in MIXTURES.items() if kind.file_type == number), "its types")


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _commands(
    source: str, model: _Model, choice: Choice | None, drafter: str | Path | None, kv_type: str
) -> tuple[str | None, str | None]:
    """What makes the bundle, where it is not there, and what runs it."""
    if choice is None or (model.path and choice.type != model.type):
        return None, None
    out = str(model.path) if model.path else f"{model.name}-{choice.type}.gguf"
    get = None
    if not model.path:
        words = ["convert-to-gguf", _split(source)[0], out, "--quant", choice.type]
        get = shlex.join([*words, *(["--drafter", str(drafter)] if drafter is not None else [])])
    more = ["--kv-type", kv_type] if kv_type != "f16" else []
    return get, shlex.join(["gemma4gguf", "generate", out, "-p", "Hello", "--context", str(choice.context), *more])
