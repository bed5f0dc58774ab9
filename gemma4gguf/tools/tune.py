"""Which options are fastest on this machine: threads, micro-batch, repacking and the cache's type.

A bundle and options for opening it come in; what was tried goes out, and the options that win. Each stage starts from
what has won before. Its values take turns, round by round, so that what else the machine does hits all of them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from ..bundle.finding import find_model
from ..bundle.reading import Bundle
from ..bundle.validation import check_text
from ..machine import physical_cores, processors
from ..native.context import Context, ContextOptions
from ..native.library import repacked_types
from ..native.weights import Weights
from ..runtime.loading import load
from ..runtime.opening import Opening
from ..runtime.room import settled
from ..runtime.session import Session, Span
from .bench import Figure, Tell, busy, figure, machine

SECONDS = 15.0  # for a stage, if that is enough for LEAST_ROUNDS
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
PROMPTS = (256, 512, 1024, 2048)  # tokens: the longest that is read in LONGEST_S
LONGEST_S = 8.0
SHORT = 128  # tokens: a prompt where its length matters little
WARMING = 64
STEPS = 8  # rows, one after another, of which the median counts
CHECKED = 4  # rows of a check
ROOM = 4096  # positions of one cache that takes about what the small ones of a stage take together
AHEAD, BEHIND = 1.03, 0.98  # how many times as fast a value must be in something, and may be in everything else
HOPELESS = 0.9  # as fast, or less: not tried again

READING, WRITING, CHECK = "reading", "writing", f"a check of {CHECKED} rows"

Times: TypeAlias = dict[str, list[float]]  # seconds of each round, by what was done
Work: TypeAlias = Callable[[Session], float]


@dataclass(frozen=True)
class Tried:
    """One value of an option of `Gemma4`. `gains`: how many times as fast as the value before it was each figure, the
    median of rounds taken in turns; empty for that value. `best`: it was taken.
    """

    option: str
    value: object
    figures: tuple[Figure, ...]
    gains: Mapping[str, float]
    best: bool


@dataclass(frozen=True)
class Tuning:
    """What was tried, on what. `prompt`: tokens of it. `options`: keywords of `Gemma4` that are faster than what was
    asked for; empty where that is the fastest. `warnings`: why the figures may be wrong.
    """

    file: str
    machine: Mapping[str, object]
    prompt: int
    tried: tuple[Tried, ...]
    options: Mapping[str, object]
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """One option, the values to try beside the one that it has, and what they are measured at."""

    option: str
    values: Sequence[object]
    works: Mapping[str, Work]
    amounts: Mapping[str, int]  # tokens of each work; none for what is told in milliseconds


def tune(path: str | os.PathLike[str], *, tell: Tell = lambda stage: None, **options: Any) -> Tuning:
    """Measure which options make a bundle faster. `options`: those of Gemma4, where the search begins. `tell` is called
    with each stage. Raises what Gemma4 raises.
    """
    warnings, opening = busy(), Opening(**options)
    bundle = Bundle.open(find_model(path))
    check_text(bundle.text)
    asked = opening.engine_options(bundle)
    settled(bundle, replace(asked, context=replace(asked.context, context=_room(bundle))), force=opening.force)
    begun = _begun(opening)
    best, tried = dict(begun), list[Tried]()
    with ExitStack() as stack:
        loaded: dict[bool, Weights] = {}

        def place(inner: ExitStack, how: Mapping[str, Any], size: int) -> Session:
            """A cache of its own, as the options want it. Weights stay loaded."""
            wanted = replace(opening, **how).engine_options(bundle)
            if wanted.repack not in loaded:
                weights = load(bundle.text, gpu_layers=wanted.gpu_layers, repack=wanted.repack, debug=wanted.debug)
                loaded[wanted.repack] = stack.enter_context(weights)
            context = replace(wanted.context, context=size, sequences=1, outputs=ContextOptions.outputs)
            return Session(inner.enter_context(Context(loaded[wanted.repack], context)))

        tell("opening")
        with ExitStack() as inner:
            prompt = _prompt(place(inner, best, 2 * WARMING), _room(bundle))
        for stage in _stages(opening, bundle, prompt):
            tell(stage.option.replace("_", " "))
            now, size = best[stage.option], max(prompt, SHORT) + WARMING
            with ExitStack() as inner:
                values = [now, *(value for value in stage.values if value != now)]
                places = [place(inner, {**best, stage.option: value}, size) for value in values]
                times = in_turns(places, stage.works)
            won = winner(times)
            tried += _told(stage, values, times, won)
            best[stage.option] = values[won]
    return Tuning(str(bundle.path), machine(), prompt, tuple(tried), chosen(opening, begun, best), tuple(warnings))


def _begun(opening: Opening) -> dict[str, Any]:
    """The options that stages change, as they are without any change."""
    threads = opening.threads or physical_cores()
    return {
        "threads": threads,
        "threads_batch": opening.threads_batch or threads,
        "micro_batch": opening.micro_batch,
        "repack": opening.repack,
        "kv_type": opening.kv_type,
    }


def chosen(opening: Opening, begun: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, Any]:
    """What to change: both kinds of threads only where they differ, as one follows the other."""
    changed = {name: value for name, value in best.items() if value != begun[name]}
    if opening.threads_batch is None:
        changed.pop("threads_batch", None)
        if best["threads_batch"] != best["threads"]:
            changed["threads_batch"] = best["threads_batch"]
    return changed


# ── what is tried ────────────────────────────────────────────────────────────────────────────────────────────────


def _stages(opening: Opening, bundle: Bundle, prompt: int) -> Iterator[Stage]:
    cores, all_of_them = physical_cores(), processors()
    counts = sorted({1, max(1, cores // 2), cores, all_of_them})
    every = {READING: _reading(SHORT), WRITING: _writing, CHECK: _check}
    amounts = {READING: SHORT, WRITING: 1}
    yield Stage("threads", counts, {WRITING: _writing}, amounts)  # of single rows
    yield Stage("threads_batch", counts, {READING: every[READING], CHECK: _check}, amounts)
    batches = micro_batches(prompt, opening.micro_batch)
    yield Stage("micro_batch", batches, {READING: _reading(prompt)}, {READING: prompt})
    if repacked_types() & {tensor.type.name for tensor in bundle.text.tensors.values()}:
        yield Stage("repack", (True, False), every, amounts)
    if opening.kv_type in ("f16", "q8_0") and opening.flash_attention != "off":
        yield Stage("kv_type", ("f16", "q8_0"), every, amounts)


def micro_batches(prompt: int, now: int) -> list[int]:
    """Sizes that cut a prompt into one to four pieces, without those that cut it as `now` does: not at all."""
    sizes = [prompt >> halved for halved in (2, 1, 0)]
    return sizes if now < prompt else sizes[:-1]


def _prompt(session: Session, room: int) -> int:
    """How long a prompt may be: some seconds of reading, and what the model was made for."""
    _warm(session)
    rate = WARMING / _reading(WARMING)(session)
    fitting = [n for n in PROMPTS if n + WARMING <= room and n / rate <= LONGEST_S]
    return max(fitting, default=min(PROMPTS[0], room - WARMING))


def _room(bundle: Bundle) -> int:
    return min(ROOM, int(bundle.text.metadata["gemma4.context_length"]))


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────


def in_turns(places: Sequence[Session], works: Mapping[str, Work]) -> list[Times]:
    """Each place does each work, in rounds. One that is hopelessly behind the first is left out of further ones."""
    for session in places:
        _warm(session)
    times: list[Times] = [{name: [] for name in works} for _ in places]
    begun, running = time.perf_counter(), list(range(len(places)))
    for done in range(1, MOST_ROUNDS + 1):
        for index in running:
            for name, work in works.items():
                times[index][name].append(work(places[index]))
        running = [i for i in running if i == 0 or not _hopeless(gains(times[0], times[i]))]
        spent = time.perf_counter() - begun
        if running == [0] or (done >= LEAST_ROUNDS and spent * (done + 1) / done > SECONDS):
            break
    return times


def _ids(session: Session, count: int) -> list[int]:
    return [i % session.context.model.vocab.size for i in range(2, count + 2)]  # any will do: all cost the same


def _reading(count: int) -> Work:
    def work(session: Session) -> float:
        session.clear()
        spans = [Span(_ids(session, count))]
        before = time.perf_counter()
        session.feed(spans)
        return time.perf_counter() - before

    return work


def _step(session: Session, rows: int) -> float:
    tokens = _ids(session, rows)
    before = time.perf_counter()
    session.step(tokens)
    taken = time.perf_counter() - before
    session.rewind(session.length - rows)
    return taken


def _writing(session: Session) -> float:
    return statistics.median(_step(session, 1) for _ in range(STEPS))


def _check(session: Session) -> float:
    return statistics.median(_step(session, CHECKED) for _ in range(STEPS // 2))


def _warm(session: Session) -> None:
    """Touch what a first call touches: pages of the file, the cache and the buffers."""
    _reading(WARMING)(session)
    _step(session, 1)
    _step(session, CHECKED)


# ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────────


def gains(first: Times, other: Times) -> dict[str, list[float]]:
    """How many times as fast as the first one the other was, round by round."""
    return {name: [a / b for a, b in zip(first[name], taken, strict=False)] for name, taken in other.items()}


def winner(times: Sequence[Times]) -> int:
    """The one to take; the first, unless another is ahead in something by more than the rounds differ, and behind in
    nothing.
    """

    def rank(index: int) -> float:
        found = gains(times[0], times[index])
        middles = [statistics.median(each) for each in found.values()]
        ahead = any(_quarter(each) > 1 and statistics.median(each) >= AHEAD for each in found.values())
        return statistics.geometric_mean(middles) if ahead and min(middles) >= BEHIND else 0.0

    return max(range(len(times)), key=lambda index: rank(index) if index else 1.0)


def _quarter(ratios: Sequence[float]) -> float:
    """What three of four are above; of three, the least."""
    return statistics.quantiles(ratios, n=4)[0] if len(ratios) > 1 else ratios[0]


def _hopeless(found: Mapping[str, Collection[float]]) -> bool:
    return any(statistics.median(each) < HOPELESS for each in found.values())


def _told(stage: Stage, values: Sequence[object], times: Sequence[Times], won: int) -> Iterator[Tried]:
    for index, (value, taken) in enumerate(zip(values, times, strict=True)):
        figures = tuple(
            figure(name, each, "tokens/s" if name in stage.amounts else "ms", stage.amounts.get(name, 1))
            for name, each in taken.items()
        )
        found = gains(times[0], taken) if index else {}
        middles = {name: statistics.median(each) for name, each in found.items()}
        yield Tried(stage.option, value, figures, middles, index == won)
