#!/usr/bin/env python3
"""Decoding with and without drafts, against llama-bench and llama-server on parts cut from the same bundle.

    benchmarks/decode.py BUNDLE [--peers FOLDER] [--accept 0.7] [--lengths 1,2,3,4] [--tokens 256] [--rounds 3]
        [--threads N] [--processor] [--gpu-layers N]

FOLDER is what scripts/peers prints; without it only our own numbers are taken. Everything is measured once per round,
one after another, and compared within the round, because a shared machine drifts. Prints one JSON object: milliseconds
of a check by its number of rows and of a draft step (--rounds 0: only these), tokens per second of every contestant in
every round, and the ratios, by their median. llama-bench reads the bundle itself, so that both run on the same pages.

With random or unknown weights a drafter's guesses mean nothing, so acceptance is forced: our decoder follows a script
instead of the sampler's choice, and guesses agree with it with the given probability a position, while every draft
step, check and sample is computed as always; llama-server has --spec-synth-rates for the same. What a step yields is
then known, so a speed is the expected tokens of the steps that were made, over their seconds: luck is left out.
`useless` is the opposite: no guess is ever right, and what the attempt costs is all that is left.

--processor counts processor seconds instead of those on the wall, on one thread: on a machine with other work to do,
the only ones that mean something. (llama-bench is then run twice, for its loading to cancel out. Linux only.)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.bundle.reading import DRAFTER, TEXT, Bundle  # noqa: E402
from gemma4gguf.native.context import Context, ContextOptions  # noqa: E402
from gemma4gguf.native.sampler import Sampler, SamplingOptions  # noqa: E402
from gemma4gguf.records import DraftCounts  # noqa: E402
from gemma4gguf.runtime.decode import Drafts, decode  # noqa: E402
from gemma4gguf.runtime.drafter import Drafter, drafter_weights  # noqa: E402
from gemma4gguf.runtime.loading import load  # noqa: E402
from gemma4gguf.runtime.pace import Pace  # noqa: E402
from gemma4gguf.runtime.session import Session, Span  # noqa: E402

PROMPT = 16  # tokens before the answer
PREFILL = 512  # llama-bench's pp512
CONTEXT = 2048
ROWS, TIMES = (1, 2, 3, 4, 5, 6, 8), 6  # checks that are timed, and how often each
START_SECONDS = 600  # for a server to load
WARM = 8  # tokens that are written before the clock starts, as the other programs do


class Script:
    """A sampler that does its work and then says what was written beforehand."""

    def __init__(self, answer: list[int]) -> None:
        self._sampler = Sampler(SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0), [])
        self._answer = iter(answer)

    def sample(self, context: Context, row: int = -1) -> int:
        self._sampler.sample(context, row)
        return next(self._answer)


class Forced:
    """The drafter's own steps, and guesses that agree with the script as often as they are told to."""

    def __init__(self, drafter: Drafter, answer: list[int], accept: float, seed: int) -> None:
        self._drafter, self._answer, self._accept, self._chance = drafter, answer, accept, random.Random(seed)

    def guesses(self, token: int, hidden: Any, position: int) -> Iterator[tuple[int, float]]:
        real = self._drafter.guesses(token, hidden, position)
        for at, _ in enumerate(real, position - PROMPT + 1):
            right = self._answer[at] if at < len(self._answer) else 0
            yield (right if self._chance.random() < self._accept else right + 1), self._accept


