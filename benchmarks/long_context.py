#!/usr/bin/env python3
"""A long context under a memory limit: open a bundle, read a long prompt, answer.

    benchmarks/long_context.py BUNDLE --limit 16 [--context 262144] [--kv-type q8_0] [--tokens 8192] [--threads 2]

The limit holds for a process of its own and for the pages of files that it reads: a control group's (Linux; needs
rights to make one), else that of private memory alone (`ulimit -d`). Where the bundle is refused, the error's text is
printed.

Prints JSON: what the plan says in MB, the peak of private memory, the group's peak with pages of files (which the
system takes back at the limit), the seconds of reading so far at 1,024 tokens and each doubling, and the answer's
speed. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.tools.plan import plan  # noqa: E402
from tests.support.private import watched  # noqa: E402

GROUPS = (  # of version 2 and 1: where, the limit's file, the peak's file
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
)
FIRST, ANSWER = 1024, 16  # tokens
CHILD = """
import json, sys, time
from gemma4gguf import Gemma4
from gemma4gguf.errors import MemoryLimitError

file, tokens, answer, options = json.loads(sys.argv[1])
begun, reading = time.perf_counter(), {}

def progress(done, total):
    reading[done] = time.perf_counter() - read

try:
    with Gemma4(file, **options) as model:
        model.load()
        loaded = time.perf_counter() - begun
        read = time.perf_counter()
        made = model.generate("a" + " a" * tokens, max_tokens=answer, temperature=0, on_progress=progress)
        print(json.dumps({"context": model.context, "load_s": loaded, "reading": reading, "prompt": made.tokens.prompt,
                          "answer": made.tokens.completion, "tokens_per_s": made.timings.tokens_per_s}))
except MemoryLimitError as error:
    print(json.dumps({"refused": str(error)}))
"""


@contextmanager
def limited(limit: int) -> Iterator[tuple[list[str], Path | None]]:
    """What starts a command under the limit, and the file that tells the peak, where there is one."""
    for top, most, peak in GROUPS:
        group = top / f"long-context-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
        if (group / most).exists():
            try:
                (group / most).write_text(str(limit))
                yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"], group / peak
            finally:
                group.rmdir()
            return
        with suppress(OSError):
            group.rmdir()
    yield ["sh", "-c", f'ulimit -d {limit // 1024} && exec "$@"', "sh"], None


def forget(file: Path) -> None:
    """Take a file's pages out of memory, so that they count for whoever reads them next."""
    with file.open("rb") as held:
        os.fsync(held.fileno())
        os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def doublings(reading: dict[str, float]) -> dict[int, float]:
    """Seconds at the first progress at or after FIRST tokens and each doubling."""
    times = sorted((int(done), seconds) for done, seconds in reading.items())
    sizes = [FIRST << power for power in range(20)]
    return {n: round(next(s for done, s in times if done >= n), 1) for n in sizes if n <= times[-1][0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--limit", type=float, required=True, help="GB")
    parser.add_argument("--context", type=int, default=262_144)
    parser.add_argument("--kv-type", default="q8_0")
    parser.add_argument("--tokens", type=int, default=8_192)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    limit = int(given.limit * 1e9)
    how = {"context": given.context, "kv_type": given.kv_type}
    choice = plan(given.bundle, limit=limit, **how).choices[0]
    found: dict[str, Any] = {
        "limit_gb": given.limit,
        **how,
        "plan_private_mb": round(choice.memory.private / 1e6),
        "plan_mapped_mb": round(choice.memory.mapped / 1e6),
        "plan_says_it_fits": choice.fits,
    }
    forget(given.bundle)
    asked = [str(given.bundle.resolve()), given.tokens, ANSWER, how | {"threads": given.threads}]
    with limited(limit) as (start, peak_file):
        command = [*start, sys.executable, "-c", CHILD, json.dumps(asked)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process,
            watched(process.pid) as peak,
        ):
            said, _ = process.communicate()
        found |= {"status": process.returncode, "private_mb": round(peak[0] / 1e6)}
        if peak_file is not None:
            found["group_mb"] = round(int(peak_file.read_text()) / 1e6)
    child = json.loads(said) if said else {}
    if "reading" in child:
        child["reading"] = doublings(child["reading"])
    print(json.dumps(found | child, indent=1))
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
