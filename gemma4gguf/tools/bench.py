"""How fast a bundle is on this machine: reading, writing, pictures, sound, drafts, several answers at once.

A bundle and options for opening it come in; figures go out, each the median of some rounds with its spread. Every
figure is taken with the engine's own calls, on texts, pictures and sound that are the same everywhere.
"""

from __future__ import annotations

import io
import math
import os
import statistics
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..bundle.reading import EMBEDDER
from ..errors import InputError
from ..machine import cpu_quota, memory_limit, physical_cores
from ..media.audio import frame
from ..media.image import patchify
from ..model import Gemma4
from ..native.library import gpus, system_info
from ..native.library import version as llama_version
from ..runtime.session import Session, Span, Step, evaluate
from ..version import __version__

SECONDS = 6.0  # for one figure: rounds go on that long, and a longer prompt is read only if it takes no more
MOST_ROUNDS = 9
PROMPTS = (64, 256, 1024, 4096)  # tokens
ROWS = (2, 3, 4, 5, 6, 8)  # of checks
AT_ONCE = (1, 2, 4)  # answers
ACCEPTED = (0.5, 0.7, 0.9)
COPIED = 1 << 28  # bytes, more than any cache holds
PHOTO = (4000, 3000)  # pixels
CLIP_SECONDS, CLIP_RATE = 10, 44_100

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """A median of `rounds` measurements. `spread`: half of them lie this share of it apart. `note`: what it means."""

    name: str
    value: float
    unit: str
    spread: float = 0.0
    rounds: int = 1
    note: str = ""

    @property
    def larger_is_better(self) -> bool:
        return self.unit in ("tokens/s", "GB/s", "x")


@dataclass(frozen=True)
class Report:
    """What was measured, on what. `warnings`: why the figures may be worse than they need be."""

    file: str
    machine: Mapping[str, object]
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def bench(path: str | os.PathLike[str], *, tell: Tell = lambda stage: None, **options: Any) -> Report:
    """Measure a bundle. `options`: those of Gemma4. `tell` is called with each stage. Raises what Gemma4 raises."""
    throttled, before = _throttled(), busy()
    figures: list[Figure] = []
    with Gemma4(path, **options) as model:
        for stage, measure in _STAGES.items():
            tell(stage)
            figures += measure(model)
        name = str(model.bundle.path)
    tell("several at once")
    with Gemma4(path, **{**options, "parallel": max(AT_ONCE), "draft": "off"}) as model:
        figures += _at_once(model)
    warnings = [*before, *(["the processor was slowed down by heat meanwhile"] if _throttled() > throttled else [])]
    return Report(name, machine(), tuple(figures), tuple(warnings))


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────


def rounds(work: Callable[[], object], *, seconds: float = SECONDS, most: int = MOST_ROUNDS) -> list[float]:
    """Seconds of each round of `work`, which goes on for about `seconds`, and is done once before if that is quick."""
    begun = time.perf_counter()
    taken: list[float] = []
    while not taken or (len(taken) <= most and time.perf_counter() - begun + taken[-1] < seconds):
        before = time.perf_counter()
        work()
        taken.append(time.perf_counter() - before)
    return taken[1:] or taken  # the first one warms caches up


def figure(name: str, taken: Sequence[float], unit: str, amount: float = 1.0, note: str = "") -> Figure:
    """Of seconds: `amount` a second for rates, and for times milliseconds or seconds by the unit."""
    middle = statistics.median(taken)
    value = {"ms": middle * 1e3, "s": middle}.get(unit, amount / middle)
    low, _, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else (middle,) * 3
    return Figure(name, value, unit, (high - low) / middle, len(taken), note)


def _ids(model: Gemma4, count: int) -> list[int]:
    """Token ids of an ordinary text, as many as wanted."""
    text = "The quick brown fox jumps over the lazy dog, and a clever machine reads of it, line by line. "
    ids = model.tokenize(text)
    return [2, *(ids * math.ceil(count / len(ids)))][:count]


