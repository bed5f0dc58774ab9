"""A process's memory: its peak of private memory and the pages of a file that its work touches (Linux only), and what
is resident now.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE_SECONDS = 0.01
ANSWER = 4  # tokens
DRAFT = 3  # at a time, always: "auto" may find that none pay, and then no page of the drafter is used
ROOM = 400  # positions that are left for the template, a picture and the answer
MEDIA = tuple(str(ROOT / "models" / "demo" / name) for name in ("cat.jpg", "number.wav"))
CHILD = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from gemma4gguf import Gemma4

given = json.loads(sys.argv[1])
how = {"max_tokens": given["answer"], "temperature": 0}
with Gemma4(given["file"], context=given["context"], draft=given["draft"], parallel=given["slots"], threads=1) as model:
    model.load()
    print("loaded", flush=True)
    sys.stdin.readline()
    made = model.generate("a" + " a" * given["tokens"], **how)
    with ThreadPoolExecutor(given["slots"]) as pool:
        list(pool.map(lambda slot: model.generate(f"{slot} a", **how), range(given["slots"])))
    if given["media"]:
        picture, clip = given["media"]
        model.generate("What is this?", images=[picture], audio=[clip], **how)
    print(made.tokens.prompt, flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True)
class Measured:
    """`private`: the peak, in bytes. `mapped`: bytes of the bundle's pages that were used since it was loaded.
    `prompt`: tokens that were read.
    """

    private: int
    mapped: int
    prompt: int


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """The peak of a process's private bytes, in a list of one. The process has to end in the block."""
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(pid, peak), daemon=True)
    watcher.start()
    yield peak
    watcher.join()


def _watch(pid: int, peak: list[int]) -> None:
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        private = sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
        peak[0] = max(peak[0], private * 1024)
        time.sleep(SAMPLE_SECONDS)


def touched(pid: int, file: Path) -> int:
    """Bytes of a file's pages that the process has used since its reference bits were cleared."""
    used, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):  # a mapping's own line: range, rights, offset, device, inode, path
            ours = len(rest) == 5 and rest[4] == str(file)
        elif ours and first == "Referenced:":
            used += int(rest[0]) * 1024
    return used


def measure(file: Path, context: int, tokens: int, *, drafts: bool, media: bool = False, slots: int = 1) -> Measured:
    """Open a bundle in a process of its own, have it read about `tokens` tokens, then a few in each slot at once,
    perhaps look at a picture and hear a clip. Raises CalledProcessError.
    """
    given = {
        "file": str(file.resolve()),
        "context": context,
        "slots": slots,
        "tokens": min(tokens, context - ROOM),
        "draft": DRAFT if drafts else "off",
        "media": MEDIA if media else (),
        "answer": ANSWER,
    }
    command = [sys.executable, "-c", CHILD, json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        watched(process.pid) as peak,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        mapped, prompt = 0, ""
        if process.stdout.readline():
            Path(f"/proc/{process.pid}/clear_refs").write_text("1")
            process.stdin.write("\n")
            process.stdin.flush()
            if prompt := process.stdout.readline():
                mapped = touched(process.pid, file.resolve())
        process.stdin.close()
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(peak[0], mapped, int(prompt))


def private_mb() -> float:
    """Memory that this process holds for itself now, without pages of files (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))) * 1024 / 1e6


def resident_mb() -> float:
    """Memory of this process, pages of files included."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    except OSError:  # not Linux: the highest so far
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
