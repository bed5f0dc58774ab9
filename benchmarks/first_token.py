#!/usr/bin/env python3
"""From start to first token: with and without the drafter, and llama-mtmd-cli on parts cut from the same bundle.

    benchmarks/first_token.py BUNDLE [--peers FOLDER] [--rounds 5] [--context 4096] [--threads N]
        [--cases text,picture,photo]

FOLDER is what scripts/peers prints. Every contestant is a new process that loads the bundle, reads a short question
and writes one token; it is measured from outside until it ends. The question comes alone, with a picture of 768 x 768
pixels, or with a photo of 12 MP as JPEG, scaled to at most 280 soft tokens by both. One round runs each of them once,
one after another, and only figures of one round are compared, because a shared machine drifts. `help` is what the
command line itself takes. Prints one JSON object:
seconds on the wall and of the processor in every round, and the medians of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.bundle.reading import EMBEDDER, TEXT, Bundle  # noqa: E402
from gemma4gguf.bundle.settings import DEFAULT_BUDGET  # noqa: E402
from gemma4gguf.machine import physical_cores  # noqa: E402
from tests.support.photos import photo  # noqa: E402

SIDE = 768  # pixels: 256 soft tokens for both, which would scale other sizes differently
CASES = ("text", "picture", "photo")
QUESTION = "What is in this picture?"
OURS = """
import sys
from gemma4gguf import Gemma4
path, draft, context, threads, question, *pictures = sys.argv[1:]
model = Gemma4(path, draft=draft, context=int(context), threads=int(threads))
next(iter(model.stream(question, images=pictures, max_tokens=1)))
"""


def measured(command: list[str], compiled: str) -> tuple[float, float]:
    """Seconds on the wall and of the processor that a command takes. The question on its standard input, too.

    `compiled`: a folder for Python's bytecode, which an installed package has: the environment may forbid it.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, input=f"{QUESTION}\n".encode(), capture_output=True, cwd=ROOT, env=environment)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--cases", default="picture", help="separated by commas [picture]")
    given = parser.parse_args()
    cases = given.cases.split(",")
    if not set(cases) <= set(CASES):
        parser.error(f"--cases: expected some of {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        pictures = {"text": [], "picture": [f"{folder}/picture.png"], "photo": [f"{folder}/photo.jpg"]}
        Image.radial_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(f"{folder}/picture.png")
        Path(folder, "photo.jpg").write_bytes(photo())
        asked = [str(given.context), str(given.threads), QUESTION]
        contestants = {
            f"{case}, {name}": [sys.executable, "-c", OURS, str(given.bundle.resolve()), draft, *asked, *pictures[case]]
            for case in cases
            for name, draft in (("without", "off"), ("with", "auto"))
        }
        if given.peers:
            opened = Bundle.open(given.bundle)
            for name in (TEXT, EMBEDDER):
                with (Path(folder) / name).open("wb") as part:
                    part.writelines(opened.require(name).copy())
            theirs = [f"{given.peers}/bin/llama-mtmd-cli", "-m", f"{folder}/{TEXT}", "--mmproj", f"{folder}/{EMBEDDER}"]
            theirs += ["-c", str(given.context), "-t", str(given.threads), "-n", "1", "--jinja"]
            theirs += ["--image-max-tokens", str(DEFAULT_BUDGET)]
            for case in cases:
                shown = [word for path in pictures[case] for word in ("--image", path, "-p", QUESTION)]
                contestants[f"{case}, mtmd"] = [*theirs, *shown]  # without a picture it asks on its standard input
        contestants["help"] = [sys.executable, "-m", "gemma4gguf", "--help"]
        for command in contestants.values():
            measured(command, folder)  # the file's pages are in memory from here on, and Python's bytecode is written
        rounds = [
            {name: measured(command, folder) for name, command in contestants.items()} for _ in range(given.rounds)
        ]
    ratios = {
        f"{case}, with / {other}": {
            unit: round(statistics.median(each[f"{case}, with"][i] / each[f"{case}, {other}"][i] for each in rounds), 3)
            for i, unit in enumerate(("wall", "processor"))
        }
        for case in cases
        for other in ("without", "mtmd")
        if f"{case}, {other}" in contestants
    }
    print(json.dumps({"rounds": rounds, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
