"""Stock llama.cpp, built once by scripts/peers from the sdist of the llama-cpp-python that the runtime is pinned to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def peers() -> Path:
    """The folder with bin/ and llama.cpp/; built now if it is not there, which takes minutes."""
    script = ROOT / "scripts" / "peers"
    run = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, "scripts/peers could not build llama.cpp; its output says why"
    return Path(run.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """The JavaScript peers; installed now if they are not there."""
    run = subprocess.run([ROOT / "scripts" / "peers-node"], stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, "scripts/peers-node failed; its output says why"
    return Path(run.stdout.splitlines()[-1])


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


@pytest.fixture(scope="session")
def run_peer(peers: Path) -> Runner:
    return Runner(peers)
