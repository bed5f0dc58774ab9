"""What of a model fits into a memory: the best type and context, and the commands that get and run it.

In: a bundle, a checkpoint folder or a Hub id, of which only headers are read, and bytes of memory. Out: a `Plan`. What
a type weighs is the converter's own mixture, what a context weighs is `runtime.memory`. Nothing is loaded or written.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from converters import mixture
from converters.mixture import MIXTURES, UNDER_FOUR_BITS

from ..arguments import LONGEST
from ..errors import InputError
from ..machine import memory_limit
from ..native.context import KV_TYPES, ContextOptions
from ..native.library import repacked_types
from ..runtime.memory import Facts, Memory, memory
from ..runtime.room import contexts, every_context, first_that_fits, usable
from .plan_source import QUANTISED, Progress, Source, read_source

STEP = 10**6  # bytes: sizes of mixes are told in these
ENOUGH = 8_192  # positions: a better type is not worth a shorter context


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
    best of any type that would, or None. `least` takes least of all types. `get` and `run` are commands for the best.
    `mix` makes a larger file for the same context, its types chosen by measuring; None where there is no such choice.
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
    mix: str | None


def plan(
    source: str | Path,
    *,
    limit: int | None = None,
    context: int | Literal["max"] | None = None,
    parallel: int = 1,
    kv_type: str = "f16",
    drafter: str | Path | None = None,
    repacked: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Plan:
    """Plan a bundle, a checkpoint folder or a Hub id; `NAME:TYPE` asks for one type.

    `limit`: bytes of memory; None: what this machine lets this process use. `context` positions for each of `parallel`
    conversations; None: as many as fit, up to 32,768; "max": as many as fit. `drafter` goes into the bundle of a
    checkpoint. `repacked`: types that the processor has copied; None: those of this one. Raises InputError, FormatError
    and ConversionError.
    """
    if kv_type not in KV_TYPES:
        raise InputError(f"kv_type is {kv_type!r}, expected one of {', '.join(KV_TYPES)}")
    limit = memory_limit() if limit is None else limit
    if limit is None:
        raise InputError("limit: this system does not tell how much memory it has; give it")
    model = read_source(source, drafter, progress)
    longest = model.facts.limit
    if isinstance(context, int) and context > longest:
        raise InputError(f"context is {context:,}, the model was made for at most {longest:,}")
    lengths = _lengths(context, longest)
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

    choices = [choice(name) for name in model.types]
    good = [c for c in choices if len(choices) == 1 or c.type not in UNDER_FOUR_BITS]
    best = _best(good, enough, model.trained_for)
    every = choices if model.types == QUANTISED else [choice(name) for name in QUANTISED]
    instead = None if best else _best(choices, enough, None) or _best(every, enough, None)
    least = min(every, key=lambda c: c.memory.total)
    chosen = best or instead
    get, run = _commands(model, chosen, kv_type)
    mix = None if chosen in (None, choices[0]) else _mix(model, chosen, room)
    return Plan(str(source), limit, room, parallel, kv_type, tuple(choices), best, instead, least, get, run, mix)


def _lengths(context: int | str | None, longest: int) -> Sequence[int]:
    """Contexts to choose from, the longest first."""
    if isinstance(context, int):
        return [context]
    return every_context(longest) if context == LONGEST else contexts(longest)


def _best(choices: Sequence[Choice], enough: int, first: str | None) -> Choice | None:
    """The first that fits with `enough` positions, else the first that fits; `first` is a type that goes before all."""
    fitting = sorted((c for c in choices if c.fits), key=lambda c: (c.context < enough, c.type != first))
    return fitting[0] if fitting else None


def _size(facts: Facts) -> int:
    """Bytes of the bundle."""
    return sum(part.header + part.size for part in (facts.text, facts.embedder, facts.drafter) if part)


def _retyped(model: Source, name: str) -> Facts:
    """The facts of the same model with its text matrices in a mixture's types."""
    if name == model.type:
        return model.facts
    facts, first = model.facts, model.facts.model.layers[0]
    shapes = [(tensor.name, tensor.shape) for tensor in facts.text.tensors]
    types = mixture.choose(shapes, MIXTURES[name], layers=len(facts.model.layers), group=first.heads // first.kv_heads)
    tensors = tuple(replace(tensor, type=types[tensor.name]) for tensor in facts.text.tensors)
    return replace(facts, text=replace(facts.text, tensors=tensors))


def _mix(source: Source, choice: Choice, room: int) -> str | None:
    """The command for a file that takes what a choice leaves: a byte of a matrix is a byte of memory."""
    size = (choice.size + room - choice.memory.total) // STEP * STEP
    command = source.get_mix(f"{size / 10**9:.3f}GB") if size > choice.size else None
    return shlex.join(command) if command else None


def _commands(source: Source, choice: Choice | None, kv_type: str) -> tuple[str | None, str | None]:
    """What gets a bundle, where it is not there, and what runs it."""
    get = source.get(choice.type) if choice else None
    if choice is None or (get is None and choice.type != source.type):  # not to be had from there
        return None, None
    more = ["--kv-type", kv_type] if kv_type != "f16" else []
    run = ["gemma4gguf", "chat", source.named(choice.type), "--context", str(choice.context), *more]
    return shlex.join(get) if get else None, shlex.join(run)
