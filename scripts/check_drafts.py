#!/usr/bin/env python3
"""Check on the tiny model that drafts change how fast an answer comes, and nothing else.

    python scripts/check_drafts.py WORK                        # everything, about 15 minutes on one core
    python scripts/check_drafts.py WORK --only greedy --count 28 --kv f16,q8_0

greedy        held-out prompts of every kind, 1 to 8 guesses a step, from the model's own drafter, one of random weights
              and one that is always wrong: the ids of plain decoding. Where llama.cpp's last bits depend on the number
              of rows, a first difference between two logits closer than 0.05 is listed, and allowed in 1 % of prompts.
seed          the same prompts sampled at temperature 1: the same seed gives the same text with drafts in 95 % of them.
distribution  20,000 sampled answers of three tokens against the model's own odds: chi-square with p > 0.01.
memory        1,000 prompts in one process, media among them: within 20 MB of what the first 100 took.
speed         greedy, plain decoding and "auto" in turns, on text and after pictures: tokens a second. No verdict.

WORK holds the cache of spoken clips (see training/evaluate.py). Prints a line a part; ends with status 1 if one fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from gemma4gguf import Gemma4  # noqa: E402
from gemma4gguf.chat.rendering import raw_segments  # noqa: E402
from gemma4gguf.native.sampler import Sampler, SamplingOptions  # noqa: E402
from gemma4gguf.runtime.answer import Rules  # noqa: E402
from gemma4gguf.runtime.decode import Drafts, Guessing, decode  # noqa: E402
from gemma4gguf.runtime.pace import Pace  # noqa: E402
from gemma4gguf.runtime.session import Span  # noqa: E402
from tests.support.drafters import TIE, Scripted, chi_square, chi_square_bound, gap  # noqa: E402
from training import speech  # noqa: E402
from training.evaluate import material  # noqa: E402

MODELS = ROOT / "models"
LENGTHS = range(1, 9)
MOST_TOKENS = 48
ROUNDS = 7  # of speed
OPTIONS: dict[str, Any] = {"context": 1024, "threads": 1}
GREEDY = SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)


class Opened:
    """A bundle, and its decoder without the layers above it."""

    def __init__(self, path: Path, kv_type: Any = "f16") -> None:
        self.model = Gemma4(path, draft=1, kv_type=kv_type, **OPTIONS)
        self.weights, self.session = self.model.engine.weights, self.model.engine.session
        assert self.model.engine.drafter is not None
        self.drafter: Guessing = self.model.engine.drafter
        self.rules = Rules.of(self.weights.vocab, self.model.bundle.text.metadata)

    def spans(self, example: Any) -> list[Span]:
        sounds = [(clip, speech.RATE) for clip in example.sounds]
        parts = raw_segments(example.prompt.removeprefix("<bos>"), example.images, sounds)
        return self.model.engine.spans(parts)

    def ids(self, spans: list[Span], how: SamplingOptions = GREEDY, drafts: Drafts | None = None) -> list[int]:
        """The prompt comes from the cache, so that its last row is computed alone in every run."""
        self.session.feed(spans)
        self.session.feed(spans)
        with Sampler(how, self.rules.suppressed) as sampler:
            return list(decode(self.session, sampler, self.rules.end, MOST_TOKENS, drafts))


@dataclass
class Tally:
    answers: int = 0
    proposed: int = 0
    accepted: int = 0
    ties: list[tuple[int, int, int, float]] = field(default_factory=list)  # prompt, guesses, step, gap
    wrong: int = 0
    prompts: set[int] = field(default_factory=set)  # that differ


def greedy(work: Path, asked: list[Any], kv_type: str) -> bool:
    plain, other = Opened(tiny(work), kv_type), Opened(random_drafter(work), kv_type)
    tallies = {name: Tally() for name in ("own", "random", "wrong")}
    for number, example in enumerate(asked):
        prompt = plain.spans(example)
        expected = plain.ids(prompt)
        wrong = Scripted(sum(map(len, prompt)), expected, lambda i: False)
        drafters: dict[str, tuple[Opened, Guessing]] = {
            "own": (plain, plain.drafter),
            "random": (other, other.drafter),
            "wrong": (plain, wrong),
        }
        for (name, (opened, drafter)), k in itertools.product(drafters.items(), LENGTHS):
            drafts = Drafts(drafter, Pace(k))
            found, tally = opened.ids(prompt, drafts=drafts), tallies[name]
            tally.answers += 1
            tally.proposed += drafts.proposed
            tally.accepted += drafts.accepted
            if found != expected:
                pairs = enumerate(zip(found, expected, strict=False))
                step = next((i for i, (a, b) in pairs if a != b), min(len(found), len(expected)))
                apart = gap(plain.session, prompt, expected[:step], sorted(plain.rules.suppressed))
                tally.prompts.add(number)
                tally.ties.append((number, k, step, round(apart, 4)))
                tally.wrong += apart >= TIE
    for name, tally in tallies.items():
        print(
            f"greedy, {kv_type} cache, {name} drafter: {tally.answers} answers to {len(asked)} prompts, "
            f"{tally.accepted} of {tally.proposed} guesses accepted, {tally.wrong} answers differ, and "
            f"{len(tally.prompts)} prompts at ties (prompt, guesses, step, gap) {tally.ties}",
            flush=True,
        )
    touched = set().union(*(tally.prompts for tally in tallies.values()))
    return not any(tally.wrong for tally in tallies.values()) and len(touched) <= 0.01 * len(asked)


def seed(work: Path, asked: list[Any]) -> bool:
    opened, same = Opened(tiny(work)), 0
    for number, example in enumerate(asked):
        prompt, how = opened.spans(example), SamplingOptions(temperature=1, top_k=64, top_p=0.95, min_p=0, seed=number)
        drafts = Drafts(opened.drafter, Pace(1 + number % len(LENGTHS)))
        same += opened.ids(prompt, how) == opened.ids(prompt, how, drafts)
    print(f"seed: the same ids with drafts for {same} of {len(asked)} prompts at temperature 1", flush=True)
    return same >= 0.95 * len(asked)


def distribution(work: Path, samples: int) -> bool:
    opened = Opened(tiny(work))
    ids = np.random.default_rng(5).integers(300, opened.weights.vocab.size - 24, 21)
    prompt = Span((2, *(int(i) for i in ids)))
    statistic, degrees, odds, drafts = chi_square(opened.session, prompt, samples=samples, top_k=6, length=3)
    bound = chi_square_bound(degrees)
    print(
        f"distribution: {samples} samples over {len(odds)} answers, chi-square {statistic:.1f} with {degrees} degrees "
        f"of freedom (p > 0.01 below {bound:.1f}), {drafts.accepted} of {drafts.proposed} guesses accepted",
        flush=True,
    )
    return statistic < bound


def memory(work: Path, asked: list[Any], prompts: int) -> bool:
    used: list[float] = []
    with Gemma4(tiny(work), draft=3, cache_memory=0, **OPTIONS) as model:  # what is kept of caches would grow
        for number, example in zip(range(prompts), itertools.cycle(asked), strict=False):
            chunks = model.stream(
                example.prompt.removeprefix("<bos>"),
                images=example.images,
                audio=[(clip, speech.RATE) for clip in example.sounds],
                raw=True,
                temperature=number % 2,
                max_tokens=MOST_TOKENS,
            )
            if number % 11 == 0:
                next(chunks)
                chunks.close()
            else:
                for _ in chunks:
                    pass
            used.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
    media = sum(1 for e in asked if e.images or e.sounds) / len(asked)
    growth = max(used[100:]) - used[99]
    print(
        f"memory: {prompts} prompts, {media:.0%} with media: {used[99]:.1f} MB after 100, "
        f"{growth:+.1f} MB at most later",
        flush=True,
    )
    return growth <= 20


def speed(work: Path, asked: list[Any], quant: str, threads: int) -> bool:
    path = _converted(MODELS / "tiny-assistant", work / f"drafts-{quant}.gguf", quant)
    groups = {
        "text": [e for e in asked if not e.images and not e.sounds],
        "after pictures": [e for e in asked if e.images],
    }
    for name, examples in groups.items():
        speeds: dict[Literal["off", "auto"], list[float]] = {"off": [], "auto": []}
        for draft in [*speeds] * ROUNDS:
            tokens, seconds, steps = 0, 0.0, 0
            # One at a time: with more threads than cores, OpenMP's sleep while they wait, and waking takes long.
            with Gemma4(path, context=1024, threads=threads, draft=draft) as model:
                for example in examples:
                    prompt = example.prompt.removeprefix("<bos>")
                    how: Any = {"images": example.images, "raw": True, "temperature": 0, "max_tokens": MOST_TOKENS}
                    done = model.generate(prompt, **how)
                    tokens += done.tokens.completion
                    seconds += done.timings.decode_s
                    steps += done.draft.steps
            speeds[draft].append(tokens / seconds)
        ratios = [auto / plain for plain, auto in zip(speeds["off"], speeds["auto"], strict=True)]
        one, two = (median(taken) for taken in speeds.values())
        checks = ", ".join(f"{rows} {ms:.2f}" for rows, ms in sorted(done.draft.check_ms.items()))
        print(
            f"speed, {quant}, {threads} threads, {name}: {len(examples)} answers, medians of {ROUNDS} rounds: "
            f"{one:.0f} tokens a second, auto {two:.0f}, ratio {median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {tokens / max(1, steps):.2f} tokens a step; ms: a draft step "
            f"{done.draft.draft_ms or 0:.2f}, a check of rows {checks}",
            flush=True,
        )
    return True


def tiny(work: Path) -> Path:
    return _converted(MODELS / "tiny-assistant", work / "drafts-own.gguf")


def random_drafter(work: Path) -> Path:
    """The bundle with every tensor of the drafter shuffled: weights of the same size that mean nothing."""
    folder = work / "tiny-random-assistant"
    shutil.copytree(MODELS / "tiny-assistant", folder, dirs_exist_ok=True)
    path = folder / "model.safetensors"
    data, chance = bytearray(path.read_bytes()), np.random.default_rng(1)
    start = 8 + int.from_bytes(data[:8], "little")
    for name, tensor in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + at for at in tensor["data_offsets"])
            data[begin:end] = chance.permutation(np.frombuffer(data[begin:end], np.uint16)).tobytes()
    path.write_bytes(data)
    return _converted(folder, work / "drafts-random.gguf")


def _converted(drafter: Path, path: Path, quant: str = "F32") -> Path:
    convert(MODELS / "tiny", path, quant=quant, drafter=drafter, force=True)  # an older one may be of other weights
    return path


PARTS: dict[str, Callable[[argparse.Namespace, list[Any]], list[bool]]] = {
    "greedy": lambda given, asked: [greedy(given.work, asked, kv_type) for kv_type in given.kv.split(",")],
    "seed": lambda given, asked: [seed(given.work, asked)],
    "distribution": lambda given, asked: [distribution(given.work, given.samples)],
    "memory": lambda given, asked: [memory(given.work, asked, given.prompts)],
    "speed": lambda given, asked: [speed(given.work, asked, quant, given.threads) for quant in given.types.split(",")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas [{','.join(PARTS)}]")
    parser.add_argument("--count", type=int, default=28, help="prompts of each of twelve kinds [28]")
    parser.add_argument("--kv", default="f16,q8_0", help="cache types of the greedy part [f16,q8_0]")
    parser.add_argument("--types", default="F32,Q8_0", help="of the weights, in the speed part [F32,Q8_0]")
    parser.add_argument("--threads", type=int, default=1, help="of the speed part [1]")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--prompts", type=int, default=1_000)
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    asked = [example for example in material(given.work, given.count, 4321) if not example.clips]
    held = [verdict for part in parts for verdict in PARTS[part](given, asked)]  # every part runs, whatever failed
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
