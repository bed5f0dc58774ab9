"""Conversions that are killed or run out of disk: no half file, and nothing in the next one's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converters import convert

STOP_ITSELF = """
import os, signal, sys
from converters import convert
source, out, number, part = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
def progress(done, total, stage):
    if done >= part * total:
        os.kill(os.getpid(), number)
convert(source, out, quant="Q4_K_M", threads=2, progress=progress)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_at_ten_points(tmp_path: Path, checkpoint: Path, number: signal.Signals) -> None:
    for step in range(10):
        out = tmp_path / "out.gguf"
        ended = run(STOP_ITSELF, checkpoint, out, int(number), step / 10)
        assert ended.returncode in (-number, 130, 1), ended.stderr
        assert not out.exists()
        if number == signal.SIGINT:
            assert list(tmp_path.iterdir()) == []
    convert(checkpoint, tmp_path / "out.gguf", quant="Q4_K_M")  # what a kill left behind is in nobody's way
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


FILL_THE_DISK = """
import resource, signal, sys
from converters import convert
from gemma4gguf.errors import ConversionError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    convert(sys.argv[1], sys.argv[2], quant="Q4_K_M")
except ConversionError as error:
    print(error)
"""


def test_a_disk_that_fills_up_half_way(tmp_path: Path, checkpoint: Path) -> None:
    """The system refuses to write beyond half of the file, as a full disk does."""
    size = convert(checkpoint, tmp_path / "out.gguf", quant="Q4_K_M", dry_run=True).size
    ended = run(FILL_THE_DISK, checkpoint, tmp_path / "out.gguf", size // 2)
    assert ended.stderr == ""
    assert "writing failed" in ended.stdout
    assert "nothing was left behind" in ended.stdout
    assert ended.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
