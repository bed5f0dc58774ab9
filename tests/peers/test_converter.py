"""Our converter against llama.cpp's: every key and every tensor of the three parts, byte for byte, but for a list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.support.parts import ARCHITECTURES, cut

TYPES = ("F32", "F16", "BF16", "Q8_0")  # what llama.cpp's converter can write

# Keys that only one side has, or that differ, and why.
OURS_ALONE = {
    "gemma4gguf.bundle.version": "names the other parts of the file",
    "gemma4gguf.bundle.sections": "names the other parts of the file",
    "gemma4gguf.bundle.sizes": "names the other parts of the file",
    "gemma4gguf.bundle.sha256": "names the other parts of the file",
    "general.quantized_by": "says which tool made the file, and its version",
    "gemma4gguf.eos_token_ids": "generation_config's list of end tokens: llama.cpp finds them by their text",
}
THEIRS_ALONE: dict[str, str] = {}
DIFFERENT: dict[str, str] = {}
# A part that does not follow the type asked for, and why.
ALWAYS = {"embedder": "F32"}  # it is mapped and used as it lies, and lower types make the model see less


@dataclass(frozen=True)
class Part:
    """One GGUF: keys with their types and values, tensors with their type, shape and bytes, each in file order."""

    keys: dict[str, tuple[list[Any], Any]]
    tensors: dict[str, tuple[Any, list[int], bytes]]


def read(path: Path) -> Part:
    reader = gguf.GGUFReader(path)
    keys = {
        name: (field.types, field.contents()) for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    tensors = {t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
    return Part(keys, tensors)


@pytest.fixture(scope="module")
def theirs(
    run_peer: Any, checkpoint: Path, drafter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Part]:
    """A function from (part, type) to what llama.cpp's converter writes."""
    folder = tmp_path_factory.mktemp("theirs")
    sources: dict[str, list[object]] = {
        "text": [checkpoint],
        "embedder": [checkpoint, "--mmproj"],
        "drafter": [drafter],
    }

    def make(part: str, quant: str) -> Part:
        quant = ALWAYS.get(part, quant)
        out = folder / f"{part}-{quant}.gguf"
        run_peer.convert(*sources[part], "--outfile", out, "--outtype", quant.lower())
        return read(out)

    return make


@pytest.fixture(scope="module")
def ours(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Part]:
    """A function from (part, type) to that section of our bundle, cut out byte for byte."""
    folder = tmp_path_factory.mktemp("ours")

    def make(part: str, quant: str) -> Part:
        path = make_bundle(quant, drafter_quant=quant)
        return read(cut(path, ARCHITECTURES[part], folder / f"{part}-{quant}.gguf"))

    return make


@pytest.mark.parametrize("part", ARCHITECTURES)
@pytest.mark.parametrize("quant", TYPES)
def test_every_key_and_tensor_equals_llama_cpps_converter(
    ours: Callable[..., Part], theirs: Callable[..., Part], part: str, quant: str
) -> None:
    mine, other = ours(part, quant), theirs(part, quant)
    assert mine.tensors.keys() == other.tensors.keys()
    differing = [name for name, tensor in mine.tensors.items() if tensor != other.tensors[name]]
    assert differing == []
    assert set(mine.keys) - set(other.keys) == (set(OURS_ALONE) if part == "text" else set())
    assert set(other.keys) - set(mine.keys) == set(THEIRS_ALONE)
    shared = mine.keys.keys() & other.keys.keys()
    assert {name for name in shared if mine.keys[name] != other.keys[name]} == set(DIFFERENT)
