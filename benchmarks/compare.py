#!/usr/bin/env python3
"""Every comparison with other programs in one run: what `scripts/bench` starts.

    benchmarks/compare.py [--only NAME,...|--all] [--rounds N] [--out FILE] [--compare OLD.json] [--bundle FILE]
        [--quick]
    benchmarks/compare.py --gpu --bundle FILE --peers FOLDER --out FILE

The table is tests/support/comparisons.py. What it needs is prepared where it is missing: stock llama.cpp by
scripts/peers, and 6 layers of the 12B's shapes with random weights, Q4_0 with a drafter, in the cache folder. The
programs run one after another, and their figures and ratios go to one JSON with the machine in it. A file that is there
already is added to, so a run can be made in pieces, on one machine. Ctrl-C keeps what was measured.

--all       also what takes long: all 48 layers converted (64 GB of disk), a prompt of 65,536 tokens.
--compare   status 1, and a line each, for ratios outside their budget that were better in an older file.
--gpu       decoding and drafts with all layers on the GPU; needs neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.tools import bench  # noqa: E402
from tests.support.comparisons import COMPARISONS, PROGRAMS, Program, compared, worse  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("numpy", "pillow", "soundfile", "soxr", "torch", "torchvision", "transformers")
BUSY = 0.1  # of the processors


class Prepared:
    """What the braces of a command stand for. It is made when the first command asks for it."""

    def __init__(self, bundle: Path | None, peers: Path | None) -> None:
        self._bundle, self._peers = bundle, peers
        cache = os.environ.get("GEMMA4GGUF_CACHE", Path.home() / ".cache" / "gemma4gguf")
        self._folder = Path(cache) / "bench"

    @cached_property
    def peers(self) -> Path:
        if self._peers:
            return self._peers
        run = subprocess.run([ROOT / "scripts" / "peers"], check=True, stdout=subprocess.PIPE, text=True)
        return Path(run.stdout.strip())

    @cached_property
    def bundle(self) -> Path:
        made = self._folder / "six.gguf"
        if not self._bundle and not made.exists():
            from converters import convert

            convert(self.checkpoint, made, quant="Q4_0", drafter=self.drafter, drafter_quant="Q8_0")
        return self._bundle or made

    @cached_property
    def checkpoint(self) -> Path:
        return self._checkpoint("six", "--layers", "6")

    @cached_property
    def drafter(self) -> Path:
        return self._checkpoint("drafter", "--drafter")

    def _checkpoint(self, name: str, *options: str) -> Path:
        folder, part = self._folder / name, self._folder / f"{name}.part"
        if not folder.exists():
            subprocess.run([sys.executable, ROOT / "benchmarks" / "make_checkpoint.py", part, *options], check=True)
            part.rename(folder)
        return folder

    @cached_property
    def whole(self) -> Path:
        return self._checkpoint("whole", "--shards", "5")

    @cached_property
    def work(self) -> Path:
        folder = self._folder / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def __getitem__(self, name: str) -> str:
        return sys.executable if name == "python" else str(getattr(self, name))

    def command(self, program: Program, rounds: int, quick: bool) -> list[str]:
        words = shlex.split(f"{program.command} {program.quick if quick else ''}".replace("{rounds}", str(rounds)))
        return [word.format_map(self) for word in words]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        **bench.machine(),
        "memory copied, GB/s": round(2 * bench.COPIED / 1e9 / float(np.median(bench.copied())), 1),
        "python": sys.version.split()[0],
        "versions": versions,
    }


def busy() -> list[str]:
    """A warning where others use the processors, by what is used in a second in which we do nothing. Linux only."""

    def spent() -> tuple[int, int]:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(ticks), ticks[3] + ticks[4]  # idle, and waiting for files

    before, idle = spent()
    time.sleep(1)
    after, still = spent()
    share = 1 - (still - idle) / (after - before)
    return [f"other programs took {share:.0%} of the processors before it"] if share > BUSY else []


def printed(text: str) -> dict[str, Any]:
    """The JSON in a program's output: all of it, or its lines that are objects."""
    with suppress(ValueError):
        return dict(json.loads(text))
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def ran(command: Sequence[str]) -> dict[str, Any]:
    """Run a program; what is kept of it. A check that failed has a status, and figures all the same."""
    warnings, begun = busy(), time.monotonic()
    run = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    said = [Path(word).name if word.startswith("/") else word for word in command]
    return {
        "command": shlex.join(said),
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "seconds": round(time.monotonic() - begun),
        "warnings": warnings,
        "nice": os.nice(0),
        "status": run.returncode,
        "found": printed(run.stdout),
    }


