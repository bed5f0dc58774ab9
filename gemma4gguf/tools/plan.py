"""What of a model fits into a memory: the best type and context, and the commands that get and run it.

In: a bundle, a checkpoint folder or a Hub id, of which only headers are read, and bytes of memory. Out: a `Plan`. What
a type weighs is the converter's own mixture, what a context weighs is `runtime.memory`, and what fits `runtime.room`.
Nothing is loaded or written.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from converters import mixture
from converters.mixture import MIXTURES, UNDER_FOUR_BITS

from ..arguments import LONGEST
from ..errors import InputError
from ..machine import data_limit, memory_limit
from ..native.context import KV_TYPES, ContextOptions
from ..native.library import repacked_types
from ..runtime.memory import Facts, Memory, memory
from ..runtime.room import Fit, contexts, every_context, first_that_fits, fit, usable
from .plan_source import QUANTISED, Progress, Source, read_source

LEAN = "q8_0"  # a cache of about half the size
STEP = 10**6  # bytes: sizes of mixes are told in these
TOLD = (8_192, 32_768, 131_072, 262_144)  # positions that every type is told for, up to the model's own limit
ENOUGH = 8_192  # positions: a better type is not worth a shorter context
Needs = Callable[[int], Memory]  # what a context takes


@dataclass(frozen=True)
class ContextFit:
    """What a type takes with a context, in bytes, and whether that "fits", is "tight" or no ("no"): see `room.fit`."""

    context: int
    takes: int
    fit: Fit


@dataclass(frozen=True)
class Choice:
    """A type of the text model in a memory. `context`: the one asked for, or the longest that fits, or the shortest.

    `size`: of the bundle, in bytes. `memory` and `fit` are for that context; `contexts` are those of TOLD that the
    model was made for, or the one asked for.
    """

    type: str
    size: int
    context: int
    memory: Memory
    fit: Fit
    contexts: tuple[ContextFit, ...]

    @property
    def fits(self) -> bool:
        return self.fit == "fits"


@dataclass(frozen=True)
class Longest:
    """The longest context with which a type fits, by the cache's type: `kv_type` and LEAN. 0: none fits."""

    type: str
    tokens: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """`limit` (of the memory) and `room` (what a model may take of it) in bytes.

    `choices` are the types that may be: a bundle's own, the one asked for, or all. `best` is the one of the best
    quality that fits, of 4 bits a weight and more where it may be any; None: it does not fit. `instead` is then the
    best of any type that would, or None. `least` takes least of all types. `get` and `run` are commands for the best.
    `mix` makes a larger file for the same context, its types chosen by measuring; None where there is no such choice.
    `longest` is that of the one choice, else of the best type, of `instead`, or of the choice that takes least.
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
    longest: Longest


def plan(
    source: str | Path | Source,
    *,
    limit: int | None = None,
    context: int | Literal["max"] | None = None,
    parallel: int = 1,
    kv_type: str = "f16",
    drafter: str | Path | None = None,
    repacked: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Plan:
    """Plan a bundle, a checkpoint folder or a Hub id, or what was read of one; `NAME:TYPE` asks for one type.

    `limit`: bytes of memory; None: what this machine lets this process use, and what of it may be private. `context`
    positions for each of `parallel` conversations; None: as many as fit, up to 32,768; "max": as many as fit. `drafter`
    goes into the bundle of a checkpoint. `repacked`: types that the processor has copied; None: those of this one.
    Raises InputError, FormatError and ConversionError.
    """
    if kv_type not in KV_TYPES:
        raise InputError(f"kv_type is {kv_type!r}, expected one of {', '.join(KV_TYPES)}")
    own = data_limit() if limit is None else None
    limit = memory_limit() if limit is None else limit
    if limit is None:
        raise InputError("limit: this system does not tell how much memory it has; give it")
    model = source if isinstance(source, Source) else read_source(source, drafter, progress)
    made_for = model.facts.limit
    if isinstance(context, int) and context > made_for:
        raise InputError(f"context is {context:,}, the model was made for at most {made_for:,}")
    copied = repacked_types() if repacked is None else repacked
    asked = _Asked(model, limit, own, _lengths(context, made_for), _told(context, made_for), parallel, kv_type, copied)
    enough, room = min(ENOUGH, asked.lengths[0]), usable(limit)

    choices = [asked.choice(name) for name in model.types]
    good = [c for c in choices if len(choices) == 1 or c.type not in UNDER_FOUR_BITS]
    best = _best(good, enough, model.trained_for)
    every = choices if model.types == QUANTISED else [asked.choice(name) for name in QUANTISED]
    instead = None if best else _best(choices, enough, None) or _best(every, enough, None)
    least = _least(every)
    chosen = best or instead
    get, run = _commands(model, chosen, kv_type)
    mix = None if chosen in (None, choices[0]) else _mix(model, chosen, room)
    told_of = (choices[0] if len(choices) == 1 else chosen or _least(choices)).type
    longest = Longest(told_of, {kind: asked.most(told_of, kind) for kind in (kv_type, LEAN)})
    name = model.named(model.type) if model is source else str(source)
    return Plan(name, limit, room, parallel, kv_type, tuple(choices), best, instead, least, get, run, mix, longest)


@dataclass(frozen=True)
class _Asked:
    """What is planned, and for what: bytes of memory and of private memory, and how it would be opened.

    `lengths` are contexts to choose from, the longest first; `told` those that every type is told for. `copied`: types
    that the processor has copied.
    """

    model: Source
    limit: int
    own: int | None
    lengths: Sequence[int]
    told: tuple[int, ...]
    parallel: int
    kv_type: str
    copied: Collection[str]

    def choice(self, name: str) -> Choice:
        """A type with the first length that fits, else with the last."""
        facts = _retyped(self.model, name)
        needs = self._needs(facts, self.kv_type)
        found = self._first(needs, self.lengths)
        each = tuple(self._at(needs, context) for context in self.told)
        return Choice(name, _size(facts), found.context, needs(found.context), found.fit, each)

    def most(self, name: str, kv_type: str) -> int:
        """The longest context of all that fits, with a cache of that type; 0: none does."""
        found = self._first(self._needs(_retyped(self.model, name), kv_type), every_context(self.model.facts.limit))
        return found.context if found.fit == "fits" else 0

    def _needs(self, facts: Facts, kv_type: str) -> Needs:
        def needs(context: int) -> Memory:
            outputs = ContextOptions.outputs * self.parallel
            options = ContextOptions(context, sequences=self.parallel, outputs=outputs, kv_type=kv_type)
            return memory(facts, options, repacked=self.copied)

        return cache(needs)

    def _first(self, needs: Needs, lengths: Sequence[int]) -> ContextFit:
        return self._at(needs, first_that_fits(lengths, needs, usable(self.limit), self.own and usable(self.own)))

    def _at(self, needs: Needs, context: int) -> ContextFit:
        return ContextFit(context, needs(context).total, fit(needs(context), self.limit, self.own))


def for_each_context(found: Plan) -> list[tuple[str, ContextFit]]:
    """A type for each context: the best that fits, else the one that takes least; of 4 bits and more, if it may be."""

    def rank(pair: tuple[str, ContextFit]) -> tuple[int, bool, int]:
        kind, at = pair
        return get_args(Fit).index(at.fit), kind in UNDER_FOUR_BITS, 0 if at.fit == "fits" else at.takes

    by_context = zip(*([(choice.type, at) for at in choice.contexts] for choice in found.choices), strict=True)
    return [min(pairs, key=rank) for pairs in by_context]


def _lengths(context: int | str | None, longest: int) -> Sequence[int]:
    """Contexts to choose from, the longest first."""
    if isinstance(context, int):
        return [context]
    return every_context(longest) if context == LONGEST else contexts(longest)


def _told(context: int | str | None, longest: int) -> tuple[int, ...]:
    """Contexts that every type is told for."""
    if isinstance(context, int):
        return (context,)
    return tuple(n for n in TOLD if n <= longest) or (longest,)


def _best(choices: Sequence[Choice], enough: int, first: str | None) -> Choice | None:
    """The first that fits with `enough` positions, else the first that fits; `first` is a type that goes before all."""
    fitting = sorted((c for c in choices if c.fits), key=lambda c: (c.context < enough, c.type != first))
    return fitting[0] if fitting else None


def _least(choices: Sequence[Choice]) -> Choice:
    return min(choices, key=lambda c: c.memory.total)


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