class Ours:
    """The runtime, opened once."""

    def __init__(
        self, bundle: Bundle, threads: int | None, tokens: int, clock: Callable[[], float], gpu_layers: int
    ) -> None:
        self.clock = clock
        options = ContextOptions(CONTEXT, threads=threads)
        self.model = load(bundle.text, gpu_layers=gpu_layers)
        self.session = Session(Context(self.model, options, hidden=True))
        drafter = drafter_weights(bundle.require(DRAFTER), bundle.text, gpu_layers=gpu_layers)
        self.drafter = Drafter(drafter, self.session.context)
        self.ratio = bundle.require(DRAFTER).size / bundle.text.size
        ids = np.random.default_rng(1).integers(300, self.model.vocab.size - 24, PREFILL + tokens)
        self.prompt, self.answer = [int(i) for i in ids[:PREFILL]], [int(i) for i in ids[PREFILL:]]

    def decode(self, drafts: Drafts | None) -> float:
        """Tokens per second of an answer, its first token apart. A few tokens of another are written before."""
        self.session.clear()
        self.session.feed([Span(tuple(self.prompt[:PROMPT]))])
        for _ in decode(self.session, Script(self.answer), frozenset(), WARM):
            pass
        self.session.clear()
        self.session.feed([Span(tuple(self.prompt[:PROMPT]))])
        stream = decode(self.session, Script(self.answer), frozenset(), len(self.answer), drafts)
        next(stream)
        begun = self.clock()
        made = sum(1 for _ in stream)
        return made / (self.clock() - begun)

    def drafted(self, accept: float, pace: Pace, seed: int) -> tuple[float, DraftCounts]:
        drafts = Drafts(Forced(self.drafter, self.answer, accept, seed), pace, self.clock)
        speed, counts = self.decode(drafts), drafts.counts()
        tokens = sum(steps * expected(length, accept) for length, steps in counts.lengths)
        return speed * tokens / (len(self.answer) - 1), counts

    def costs_ms(self) -> dict[str, Any]:
        """The median time of a check, by its number of rows, each with logits, and of a draft step."""
        context, check = self.session.context, {}
        self.session.clear()
        context.decode(self.prompt[:PROMPT], start=0)
        for rows in ROWS:
            check[rows] = self._median_ms(lambda n=rows: context.decode(self.answer[:n], start=PROMPT, outputs=n))  # type: ignore[misc]
        guesses = self.drafter.guesses(self.answer[0], context.hidden(), PROMPT)
        return {"draft": self._median_ms(lambda: next(guesses)), "check": check}

    def _median_ms(self, run: Callable[[], object]) -> float:
        spent = []
        for _ in range(TIMES + 1):
            begun = self.clock()
            run()
            spent.append(self.clock() - begun)
            self.session.context.remove(PROMPT)
        return statistics.median(spent[1:]) * 1e3  # the first builds the graph

    def prefill(self) -> float:
        self.session.clear()
        begun = self.clock()
        self.session.feed([Span(tuple(self.prompt))])
        return PREFILL / (self.clock() - begun)


def expected(length: int, accept: float) -> float:
    """Tokens that a check of so many guesses yields on average."""
    return sum(accept**i for i in range(length + 1))


