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
    by_default: bool = True  # without --only
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

    @property
    def larger(self) -> bool:
        """More is better."""
        return self.unit in MORE

    def holds(self, ratio: float) -> bool:
        return ratio >= self.budget if self.larger else ratio <= self.budget


MORE = ("tokens/s", "of plain")
TIE = 0.97  # at least: the same kernels of llama.cpp on both sides, and rounds that differ by so much
ACCEPTED = ("0.5", "0.7", "0.9")
SERVERS = tuple(f"rounds|*|llama-server {n} / plain" for n in range(5))

_DECODE = "benchmarks/decode.py {bundle} --peers {peers} --rounds {rounds}"
_PREPARED = (
    "--converter {peers}/llama.cpp/convert_hf_to_gguf.py --python {python} --quantize {peers}/bin/llama-quantize"
)
_DRAFTS = " --only auto," + ",".join(f"fixed\\ {n},llama-server\\ {n}" for n in range(5))
PROGRAMS: dict[str, Program] = {
    "pictures": Program("benchmarks/pictures.py {bundle} --peers {peers} --rounds {rounds}", 5),
    "sound": Program("benchmarks/sound.py --rounds {rounds}", 5),
    "first token": Program(
        "benchmarks/first_token.py {bundle} --peers {peers} --rounds {rounds} --cases text,photo", 5
    ),
    "decode": Program(
        f"{_DECODE} --only prefill,llama-bench\\ prefill,llama-bench\\ plain,useless", quick="--tokens 8"
    ),
    **{
        f"drafts {share}": Program(
            f"{_DECODE} --tokens 192 --lengths 1,3 --accept {share} "
            "--only auto,llama-server\\ 0,llama-server\\ 1,llama-server\\ 3",
            2,
            "--tokens 8 --lengths 1",
        )
        for share in ACCEPTED
    },
    "chats": Program(
        "benchmarks/conversations.py {bundle} --peers {peers} --rounds {rounds} --turns 5 --only throughput,chat",
        1,
        "--quick",
    ),
    "server": Program(
        "benchmarks/serve.py {bundle} --peers {peers} --rounds {rounds} --clients 1 4 --text 60 --tokens 24",
        1,
        "--clients 1 --tokens 8",
    ),
    "convert": Program(f"benchmarks/convert.py {{checkpoint}} {{drafter}} {{work}} {_PREPARED}", 1, "--types Q8_0"),
    "convert 48 layers": Program(
        f"benchmarks/convert.py {{whole}} {{drafter}} {{work}} --types Q4_K_M {_PREPARED}", 1, by_default=False
    ),
    "transcribe": Program("benchmarks/transcribe.py --rounds {rounds}", quick="--blocks 1"),
    "batch": Program("scripts/check_batch.py speed --lines 400", 1, "--lines 40"),
    "growth": Program("benchmarks/growth.py {bundle} --prompt 16384", 1, "--only slots"),
    "growth to 64k": Program("benchmarks/growth.py {bundle} --only prompt --prompt 65536", 1, by_default=False),
    **{  # a server is started anew for each figure, which on a GPU takes longer than the figure
        f"gpu drafts {share}": Program(
            f"{_DECODE} --gpu-layers 99 --accept {share}{'' if share == '0.7' else _DRAFTS}",
            2,
            "--tokens 8 --lengths 1",
            gpu=True,
        )
        for share in ACCEPTED
    },
}


def _decoding(program: str) -> Iterator[Comparison]:
    """Of decode.py: against llama-bench, and what drafts cost when none is ever right."""
    pairs = (("reading 512 tokens", "prefill", "prefill"), ("writing", "plain beside llama-bench plain", "plain"))
    for title, ours, peer in pairs:
        theirs = (f"rounds|*|llama-bench {peer}",)
        yield Comparison(program, title, f"rounds|*|{ours}", theirs, "llama-bench", "tokens/s", TIE)
    useless = "rounds|*|useless / plain"
    yield Comparison(program, "a drafter that is never right", useless, (), "no drafts", "of plain", 0.97)


def _drafting(program: str, share: str) -> Iterator[Comparison]:
    title, auto = f"drafts, {float(share):.0%} accepted, beside", "rounds|*|auto / plain"
    yield Comparison(program, f"{title} none", auto, (), "no drafts", "of plain", 0.97)
    yield Comparison(program, f"{title} llama-server", auto, SERVERS, "its best length", "of plain", TIE)


def _first_tokens() -> Iterator[Comparison]:
    for case, what, budget in (("text", "text", 1.02), ("photo", "a photo of 12 MP", 0.8)):
        for draft in ("without", "with"):
            title, ours = f"start to first token, {what}, {draft} drafter", f"rounds|*|{case}, {draft}|0"
            peers = (f"rounds|*|{case}, mtmd|0",)
            yield Comparison("first token", title, ours, peers, "llama-mtmd-cli", "s", budget)
    yield Comparison("first token", "gemma4gguf --help", "rounds|*|help|0", (), "the clock", "s", 0.1)


def _serving() -> Iterator[Comparison]:
    for point in (
        f"{clients} client{'s' * (clients > 1)}, {turn} turn" for clients in (1, 4) for turn in ("first", "fifth")
    ):
        place = point.replace("client,", "clients,")
        for what, key, unit, budget in (("first token", "first_s", "s", 1.02), ("rate", "tokens_s", "tokens/s", TIE)):
            ours, theirs = f"ours|{place}|{key}", f"llama-server|{place}|{key}"
            yield Comparison("server", f"server, {point}: {what}", ours, (theirs,), "llama-server", unit, budget)


