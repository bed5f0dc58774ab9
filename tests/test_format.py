"""A reader written from docs/format.md alone: no line of gemma4gguf reads here, only its results are compared."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf import Embedder, frame, patchify
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.limits import Limits

ROOT = Path(__file__).parent.parent
MEDIA = ROOT / "models/demo"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
F32, STRING, ARRAY = 0, 8, 9


class Reader:
    """A cursor over a section's header."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.at = data, start
        assert self.take(4) == b"GGUF"
        assert self.number("I") == 3
        tensors, keys = self.number("Q"), self.number("Q")
        self.meta = {self.text(): self.value(self.number("I")) for _ in range(keys)}
        self.tensors: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensors):
            name = self.text()
            shape = tuple(self.number("Q") for _ in range(self.number("I")))[::-1]
            self.tensors[name] = shape, self.number("I"), self.number("Q")
        self.start, self.data_start = start, start + up(self.at - start, 32)

    def take(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            of, count = self.number("I"), self.number("Q")
            return [self.value(of) for _ in range(count)]
        return self.number(SCALARS[kind])

    def array(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        shape, kind, offset = self.tensors[name]
        assert kind == F32
        flat = np.frombuffer(self.data, "<f4", int(np.prod(shape)), self.data_start + offset)
        return flat.reshape(shape).astype(np.float64)


def up(n: int, step: int) -> int:
    return (n + step - 1) // step * step


@pytest.fixture(scope="module")
def sections(tiny_bundle: Path) -> dict[str, Reader]:
    """The text section's sizes say where each section ends, the walking rule where the next one starts."""
    data, start, found = tiny_bundle.read_bytes(), 0, {}
    while start < len(data):
        section = Reader(data, start)
        found[section.meta["general.architecture"]] = section
        size = found["gemma4"].meta["gemma4gguf.bundle.sizes"][len(found) - 1]
        assert not data[start + size : up(start + size, 65_536)].strip(b"\0")
        start = up(start + size, 65_536)
    return found


def test_sections_are_those_that_the_text_model_names(sections: dict[str, Reader], tiny_bundle: Path) -> None:
    meta = sections["gemma4"].meta
    assert meta["gemma4gguf.bundle.version"] == 1
    assert list(sections) == meta["gemma4gguf.bundle.sections"] == ["gemma4", "clip", "gemma4-assistant"]
    last = sections["gemma4-assistant"]
    assert last.start + meta["gemma4gguf.bundle.sizes"][-1] == len(last.data)
    assert [s.offset for s in Bundle.open(tiny_bundle).sections] == [s.start for s in sections.values()]


def test_digests_with_the_text_model_s_own_as_zeros(sections: dict[str, Reader]) -> None:
    meta = sections["gemma4"].meta
    for section, size, sha in zip(
        sections.values(), meta["gemma4gguf.bundle.sizes"], meta["gemma4gguf.bundle.sha256"], strict=True
    ):
        raw = section.data[section.start : section.start + size]
        if section.start == 0:
            raw = raw.replace(sha.encode(), b"0" * 64, 1)
        assert hashlib.sha256(raw).hexdigest() == sha


def norm(x: Any, section: Reader, number: int) -> Any:
    mean, variance = x.mean(), x.var()
    weight, bias = (section.array(f"v.patch_norm.{number}.{part}") for part in ("weight", "bias"))
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def rms(x: Any, epsilon: float) -> Any:
    return x / np.sqrt((x * x).mean() + epsilon)


def test_soft_tokens_of_a_picture(sections: dict[str, Reader], tiny_bundle: Path) -> None:
    clip, patches = sections["clip"], patchify(MEDIA / "digits.png", 70)
    matrix, bias = clip.array("v.patch_embd.weight"), clip.array("v.patch_embd.bias")
    along_x, along_y = clip.array("v.position_embd.weight")
    order = [(i % 2304) * 3 + i // 2304 for i in range(6912)]
    ours = Embedder(tiny_bundle).image(patches)
    for i in (0, len(patches) // 2, len(patches) - 1):
        x, y = patches.positions[i]
        v = norm(patches.pixels[i].astype(np.float64)[order], clip, 1)
        v = norm(matrix @ v + bias, clip, 2)
        v = norm(v + along_x[x] + along_y[y], clip, 3)
        v = rms(v, clip.meta["clip.vision.attention.layer_norm_epsilon"])
        np.testing.assert_allclose(ours[i], clip.array("mm.input_projection.weight") @ v, atol=1e-4)


def test_soft_tokens_of_sound(sections: dict[str, Reader], tiny_bundle: Path) -> None:
    clip, frames = sections["clip"], frame(MEDIA / "number.wav")
    epsilon = clip.meta["clip.audio.attention.layer_norm_epsilon"]
    spec = [clip.array("mm.a.input_projection.weight") @ rms(row.astype(np.float64), epsilon) for row in frames]
    np.testing.assert_allclose(Embedder(tiny_bundle).audio(frames), spec, atol=1e-4)


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    page = (ROOT / "docs/format.md").read_text(encoding="utf-8")
    named = ("sections", "header_bytes", "entries", "numbers", "strings", "key_bytes", "string_bytes", "alignment")
    assert not [name for name in named if f"{getattr(Limits(), name):,}" not in page]