def _read(session: Session, spans: Sequence[Span]) -> None:
    session.clear()
    session.feed(spans)


def copied() -> list[float]:
    """Seconds of each of a few copies of COPIED bytes by one core."""
    source, copy = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    copy[:] = 1  # a first write gets the pages, which is no copy, and took a second on one machine
    return rounds(lambda: np.copyto(copy, source), seconds=1)


def _memory(model: Gemma4) -> Iterator[Figure]:
    yield figure("memory copied", copied(), "GB/s", 2 * COPIED / 1e9, "one core, read and written")


def _load(model: Gemma4) -> Iterator[Figure]:
    begun = time.perf_counter()
    model.load()
    yield Figure("opening", time.perf_counter() - begun, "s", note="weights, cache and drafter")


def _reading(model: Gemma4) -> Iterator[Figure]:
    session, rate = model.engine.session, 0.0
    for count in PROMPTS:
        if count > session.context.size // 2 or (rate and count / rate > SECONDS):
            break
        spans = [Span(_ids(model, count))]
        taken = rounds(lambda spans=spans: _read(session, spans))  # type: ignore[misc]
        rate = count / statistics.median(taken)
        yield figure(f"reading {count} tokens", taken, "tokens/s", count)


def _writing(model: Gemma4) -> Iterator[Figure]:
    """Steps of one token, then checks of several rows, a draft step, and what drafts would bring."""
    session = model.engine.session
    _read(session, [Span(_ids(model, 64))])
    token = _ids(model, 2)[1]

    def step(rows: int) -> None:
        session.step([token] * rows)
        session.rewind(session.length - rows)

    one = rounds(lambda: step(1), most=32)
    yield figure("writing", one, "tokens/s", 1, "one answer, without drafts")
    check = {1: statistics.median(one)}
    for rows in ROWS:
        taken = rounds(lambda rows=rows: step(rows), seconds=SECONDS / 3)  # type: ignore[misc]
        check[rows] = statistics.median(taken)
        yield figure(f"a check of {rows} rows", taken, "ms")
    drafter = model.engine.drafter
    if drafter is None:
        return
    session.step([token])
    guesses = drafter.guesses(token, session.context.hidden(0).copy(), session.length)
    taken = rounds(lambda: next(guesses), seconds=SECONDS / 3, most=32)
    yield figure("a draft step", taken, "ms")
    draft = statistics.median(taken)
    for accepted in ACCEPTED:
        gain, length = max((_gain(accepted, rows - 1, check, draft), rows - 1) for rows in check)
        note = f"{length} at a time" if length else "drafts do not pay"
        yield Figure(f"drafts, {accepted:.0%} accepted", gain, "x", note=f"{note}; computed from the lines above")


def _gain(accepted: float, length: int, check: Mapping[int, float], draft: float) -> float:
    """Tokens a second with `length` guesses a step, each right with probability `accepted`, over those without."""
    tokens = sum(accepted**i for i in range(length + 1))
    return tokens * check[1] / (check[length + 1] + length * draft)


def _pictures(model: Gemma4) -> Iterator[Figure]:
    if model.bundle.section(EMBEDDER) is None or not model.engine.embedder.sees:
        return
    photo = io.BytesIO()
    Image.radial_gradient("L").resize(PHOTO).convert("RGB").save(photo, "JPEG", quality=90)
    yield figure("a 12 MP photo to patches", rounds(lambda: patchify(photo.getvalue(), model.image_tokens)), "ms")
    patches = patchify(photo.getvalue(), model.image_tokens)
    taken = rounds(lambda: model.engine.embedder.image(patches))
    yield figure("patches to soft tokens", taken, "ms", note=f"{len(patches)}")
    yield _first_token(model, "first token, picture", images=[photo.getvalue()])