def _converting(program: str, types: Mapping[str, float]) -> Iterator[Comparison]:
    for kind, budget in types.items():
        ours, theirs = f"types|{kind}|ours|seconds", f"types|{kind}|llama.cpp|seconds"
        yield Comparison(program, f"{program} to {kind}", ours, (theirs,), "llama.cpp's converter", "s", budget)


def _ms(program: str, title: str, place: str, peer: str, budget: float) -> Comparison:
    path = f"{place}|" if place else ""
    return Comparison(program, title, f"{path}ours|*", (f"{path}{peer}|*",), peer, "ms", budget)


COMPARISONS: Sequence[Comparison] = (
    _ms("pictures", "a photo of 12 MP to 280 patches", "photo, 280", "transformers", 0.5),
    _ms("pictures", "a photo of 12 MP to 1120 patches", "photo, 1120", "transformers", 0.5),
    _ms("pictures", "a screenshot, 2560 x 1440 PNG", "screenshot", "transformers", 0.8),
    _ms("pictures", "20 thumbnails", "20 thumbnails", "transformers", 0.8),
    _ms("pictures", "280 patches to soft tokens", "soft tokens, 280", "torch", 1),
    _ms("pictures", "1120 patches to soft tokens", "soft tokens, 1120", "torch", 1),
    _ms("pictures", "the photo's patches to soft tokens", "soft tokens, mtmd", "mtmd", 0.8),
    _ms("sound", "30 s of WAV to frames", "30 s.wav", "transformers", 0.55),
    _ms("sound", "10 minutes of FLAC to frames", "10 min.flac", "transformers", 0.55),
    *_first_tokens(),
    *_decoding("decode"),
    *(one for share in ACCEPTED for one in _drafting(f"drafts {share}", share)),
    Comparison(
        "chats",
        "a chat's turns, first token",
        "chat|*|ours|first_s",
        ("chat|*|llama-server|first_s",),
        "llama-server",
        "s",
        1.02,
    ),
    Comparison("chats", "a chat's turns, first token, warm", "chat|*|ours|ratio", (), "a cold cache", "of cold", 0.25),
    Comparison(
        "chats",
        "four answers at once",
        "throughput|ours|at once|*",
        ("throughput|llama-server|at once|*",),
        "llama-server",
        "tokens/s",
        TIE,
    ),
    *_serving(),
    *_converting("convert", {"Q8_0": 0.2, "Q4_0": 0.35, "Q4_K_M": 0.6}),
    *_converting("convert 48 layers", {"Q4_K_M": 0.6}),
    _ms("transcribe", "a transcript", "", "clips alone", 1.1),
    Comparison("batch", "batch", "took_s", ("bound_s",), "what the costs of rows allow", "s", 1.05),
    *_decoding("gpu drafts 0.7"),
    *(one for share in ACCEPTED for one in _drafting(f"gpu drafts {share}", share)),
)


_WHOLE_JPEG = (
    "the JPEG is decoded whole, on one core, by the same library as there; at half its scale, stripes become another "
    "picture ([tried](decisions.md))"
)
_DRAFTS_LOST = (
    "by the costs of rows below every length has less than plain while the memory is free; other work slows one row's "
    "pass more than a check of four, so for a while three guesses pay, and the pace finds that after some tokens"
)
# Why a ratio does not hold, by its title. The page tells it where that is so.
WHY: Mapping[str, str] = {
    "a photo of 12 MP to 280 patches": _WHOLE_JPEG,
    "a photo of 12 MP to 1120 patches": _WHOLE_JPEG,
    "a screenshot, 2560 x 1440 PNG": "both unpack the PNG with the same library on one core",
    "280 patches to soft tokens": "a product of matrices, OpenBLAS's here and MKL's in torch",
    "1120 patches to soft tokens": "a product of matrices, OpenBLAS's here and MKL's in torch",
    "10 minutes of FLAC to frames": (
        "libsndfile decodes FLAC on one core for both, which alone takes half of the peer's time; ours does the rest "
        "beside it"
    ),
    "start to first token, text, without drafter": (
        "Python and its packages take 0.4 seconds to load, which llama-mtmd-cli does not have to"
    ),
    "start to first token, text, with drafter": "the drafter is opened, too; llama-mtmd-cli opens none",
    "start to first token, a photo of 12 MP, without drafter": (
        "nearly all of it is reading the picture's 266 positions, which both do with llama.cpp's kernels"
    ),
    "start to first token, a photo of 12 MP, with drafter": "the picture's positions, as above, and the drafter",
    "a transcript": (
        "the peer is told where the words are; finding them in 171 seconds of sound takes one second or two (174 times "
        "real time on a [quicker machine](decisions.md)), and so small a model answers all of them in two"
    ),
    "gemma4gguf --help": "on this processor Python and click alone take 0.065 seconds (`python -c 'import click'`)",
    "writing": "a tie within what this machine's rounds differ by, which is more than the 3% that the budget allows",
    **{
        f"drafts, {share} accepted, beside {peer}": _DRAFTS_LOST
        for share in ("50%", "70%", "90%")
        for peer in ("none", "llama-server")
    },
    "server, 4 clients, fifth turn: rate": (
        "one turn of one round: turns two to five together have 8.2 and 8.5 tokens/s (0.97), and either side changes "
        "by an eighth from turn to turn"
    ),
    "four answers at once": "one round of a few seconds, with the same kernels",
    "convert 48 layers to Q4_K_M": (
        "quantising to Q4_K takes nearly all of it, by llama.cpp's functions on both sides; the rest of the peer's way "
        "counts less than with six layers"
    ),
}


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