def ratios(runs: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = (compared(one, runs[one.program]["found"]) for one in COMPARISONS if one.program in runs)
    return [one for one in found if one is not None]


def kept(out: Path, here: Mapping[str, Any]) -> dict[str, Any]:
    """What a file has of earlier runs. Figures of two machines do not go together."""
    if not out.exists():
        return {"machine": dict(here), "programs": {}}
    before: dict[str, Any] = json.loads(out.read_text("utf-8"))
    for key in ("processor", "features", "cores", "gpus"):
        if before["machine"].get(key) != here.get(key):
            sys.exit(f"{out} is of another machine ({key}): give another file with --out")
    return before


def write(out: Path, report: Mapping[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    part.replace(out)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(only: str, gpu: bool, everything: bool = False) -> list[str]:
    """The programs that run: those named, also by their first words; or all that run by default, or everything."""
    known = [name for name, program in PROGRAMS.items() if program.gpu == gpu]
    if not only:
        return [name for name in known if everything or PROGRAMS[name].by_default]
    names = []
    for asked in only.split(","):
        group = [name for name in known if PROGRAMS[name].by_default and name.startswith(f"{asked} ")]
        found = [asked] if asked in known else group
        if not found:
            sys.exit(f"--only: there is no {asked!r}; there are {', '.join(known)}")
        names += found
    return names


def measure(names: Sequence[str], command: Callable[[Program], list[str]], report: dict[str, Any], out: Path) -> bool:
    """Run the programs and write after each. False if one failed."""
    good = True
    for number, name in enumerate(names, 1):
        say(f"{number} of {len(names)}: {name}")
        run = ran(command(PROGRAMS[name]))
        if run["status"]:
            say(f"{name}: ended with {run['status']}")
            good = False
        if not run["found"]:
            continue
        report["programs"][name] = run
        report["comparisons"] = ratios(report["programs"])
        write(out, report)
        for one in report["comparisons"]:
            if one["program"] == name:
                say(f"  {one['title']} / {one['against']}: {one['ratio']}{'' if one['held'] else '  NOT HELD'}")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME,...", help=", ".join(PROGRAMS))
    parser.add_argument("--all", action="store_true", help="also what takes long")
    parser.add_argument("--rounds", type=int, help="of every program [3 to 5]")
    parser.add_argument("--out", type=Path, help="[benchmarks/results/cpu.json or gpu.json]")
    parser.add_argument("--compare", type=Path, metavar="OLD.json")
    parser.add_argument("--bundle", type=Path, help="with a drafter [6 layers at the 12B's shapes]")
    parser.add_argument("--peers", type=Path, help="what scripts/peers prints [it is started]")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round, less of everything: whether it works")
    given = parser.parse_args()
    before = json.loads(given.compare.read_text("utf-8")) if given.compare else None
    out = given.out or RESULTS / ("gpu.json" if given.gpu else "cpu.json")
    names, prepared = chosen(given.only, given.gpu, given.all), Prepared(given.bundle, given.peers)
    here = machine()
    if given.gpu and not here["gpus"]:
        sys.exit("--gpu: this llama.cpp finds no GPU; `gemma4gguf doctor` tells which it finds")
    report = kept(out, here)

    def command(program: Program) -> list[str]:
        return prepared.command(program, given.rounds or (1 if given.quick else program.rounds), given.quick)

    try:
        good = measure(names, command, report, out)
    except KeyboardInterrupt:
        sys.exit(f"stopped; what was measured is in {out}")
    say(f"written: {out}")
    lines = worse(report.get("comparisons", []), before["comparisons"]) if before else []
    for line in lines:
        print(line)
    sys.exit(bool(lines) or not good)


if __name__ == "__main__":
    main()