def _sound(model: Gemma4) -> Iterator[Figure]:
    if model.bundle.section(EMBEDDER) is None or not model.engine.embedder.hears:
        return
    tone = np.sin(np.arange(CLIP_SECONDS * CLIP_RATE) * 2 * np.pi * 440 / CLIP_RATE)
    clip = io.BytesIO()
    with wave.open(clip, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(CLIP_RATE)
        out.writeframes(np.repeat((tone * 8000).astype("<i2"), 2).tobytes())
    yield figure(f"{CLIP_SECONDS} s of sound to frames", rounds(lambda: frame(clip.getvalue())), "ms")
    yield _first_token(model, "first token, sound", audio=[clip.getvalue()])


def _text(model: Gemma4) -> Iterator[Figure]:
    yield _first_token(model, "first token, text")


def _first_token(model: Gemma4, name: str, **media: Any) -> Figure:
    session, tokens = model.engine.session, 0

    def ask() -> None:
        nonlocal tokens
        session.clear()
        tokens = model.generate("What is this?", max_tokens=1, temperature=0, **media).tokens.prompt

    return figure(name, rounds(ask), "ms", note=f"{tokens} positions read")


def _at_once(model: Gemma4) -> Iterator[Figure]:
    sessions, context = model.engine.sessions, model.engine.session.context
    for session in sessions:
        session.feed([Span(_ids(model, 32))])
    token = _ids(model, 2)[1]
    for count in AT_ONCE:

        def step(count: int = count) -> None:
            evaluate(context, [Step(session, [token]) for session in sessions[:count]])
            for session in sessions[:count]:
                context.remove(session.length, session.sequence)

        many = f"{count} answers at once" if count > 1 else "one answer, room for more"
        yield figure(f"writing {many}", rounds(step, most=32), "tokens/s", count, "together")


_STAGES: Mapping[str, Callable[[Gemma4], Iterator[Figure]]] = {
    "memory": _memory,
    "opening": _load,
    "reading": _reading,
    "writing": _writing,
    "first token": _text,
    "pictures": _pictures,
    "sound": _sound,
}


# ── the machine ──────────────────────────────────────────────────────────────────────────────────────────────────


def machine() -> dict[str, object]:
    """What a figure depends on: processor, its features, cores and quota, GPUs, memory, versions."""
    features = [part.split("=")[0].replace("CPU :", "").strip() for part in system_info().split("|") if "= 1" in part]
    return {
        "processor": _processor(),
        "features": features,
        "cores": physical_cores(),
        "gpus": gpus(),
        "quota": cpu_quota(),
        "memory": memory_limit(),
        "gemma4gguf": __version__,
        "llama.cpp": llama_version(),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()


def busy() -> list[str]:
    found = []
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
        if load > physical_cores() / 2:
            found.append(f"other programs are at work (load {load:.1f} on {physical_cores()} cores)")
    for supply in Path("/sys/class/power_supply").glob("*/online"):
        with suppress(OSError):
            if supply.read_text().strip() == "0":
                found.append("the machine runs on its battery")
    return found


def _throttled() -> int:
    """How often heat has slowed the processor down, where the system tells."""
    count = 0
    for file in Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count"):
        with suppress(OSError, ValueError):
            count += int(file.read_text())
    return count


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────


def compared(now: Report, before: Mapping[str, Any]) -> list[tuple[Figure, float, float]]:
    """Figures that both have: the figure, its value before, and how much better it is now (1: the same).

    `before`: what `Report.as_json` gave. Raises InputError for anything else.
    """
    try:
        known = {str(one["name"]): (float(one["value"]), str(one["unit"])) for one in before["figures"]}
    except (KeyError, TypeError, ValueError):
        raise InputError("compare: expected a file that `gemma4gguf bench --json` wrote") from None
    out = []
    for one in now.figures:
        value, unit = known.get(one.name, (0.0, ""))
        if value and one.value and unit == one.unit:
            out.append((one, value, one.value / value if one.larger_is_better else value / one.value))
    return out
