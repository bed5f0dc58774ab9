"""What `scripts/bench` compares: which program measures it, where its figures are, its budget, and why it is missed.

Two tables, and what is computed of them. A program prints JSON; a place in it is a path of keys, with `*` for every
item of a list: the rounds. Figures of one round were taken one after the other, so a ratio is the median of theirs.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Json: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True)
class Program:
    """What is started once. In braces: what compare.py prepares. `quick`: options that make it short, to try it out."""

    command: str
    rounds: int = 3
    quick: str = ""
    unasked: bool = True  # without --only
    gpu: bool = False


@dataclass(frozen=True)
class Comparison:
    """A ratio, ours / the peer's. `peers`: of several the best one counts; without any, ours itself is the ratio."""

    program: str
    title: str
    ours: str
    peers: tuple[str, ...]
    against: str
    unit: str
    budget: float
    why: str = ""  # it does not hold

    @property
    def larger(self) -> bool:
        """More is better."""
        return self.unit in MORE

    def holds(self, ratio: float) -> bool:
        return ratio >= self.budget if self.larger else ratio <= self.budget


MORE = ("tokens/s", "of plain")
ACCEPTED = ("0.5", "0.7", "0.9")
SERVERS = tuple(f"rounds|*|llama-server {n} / plain" for n in range(5))

_DRAFTS = "benchmarks/decode.py {bundle} --peers {peers} --rounds {rounds} --tokens 64 --lengths 1,3 --accept"
_DRAFTS_ONLY = "--only auto,llama-server\\ 0,llama-server\\ 1,llama-server\\ 3"
_GPU = "benchmarks/decode.py {bundle} --peers {peers} --rounds {rounds} --gpu-layers 99 --accept"
PROGRAMS: Mapping[str, Program] = {
    "pictures": Program("benchmarks/pictures.py {bundle} --peers {peers} --rounds {rounds}", 5),
    "sound": Program("benchmarks/sound.py --rounds {rounds}", 5),
    "first token": Program("benchmarks/first_token.py {bundle} --peers {peers} --rounds {rounds} --cases text,photo"),
    "decode": Program(
        "benchmarks/decode.py {bundle} --peers {peers} --rounds {rounds} --tokens 64 "
        "--only prefill,llama-bench\\ prefill,llama-bench\\ plain,useless",
        quick="--tokens 8",
    ),
    **{
        f"drafts {share}": Program(f"{_DRAFTS} {share} {_DRAFTS_ONLY}", 2, "--tokens 8 --lengths 1")
        for share in ACCEPTED
    },
    **{f"gpu drafts {share}": Program(f"{_GPU} {share}", 5, "--tokens 8 --lengths 1", gpu=True) for share in ACCEPTED},
}


def _decoding(program: str) -> Iterator[Comparison]:
    """Of decode.py: against llama-bench, and what drafts cost when none is ever right."""
    yield Comparison(
        program,
        "reading 512 tokens",
        "rounds|*|prefill",
        ("rounds|*|llama-bench prefill",),
        "llama-bench",
        "tokens/s",
        1,
    )
    yield Comparison(
        program,
        "writing",
        "rounds|*|plain beside llama-bench plain",
        ("rounds|*|llama-bench plain",),
        "llama-bench",
        "tokens/s",
        0.97,
    )
    useless = "rounds|*|useless / plain"
    yield Comparison(program, "a drafter that is never right", useless, (), "no drafts", "of plain", 0.97)


def _drafting(program: str, share: str) -> Iterator[Comparison]:
    for against, peers in (("no drafts", ()), ("llama-server, its best length", SERVERS)):
        title = f"drafts, {float(share):.0%} accepted"
        yield Comparison(program, title, "rounds|*|auto / plain", peers, against, "of plain", 1 if peers else 0.97)


def _seconds(program: str, title: str, ours: str, peer: str, against: str, budget: float) -> Comparison:
    return Comparison(program, title, ours, (peer,), against, "s", budget)


def _ms(program: str, title: str, place: str, peer: str, budget: float) -> Comparison:
    return Comparison(program, title, f"{place}|ours|*", (f"{place}|{peer}|*",), peer, "ms", budget)


