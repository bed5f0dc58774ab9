"""Stock llama.cpp, built once by scripts/peers from the sdist of the llama-cpp-python that the runtime is pinned to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.peers import Runner

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


@pytest.fixture(scope="session")
def run_peer(peers: Path) -> Runner:
    return Runner(peers)
