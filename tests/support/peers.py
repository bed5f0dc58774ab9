"""Runs the programs of stock llama.cpp that scripts/peers built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


class Runner:
    """Runs one of llama.cpp's programs and returns what it printed; a failure shows the end of its log."""

    def __init__(self, peers: Path) -> None:
        self.peers = peers

    def tool(self, name: str, *arguments: object, timeout: float = 300) -> str:
        return self._run([str(self.peers / "bin" / name), *map(str, arguments)], timeout)

    def convert(self, *arguments: object, timeout: float = 300) -> str:
        script = self.peers / "llama.cpp" / "convert_hf_to_gguf.py"
        return self._run([sys.executable, str(script), *map(str, arguments)], timeout)

    def _run(self, command: list[str], timeout: float) -> str:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
        assert run.returncode == 0, (
            f"{command} exited with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
        )
        return run.stdout
