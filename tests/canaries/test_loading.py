"""Loading: a section where it lies in a larger file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gemma4gguf.bundle.container import padded, place_tensors
from gemma4gguf.bundle.reading import TEXT, Bundle
from gemma4gguf.bundle.writing import Part
from gemma4gguf.errors import NativeError
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.weights import Weights
from tests.support.parts import cut, save

IDS = [2, *range(300, 320)]


def logits(path: Path, offset: int = 0, descriptor: int | None = None) -> NDArray[np.float32]:
    """Of the last of IDS, float32 [vocabulary]."""
    options = ContextOptions(64, threads=1, batch=32)
    with Weights(path, offset=offset, descriptor=descriptor) as model, Context(model, options) as context:
        context.decode(IDS, start=0)
        return np.array(context.logits())


@pytest.fixture(scope="module")
def text(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut(bundle, "gemma4", tmp_path_factory.mktemp("loading") / "text.gguf")


def test_a_model_loads_from_a_file_pointer_at_an_offset(text: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.gguf"
    moved.write_bytes(b"\xff" * 65_536 + text.read_bytes() + b"\xff" * 65_536)
    expected = logits(text)
    assert np.array_equal(logits(moved, 65_536), expected)
    with open(moved, "rb") as file:
        assert np.array_equal(logits(moved, 65_536, file.fileno()), expected)
        assert os.fstat(file.fileno())  # still open: a duplicate was handed over


def test_nothing_after_the_last_tensor_is_looked_at(bundle: Path, text: Path, tmp_path: Path) -> None:
    """Other sections, rubbish, or nothing at all, not even the last padding: the same logits."""
    section = Bundle.open(bundle).text
    end = max(section.header.data_start + t.offset + t.nbytes for t in section.tensors.values())
    expected, raw = logits(text), text.read_bytes()[:end]
    for number, rest in enumerate((b"", b"GGUF" + b"\xff" * 100_000, bytes(1 << 20))):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(raw + rest)
        assert np.array_equal(logits(path), expected)
    assert np.array_equal(logits(bundle), expected)


def test_a_file_that_ends_early_is_refused(text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The process goes on, the reason is in the message, and nothing on the terminal."""
    raw = text.read_bytes()
    for end in (0, 3, 1000, len(raw) // 2):
        (tmp_path / "short.gguf").write_bytes(raw[:end])
        with pytest.raises(NativeError, match=r"cannot load this model \(.*\w.*\)"):
            logits(tmp_path / "short.gguf")
    assert capfd.readouterr() == ("", "")


def test_an_untied_output_matrix_is_used(bundle: Path, text: Path, tmp_path: Path) -> None:
    """With the embedding's negative in its place, every logit changes its sign."""
    section = Bundle.open(bundle).text
    embedding = section.tensors["token_embd.weight"]
    table = [(t.name, t.shape, t.type) for t in section.tensors.values()]
    table.append(("output.weight", embedding.shape, embedding.type))
    data = [section.raw(name).tobytes() for name in section.tensors]
    data.append((-section.array("token_embd.weight")).tobytes())
    part = Part(
        TEXT, section.header.pairs, place_tensors(table), lambda: [raw.ljust(padded(len(raw)), b"\0") for raw in data]
    )
    assert np.array_equal(logits(save(tmp_path / "untied.gguf", part)), -logits(text))
