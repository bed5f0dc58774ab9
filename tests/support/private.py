"""A process's memory: its peak of private memory, without pages of files (Linux only), and what is resident now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE_SECONDS = 0.01
ANSWER = 4  # tokens
ROOM = 400  # positions that are left for the template, a picture and the answer
CHILD = """
import json, sys
from gemma4gguf import Gemma4
given = json.loads(sys.argv[1])
with Gemma4(given["file"], context=given["context"], draft=given["draft"]) as model:
    made = model.generate("a" + " a" * given["tokens"], max_tokens=given["answer"], temperature=0)
    if given["image"]:
        model.generate("What is this?", images=[given["image"]], max_tokens=given["answer"], temperature=0)
    print(made.tokens.prompt)
"""


def watch(pid: int, peak: list[int]) -> None:
    """Keep the largest number of private bytes in `peak[0]` until the process is gone."""
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        private = sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
        peak[0] = max(peak[0], private * 1024)
        time.sleep(SAMPLE_SECONDS)


def peak_of_answering(file: Path, context: int, tokens: int, *, drafts: bool, image: Path | None) -> tuple[int, int]:
    """Open a bundle in a process of its own, have it read a prompt of about `tokens` tokens, perhaps look at a picture.

    Returns the peak in bytes, and how long the prompt was. Raises CalledProcessError.
    """
    given = {
        "file": str(file),
        "context": context,
        "tokens": min(tokens, context - ROOM),
        "draft": "auto" if drafts else "off",
        "image": str(image) if image else "",
        "answer": ANSWER,
    }
    command = [sys.executable, "-c", CHILD, json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak))
    watcher.start()
    printed = process.communicate()[0]
    watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak[0], int(printed)


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