def llama_bench(
    peers: Path, bundle: Path, threads: int, gpu_layers: int, processor: bool, test: str, tokens: int
) -> float:
    """Tokens per second of a test of llama-bench: -p, a prompt, or -n, an answer."""

    def run(count: int) -> tuple[float, float]:
        command = [str(peers / "bin" / "llama-bench"), "-m", str(bundle), "-t", str(threads), "-r", "1", "-o", "json"]
        command += ["-ngl", str(gpu_layers), "-p", "0", "-n", "0", test, str(count)]
        before = sum(os.times()[2:4])  # of children that have ended
        command += ["--no-warmup"] if processor else []
        out = subprocess.run(command, check=True, capture_output=True)
        return float(json.loads(out.stdout)[0]["avg_ts"]), sum(os.times()[2:4]) - before

    speed, seconds = run(tokens)
    return tokens / 2 / (seconds - run(tokens // 2)[1]) if processor else speed


def llama_server(
    peers: Path,
    text: Path,
    drafter: Path,
    threads: int,
    gpu_layers: int,
    processor: bool,
    tokens: int,
    length: int,
    accept: float,
) -> float:
    """Tokens per second of llama-server with a fixed draft length, acceptance forced; 0: without drafts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(peers / "bin" / "llama-server"), "-m", str(text), "-t", str(threads), "-c", str(CONTEXT)]
    command += ["-np", "1", "--port", str(port), "--no-webui", "-ngl", str(gpu_layers)]
    if length:
        rates = ",".join(f"{accept ** (i + 1):.6f}" for i in range(length))
        command += ["-md", str(drafter), "--spec-type", "draft-mtp", "--spec-draft-n-max", str(length)]
        command += ["--spec-synth-rates", rates, "-ngld", str(gpu_layers)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process)
        asked = {"prompt": list(range(300, 300 + PROMPT)), "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        _post(f"http://127.0.0.1:{port}/completion", {**asked, "n_predict": 8})
        before = _processor_seconds(process)
        first = _post(f"http://127.0.0.1:{port}/completion", {**asked, "n_predict": 1}) and _processor_seconds(process)
        reply = _post(f"http://127.0.0.1:{port}/completion", {**asked, "n_predict": tokens})
        spent = _processor_seconds(process) - first - (first - before)  # the prompt's share apart
        told: dict[str, float] = reply["timings"]
        steps = tokens - told.get("draft_n_accepted", 0)
        speed = (tokens - 1) / spent if processor else told["predicted_per_second"]
        return speed * steps * expected(length, accept) / tokens
    finally:
        process.terminate()
        process.wait()


def _processor_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_SECONDS * 2):
        if process.poll() is not None:
            sys.exit(f"llama-server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    sys.exit("llama-server did not start")


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def cut(bundle: Bundle, architecture: str, path: Path) -> None:
    with path.open("wb") as out:
        for piece in bundle.require(architecture).copy():
            out.write(piece)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--accept", type=float, default=0.7)
    parser.add_argument("--lengths", default="1,2,3,4")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int, default=0, help="layers on the GPU, of every contestant [0]")
    parser.add_argument("--processor", action="store_true", help="count processor seconds, on one thread")
    parser.add_argument("--only", default="", help="contestants to measure, separated by commas [all]")
    parser.add_argument("--work", type=Path, help="where the parts are cut to [a temporary folder]")
    given = parser.parse_args()

    bundle = Bundle.open(given.bundle)
    clock = time.process_time if given.processor else time.perf_counter
    ours = Ours(bundle, 1 if given.processor else given.threads, given.tokens, clock, given.gpu_layers)
    threads, lengths = ours.session.context.threads, [int(n) for n in given.lengths.split(",") if n]
    pace = Pace(ratio=ours.ratio)
    reports: list[DraftCounts] = []

    def auto() -> float:
        speed, counts = ours.drafted(given.accept, pace, len(reports))
        reports.append(counts)
        return speed

    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        contestants: dict[str, Callable[[], float]] = {
            "plain": lambda: ours.decode(None),
            "auto": auto,
            "useless": lambda: ours.drafted(0.0, Pace(ratio=ours.ratio), 0)[0],
            **{f"fixed {n}": lambda n=n: ours.drafted(given.accept, Pace(n), n)[0] for n in lengths},  # type: ignore[misc]
            "prefill": ours.prefill,
        }
        if given.peers:
            text, drafter = Path(folder) / "text.gguf", Path(folder) / "drafter.gguf"
            bench = partial(llama_bench, given.peers, given.bundle, threads, given.gpu_layers, given.processor)
            contestants |= {
                "llama-bench prefill": lambda: bench("-p", PREFILL),
                "llama-bench plain": lambda: bench("-n", given.tokens),
            }
            for n in [0, *lengths]:
                contestants[f"llama-server {n}"] = lambda n=n: llama_server(  # type: ignore[misc]
                    given.peers,
                    text,
                    drafter,
                    threads,
                    given.gpu_layers,
                    given.processor,
                    given.tokens,
                    n,
                    given.accept,
                )
        only = {name for name in given.only.split(",") if name}
        contestants = {name: measure for name, measure in contestants.items() if not only or name in only}
        if any(name.startswith("llama-server") for name in contestants):
            cut(bundle, TEXT, text)
            cut(bundle, DRAFTER, drafter)
        ours.decode(None)  # the first run reads the file
        costs = ours.costs_ms()
        rounds = []
        for number in range(given.rounds):
            speeds: dict[str, float] = {}
            before = None
            for name, measure in contestants.items():
                paired = name not in ("plain", "prefill", "llama-bench prefill") and not given.processor
                before = (before or ours.decode(None)) if paired else None
                speeds[name] = measure()
                if before:
                    after = ours.decode(None)  # the next one has it before it
                    speeds[f"plain beside {name}"] = beside = 2 / (1 / before + 1 / after)
                    speeds[f"{name} / plain"], before = speeds[name] / beside, after
                print(f"round {number + 1}: {name} {speeds[name]:.2f}", file=sys.stderr, flush=True)
            rounds.append(speeds)

    def ratio(one: str, other: str) -> float | None:
        ratios = [r[one] / r[other] for r in rounds if {one, other} <= set(r)]
        return statistics.median(ratios) if ratios else None

    def over_plain(name: str) -> float | None:
        return ratio(name, "plain" if given.processor else f"plain beside {name}")

    servers = [name for name in contestants if name.startswith("llama-server")]
    best = max(((over_plain(name) or 0, name) for name in servers), default=(None, None))
    print(
        json.dumps(
            {
                "bundle": given.bundle.name,
                "threads": threads,
                "tokens": given.tokens,
                "accept": given.accept,
                "ms": costs,
                "ratios": {
                    "auto / plain": over_plain("auto"),
                    "useless / plain": over_plain("useless"),
                    **{f"fixed {n} / plain": over_plain(f"fixed {n}") for n in lengths},
                    **{f"{name} / plain": over_plain(name) for name in servers},
                    "plain / llama-bench": 1 / value if (value := over_plain("llama-bench plain")) else None,
                    "prefill / llama-bench": ratio("prefill", "llama-bench prefill"),
                    "auto / best of llama-server": (over_plain("auto") or 0) / best[0] if best[0] else None,
                },
                "best of llama-server": best[1],
                "rounds": rounds,
                "drafts": [asdict(counts) for counts in reports],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
