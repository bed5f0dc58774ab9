"""Files that llama-gguf-split cut become the section that it merges them to, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma4gguf.bundle.reading import TEXT
from gemma4gguf.tools.pack import pack
from tests.support.parts import cut
from tests.support.peers import Runner


@pytest.mark.parametrize("options", [["--split-max-tensors", "50"], ["--split-max-size", "3M"]])
@pytest.mark.parametrize("first", [[], ["--no-tensor-first-split"]])
def test_a_split_and_its_merged_file_pack_to_the_same_bytes(
    options: list[str], first: list[str], bundle: Path, tmp_path: Path, run_peer: Runner
) -> None:
    text = cut(bundle, TEXT, tmp_path / "text.gguf")
    run_peer.tool("llama-gguf-split", "--split", *options, *first, text, tmp_path / "part")
    files = sorted(tmp_path.glob("part-*.gguf"))
    assert len(files) > 2
    run_peer.tool("llama-gguf-split", "--merge", files[0], tmp_path / "merged.gguf")
    pack(files[1], tmp_path / "joined.gguf")
    pack(tmp_path / "merged.gguf", tmp_path / "from-merged.gguf")
    pack(text, tmp_path / "whole.gguf")
    joined = (tmp_path / "joined.gguf").read_bytes()
    assert joined == (tmp_path / "from-merged.gguf").read_bytes()
    assert joined == (tmp_path / "whole.gguf").read_bytes()
