"""A program that is told to end leaves nothing half done, whatever the signal and the moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from gemma4gguf.bundle import newfile

MODELS = Path(__file__).parent.parent / "models"
POINTS = 10
# The command line as it is, but for a signal that it sends itself at one of its progress calls.
SIGNALLED = """
import os, signal, sys
from gemma4gguf.cli import main, show
number, at = getattr(signal, sys.argv.pop(1)), int(sys.argv.pop(1))
calls, told = [], show.Progress.__call__
def call(self, *arguments):
    calls.append(1)
    if len(calls) == at:
        os.kill(os.getpid(), number)
    told(self, *arguments)
show.Progress.__call__ = call
try:
    main()
finally:
    print("calls", len(calls))
"""


def _convert(folder: Path, name: str, at: int) -> subprocess.CompletedProcess[str]:
    command = ["convert", str(MODELS / "tiny"), str(folder / "x.gguf"), "--quant", "Q8_0"]
    words = [sys.executable, "-c", SIGNALLED, name, str(at), *command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_conversion_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    whole = _convert(tmp_path, "SIGTERM", 0)
    (tmp_path / "x.gguf").unlink()
    calls = int(whole.stdout.split()[-1]) - 1  # the last one comes when the file is complete
    assert whole.returncode == 0
    assert calls > POINTS
    for point in range(POINTS):
        name = ("SIGTERM", "SIGHUP")[point % 2]
        ended = _convert(tmp_path, name, 1 + point * (calls - 1) // (POINTS - 1))
        assert ended.returncode == 128 + getattr(signal, name)
        assert ended.stderr == "ended by a signal\n"
        assert not list(tmp_path.iterdir())


def test_a_signal_from_outside(tmp_path: Path) -> None:
    """Sent when the unfinished file is there, as `kill` does."""
    command = [sys.executable, "-m", "gemma4gguf", "convert", str(MODELS / "tiny"), str(tmp_path / "x.gguf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not list(tmp_path.iterdir()):
        pass
    process.terminate()
    _, errors = process.communicate()
    assert b"Traceback" not in errors
    left = [path.name for path in tmp_path.iterdir()]
    assert (process.returncode, left) in [(143, []), (0, ["x.gguf"])]  # it may have been quicker


def test_a_signal_before_the_new_file_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, lock = [], newfile.lock

    def interrupted(file: IO[bytes], out: Path) -> None:
        calls.append(out)
        if len(calls) == 1:
            raise KeyboardInterrupt
        lock(file, out)

    monkeypatch.setattr(newfile, "lock", interrupted)
    with pytest.raises(KeyboardInterrupt), newfile.new_file(tmp_path / "x.gguf", 1, force=False):
        pass
    assert not list(tmp_path.iterdir())


def test_under_nohup_a_hangup_is_ignored(tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    words = ["convert", str(MODELS / "tiny"), str(out), "--quant", "Q8_0"]
    process = subprocess.run(
        [sys.executable, "-c", SIGNALLED, "SIGHUP", "3", *words],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        capture_output=True,
        check=False,
    )
    assert process.returncode == 0
    assert out.is_file()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_an_answer_is_ended_at_once(bundle: Path, name: str) -> None:
    """llama.cpp computes for seconds at a time; nothing that generate does can be lost."""
    command = [sys.executable, "-m", "gemma4gguf", "generate", str(bundle), "-p", "x", "--temperature", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)  # it is writing
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=30)  # of the minutes that the answer would take
    assert process.returncode == -getattr(signal, name)
    assert b"Traceback" not in errors