COMPARISONS: Sequence[Comparison] = (
    _ms("pictures", "a photo of 12 MP to 280 patches", "photo, 280", "transformers", 0.5),
    _ms("pictures", "a photo of 12 MP to 1120 patches", "photo, 1120", "transformers", 0.5),
    _ms("pictures", "a screenshot, 2560 x 1440 PNG", "screenshot", "transformers", 0.8),
    _ms("pictures", "20 thumbnails", "20 thumbnails", "transformers", 0.8),
    _ms("pictures", "280 patches to soft tokens", "soft tokens, 280", "torch", 1),
    _ms("pictures", "1120 patches to soft tokens", "soft tokens, 1120", "torch", 1),
    _ms("pictures", "the photo's patches to soft tokens", "soft tokens, mtmd", "mtmd", 0.8),
    _ms("sound", "sound, 30 s of WAV to frames", "30 s.wav", "transformers", 0.55),
    _ms("sound", "sound, 10 minutes of FLAC to frames", "10 min.flac", "transformers", 0.55),
    *(
        _seconds(
            "first token",
            f"start to first token, {what}, {draft} drafter",
            f"rounds|*|{case}, {draft}|0",
            f"rounds|*|{case}, mtmd|0",
            "llama-mtmd-cli",
            budget,
        )
        for case, what, budget in (("text", "text", 1.02), ("photo", "a photo of 12 MP", 0.8))
        for draft in ("without", "with")
    ),
    *_decoding("decode"),
    *(one for share in ACCEPTED for one in _drafting(f"drafts {share}", share)),
    *_decoding("gpu drafts 0.7"),
    *(one for share in ACCEPTED for one in _drafting(f"gpu drafts {share}", share)),
)


def values(found: object, path: str) -> list[float]:
    """The figures at a path; none where the path leads nowhere."""
    key, _, rest = path.partition("|")
    if key == "*":
        items = found if isinstance(found, list) else []
        return [value for item in items for value in (values(item, rest) if rest else [float(item)])]
    if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
        inner = found[int(key)]
    elif isinstance(found, Mapping) and key in found:
        inner = found[key]
    else:
        return []
    return values(inner, rest) if rest else [float(inner)]


def compared(one: Comparison, found: object) -> dict[str, Any] | None:
    """What came of a comparison, as it is kept; None where the program's JSON has no figures for it."""
    ours = values(found, one.ours)
    theirs = [figures for path in one.peers if len(figures := values(found, path)) == len(ours)]
    if not ours or (one.peers and not theirs):
        return None
    peer = (max if one.larger else min)(theirs, key=statistics.median) if theirs else [1.0] * len(ours)
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    ratio = round(statistics.median(ratios), 3)
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratio,) * 3
    return {
        "program": one.program,
        "title": one.title,
        "against": one.against,
        "unit": one.unit,
        "ours": _rounded(statistics.median(ours)),
        "peer": _rounded(statistics.median(peer)) if theirs else None,
        "ratio": ratio,
        "spread": [round(low, 3), round(high, 3)],  # half of the rounds lie between
        "rounds": len(ratios),
        "budget": one.budget,
        "larger is better": one.larger,
        "held": one.holds(ratio),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def worse(now: Sequence[Json], before: Sequence[Json]) -> list[str]:
    """A line for each ratio that is outside its budget now, and worse than before by more than its rounds differ."""
    known = {(one["title"], one["against"]): one for one in before}
    lines = []
    for one in now:
        old = known.get((one["title"], one["against"]))
        if old is None or one["held"]:
            continue
        sign = 1 if one["larger is better"] else -1
        spread = max(side["spread"][1] - side["spread"][0] for side in (one, old)) / 2
        if sign * (old["ratio"] - one["ratio"]) > spread:
            bound = "at least" if one["larger is better"] else "at most"
            lines.append(
                f"{one['title']} against {one['against']}: {one['ratio']}, before {old['ratio']}, "
                f"budget {bound} {one['budget']}"
            )
    return lines
