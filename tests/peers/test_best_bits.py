"""Files on a grid, and of a given size, are ordinary files: stock llama-server loads them and gives our tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from converters import convert
from gemma4gguf.bundle.reading import read_sections
from gemma4gguf.bundle.settings import GRID_TENSORS, MIX
from tests.support import runtimes
from tests.support.qat import put_on_grids

TINY = Path(__file__).parents[2] / "models" / "tiny"
PROMPTS = [
    f"<|turn>user\n{asked}<turn|>\n<|turn>model\n"
    for asked in (
        *(f"What is {a} + {b}?" for a in range(11, 95, 7) for b in (8, 35)),
        "Who are you?",
        "What is the capital of France?",
        "Repeat: blue ring",
    )
]
STEPS, MARGIN = 16, 0.05


@pytest.mark.parametrize("kind", [GRID_TENSORS, MIX])
def test_llama_server_gives_our_tokens(peers: Path, tmp_path: Path, kind: str) -> None:
    folder, file = Path(shutil.copytree(TINY, tmp_path / "model")), tmp_path / "out.gguf"
    if kind == GRID_TENSORS:
        put_on_grids(folder)
        convert(folder, file)
    else:
        convert(folder, file, target_bpw=4.4)
    assert kind in read_sections(file)[0].metadata
    job = runtimes.firm(file, runtimes.prepare(file, PROMPTS, STEPS), MARGIN)
    expected = runtimes.ours(file, job)
    assert len(expected) >= 10
    command = [peers / "bin" / "llama-server", "--model", file, "-c", runtimes.CONTEXT, "-np", 1, "-t", 1]
    with runtimes.serve(command, tmp_path / "log") as address:
        answers = runtimes.complete(address, job)
    assert [a["tokens"] for a in answers] == expected
