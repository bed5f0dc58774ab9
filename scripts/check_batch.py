#!/usr/bin/env python3
"""Long checks of `gemma4gguf batch` on the small model: each prints what it found, and fails where that is bad.

speed   mixed lines, answered by a loop of `chat` and by `batch`: the same answers; the time against what the costs of
        one row and of several, measured in the same run, allow; and what it saves to put lines together that begin
        alike.
killed  the same lines; `batch` is killed (SIGKILL) at random points: none is lost, none is there twice.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from tests.support import many  # noqa: E402
from tests.support.batches import answers, written  # noqa: E402

STEADY = 400  # tokens of each answer by which rows are measured


def timed(arguments: Sequence[str]) -> float:
    begun = time.perf_counter()
    status = subprocess.run(arguments, stderr=subprocess.PIPE, text=True)
    if status.returncode:
        raise RuntimeError(status.stderr[-2000:])
    return time.perf_counter() - begun


def answering(bundle: Path, source: Path, out: Path, *options: object) -> float:
    """Seconds that all lines but one take: another run answers one, and has the program's start."""
    start = timed(many.command(bundle, source, out.with_suffix(".one"), *options, "--limit", 1))
    return timed(many.command(bundle, source, out, *options)) - start


def row_costs(bundle: Path, rows: int) -> float:
    """How many times as many tokens come of several rows: rows x one row's time / their time. The best of three."""
    with many.opened(bundle, parallel=rows) as model, ThreadPoolExecutor(rows) as pool:
        how = {"temperature": 0, "max_tokens": STEADY, "logit_bias": {many.letter_of(model): many.CERTAIN}}

        def tokens_a_second(live: int) -> float:
            begun = time.perf_counter()
            list(pool.map(lambda i: model.generate(f"{i}: say it.", **how), range(live)))  # type: ignore[arg-type]
            return live * STEADY / (time.perf_counter() - begun)

        return max(tokens_a_second(rows) for _ in range(3)) / max(tokens_a_second(1) for _ in range(3))


def speed(bundle: Path, work: Path, args: argparse.Namespace) -> bool:
    with many.opened(bundle) as model:
        lines = many.mixed(args.lines, work, many.letter_of(model))
        many.alone(model, lines[0], work)
        begun = time.perf_counter()
        results = {one["custom_id"]: many.alone(model, one, work) for one in lines}
        loop = time.perf_counter() - begun
    decoding = sum(result.timings.decode_s for result in results.values())
    gain = row_costs(bundle, args.parallel)
    bound = loop - decoding + decoding / gain
    source, out = written(work / "in.jsonl", lines), work / "out.jsonl"
    took = answering(bundle, source, out, "--files-from", work, "--parallel", args.parallel)
    print(f"{args.lines} lines, a loop: {loop:.1f} s, of which {decoding:.1f} s decoding")
    print(f"{args.parallel} rows: {gain:.2f} times the tokens of one, so {bound:.1f} s at best")
    print(f"batch: {took:.1f} s, {bound / took:.2f} of that; {loop / took:.2f} times the loop's speed")
    print(json.dumps({"loop_s": loop, "bound_s": bound, "took_s": took}))
    beginnings(bundle, work, args)
    return (
        many.same(bundle, work, lines, {name: r.text for name, r in results.items()}, answers(out))
        and bound / took >= 0.95
    )


def beginnings(bundle: Path, work: Path, args: argparse.Namespace) -> None:
    """Questions about ten texts in mixed order; and the same with other first words each, so that none are shared."""
    took = []
    for name in ("shared", "own"):
        texts = [f"{i % 10 if name == 'shared' else i} {many.STORY}" for i in range(args.lines // 4)]
        random.Random(20).shuffle(texts)
        lines = [many.line(f"q{i}", f"What is {i} + 1?", text, max_tokens=8) for i, text in enumerate(texts)]
        source = written(work / f"{name}.in", lines)
        took.append(answering(bundle, source, work / f"{name}.out", "--parallel", args.parallel))
    print(f"{args.lines // 4} lines after ten texts: {took[0]:.1f} s; after a text of their own: {took[1]:.1f} s")


def killed(bundle: Path, work: Path, args: argparse.Namespace) -> bool:
    with many.opened(bundle) as model:
        lines = many.mixed(args.lines, work, many.letter_of(model))
        expected = {one["custom_id"]: many.alone(model, one, work).text for one in lines}
    source, out = written(work / "in.jsonl", lines), work / "out.jsonl"
    arguments = many.command(bundle, source, out, "--files-from", work, "--parallel", args.parallel)
    there = []
    for point in sorted(random.Random(args.seed).sample(range(1, args.lines), args.kills)):
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        while process.poll() is None and many.count(out) < point:
            time.sleep(0.02)
        process.kill()
        process.wait()
        there.append(many.count(out))
    timed(arguments)
    print(f"killed {args.kills} times (seed {args.seed}), with so many answers: {there}")
    return many.same(bundle, work, lines, expected, answers(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    checks = {check.__name__: check for check in (speed, killed)}
    parser.add_argument("check", choices=checks)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        convert(ROOT / "models" / "tiny", work / "tiny.gguf", quant="Q8_0")
        good = checks[args.check](work / "tiny.gguf", work, args)
    print("good" if good else "BAD")
    sys.exit(not good)


if __name__ == "__main__":
    main()
