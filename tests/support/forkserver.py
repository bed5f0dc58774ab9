"""Runs what may end the process in a child of its own, and says how the child ended.

In: an action. Out: an `Outcome`. The parent must not have started llama.cpp: its threads do not survive a fork.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gemma4gguf.errors import Gemma4Error

PROCESSOR_SECONDS = 5
DATA_BYTES = 4 << 30  # what a child may allocate before the system says no: keeps the machine alive


@dataclass(frozen=True)
class Outcome:
    """`kind`: clean, refused (an error of the tree), escaped (any other exception), signal, or hang."""

    kind: str
    detail: str
    memory: int  # bytes, at the peak
    seconds: float  # of processor

    @property
    def survived(self) -> bool:
        return self.kind in ("clean", "refused")


def run(action: Callable[[], str], log: Path) -> Outcome:
    """`action` in a fork; what it returns is the detail. `log` takes what C writes to standard error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_child(action, writer, log))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status, used = os.wait4(child, 0)
    memory, seconds = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = "hang" if number in (signal.SIGXCPU, signal.SIGALRM) else "signal"
        return Outcome(kind, f"{signal.Signals(number).name}: {_last_words(log)}", memory, seconds)
    kind, _, detail = said.partition(" ")
    return Outcome(kind or "signal", detail, memory, seconds)


def _child(action: Callable[[], str], writer: int, log: Path) -> int:
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(60)  # asleep for ever is a hang too
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        warnings.simplefilter("ignore")
        said = f"clean {action()}"
    except Gemma4Error as error:
        said = f"refused {type(error).__name__}: {error}"
    except BaseException:
        said = f"escaped {traceback.format_exc()}"
    os.write(writer, said.encode("utf-8", "replace")[:60_000])
    return 0


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(lines[-2:])[:400]
