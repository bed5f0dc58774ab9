"""Runs what may end the process in a child of its own, and says how the child ended; what cannot, in this one.

In: an action. Out: an `Outcome`. The parent must not have started llama.cpp: its threads do not survive a fork.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gemma4gguf.errors import Gemma4Error

PROCESSOR_SECONDS = 5
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
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


def run(action: Callable[[], str], log: Path, seconds: int = PROCESSOR_SECONDS) -> Outcome:
    """`action` in a fork; what it returns is the detail. `log` takes what C writes to standard error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os._exit(_child(action, writer, log, seconds))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status, used = os.wait4(child, 0)
    memory, spent = used.ru_maxrss * MAXRSS_UNIT, used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = "hang" if number in (signal.SIGXCPU, signal.SIGALRM) else "signal"
        return Outcome(kind, f"{signal.Signals(number).name}: {_last_words(log)}", memory, spent)
    kind, _, detail = said.partition(" ")
    return Outcome(kind or "signal", detail, memory, spent)


def together(actions: Sequence[Callable[[], str]], log: Path, memory: int) -> list[Outcome]:
    """As `run` of each action, in one fork where nothing befalls any of them: much faster. `memory`: bytes for all.

    Where the fork is ended by a signal, and none of the actions is alone, the first outcome is that.
    """

    def all_here() -> str:
        return json.dumps([vars(here(action)) for action in actions])

    whole = run(all_here, log, seconds=4 * PROCESSOR_SECONDS)
    if whole.kind == "clean":
        found = [Outcome(**made) for made in json.loads(whole.detail)]
        if whole.memory <= memory and all(outcome.survived for outcome in found):
            return found
    found = [run(action, log) for action in actions]
    if whole.kind == "signal" and all(outcome.survived for outcome in found):
        found[0] = replace(whole, detail=f"one after another, none of them alone: {whole.detail}")
    return found


class _HangError(BaseException):
    """Raised inside an action that takes too long: nothing catches it on the way."""


def here(action: Callable[[], str]) -> Outcome:
    """`action` in this process: for Python code, which does not end it. The memory is the process's peak so far."""

    def late(*_: object) -> None:
        raise _HangError

    begun = time.process_time()
    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    try:
        said = _said(action)
    except _HangError:
        said = f"hang {traceback.format_exc(limit=-3)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    kind, _, detail = said.partition(" ")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
    return Outcome(kind, detail, peak, time.process_time() - begun)


def _said(action: Callable[[], str]) -> str:
    """The kind of an outcome, and what there is to say."""
    try:
        return f"clean {action()}"
    except Gemma4Error as error:
        return f"refused {type(error).__name__}: {error}"
    except Exception:
        return f"escaped {traceback.format_exc(limit=-6)}"


def _child(action: Callable[[], str], writer: int, log: Path, seconds: int) -> int:
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(60 * seconds)  # asleep for ever is a hang too; on a busy machine most of it is waiting
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        warnings.simplefilter("ignore")
        said = _said(action)
    except BaseException:
        said = f"escaped {traceback.format_exc()}"
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(said.encode("utf-8", "replace"))
    return 0


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(lines[-2:])[:400]
