"""The bundle as a file format: what is written is read, and lost sections are noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import (
    TensorInfo,
    encode_pair,
    padded,
)
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, KEY, SECTION_ALIGNMENT, TEXT, Bundle, digest, read_sections
from gemma4gguf.bundle.writing import Part, part_of, write_bundle
from gemma4gguf.errors import FormatError, MissingPartError
from tests.support.bundles import PARTS, VALUES, WORDS, part


def test_what_is_written_is_read(whole: Path) -> None:
    bundle = Bundle.open(whole)
    assert [s.architecture for s in bundle.sections] == [TEXT, EMBEDDER, DRAFTER]
    assert bundle.missing == ()
    for seed, section in enumerate(bundle.sections, 1):
        assert section.offset % SECTION_ALIGNMENT == 0
        assert section.metadata["some.bool"] is True
        assert section.metadata["some.float"] == 0.5
        assert list(section.metadata["some.words"]) == WORDS
        assert section.metadata["some.bytes"] == [0, 255]
        assert section.metadata["some.numbers"] == [-1, 0, 1 << 30]
        for kind, values in VALUES.items():
            got = section.array(f"t.{kind.name}")
            assert got.dtype == values.dtype
            assert np.array_equal(got, values + seed)
        assert section.array("t.one") == seed
    assert bundle.section(DRAFTER) is bundle.sections[2]
    assert bundle.require(EMBEDDER) is bundle.sections[1]


def test_the_text_section_names_the_rest(whole: Path) -> None:
    bundle = Bundle.open(whole)
    meta = bundle.text.metadata
    assert meta[KEY + "version"] == 1
    assert list(meta[KEY + "sections"]) == [TEXT, EMBEDDER, DRAFTER]
    assert meta[KEY + "sizes"] == [s.size for s in bundle.sections]
    assert list(meta[KEY + "sha256"]) == [digest(s) for s in bundle.sections]
    assert all(not key.startswith(KEY) for s in bundle.sections[1:] for key in s.metadata)


def test_the_reference_reader_sees_the_text_model(whole: Path) -> None:
    """gguf-py reads the first section as a whole file, to the last value."""
    reader = GGUFReader(whole)
    section = Bundle.open(whole).text
    assert [t.name for t in reader.tensors] == list(section.tensors)
    assert [t.data_offset for t in reader.tensors] == [
        section.header.data_start + t.offset for t in section.tensors.values()
    ]
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, section.array(tensor.name))
    assert {k for k in reader.fields if not k.startswith("GGUF.")} == set(section.metadata)


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096, 131_072])
def test_other_alignments(tmp_path: Path, alignment: int) -> None:
    key = "general.alignment"
    stored = encode_pair(key, V.UINT32, alignment)
    values = np.arange(5, dtype=np.float32)
    table = [TensorInfo("a", (5,), T.F32, 0), TensorInfo("b", (5,), T.F32, padded(20, alignment))]
    block = values.tobytes() + bytes(padded(20, alignment) - 20)
    pairs = {**PARTS[0].pairs, key: stored}
    write_bundle(tmp_path / "a.gguf", [Part(TEXT, pairs, table, lambda: [block, block], alignment), PARTS[1]])
    bundle = Bundle.open(tmp_path / "a.gguf")
    assert [s.architecture for s in bundle.sections] == [TEXT, EMBEDDER]
    assert np.array_equal(bundle.text.array("b"), values)
    assert (bundle.text.header.data_start + bundle.text.tensors["b"].offset) % alignment == 0


def test_the_same_parts_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    write_bundle(tmp_path / "again.gguf", PARTS)
    assert (tmp_path / "again.gguf").read_bytes() == whole.read_bytes()


def test_sections_taken_over_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    write_bundle(tmp_path / "again.gguf", [part_of(s) for s in Bundle.open(whole).sections])
    assert (tmp_path / "again.gguf").read_bytes() == whole.read_bytes()


def test_a_cut_section_is_a_file_of_its_own(tmp_path: Path, whole: Path) -> None:
    for section in Bundle.open(whole).sections:
        path = tmp_path / f"{section.architecture}.gguf"
        path.write_bytes(b"".join(section.copy()))
        (alone,) = read_sections(path)
        assert alone.size == section.size == path.stat().st_size
        assert alone.header.pairs == section.header.pairs
        assert np.array_equal(alone.array("t.F32"), section.array("t.F32"))


def test_a_plain_text_model_is_a_bundle_of_one(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_bytes(b"".join([PARTS[0].header(), *PARTS[0].data()]))
    bundle = Bundle.open(path)
    assert len(bundle.sections) == 1
    assert bundle.missing == ()
    with pytest.raises(MissingPartError, match=r"has no multimodal embedder.*gemma4gguf pack"):
        bundle.require(EMBEDDER)


def test_a_file_that_ends_before_its_last_padding_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    raw = b"".join([PARTS[0].header(), *PARTS[0].data()])
    path.write_bytes(raw[: -(padded(4) - 4)])  # the last tensor is one float32
    write_bundle(tmp_path / "packed.gguf", [part_of(Bundle.open(path).text)])
    write_bundle(tmp_path / "whole.gguf", PARTS[:1])
    assert (tmp_path / "packed.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_digests_see_every_byte(tmp_path: Path, whole: Path) -> None:
    sound = [digest(s) for s in Bundle.open(whole).sections]
    raw = whole.read_bytes()
    for i, section in enumerate(Bundle.open(whole).sections):
        changed = bytearray(raw)
        changed[section.header.data_start] ^= 1
        path = tmp_path / "changed.gguf"
        path.write_bytes(changed)
        assert [a == b for a, b in zip(map(digest, Bundle.open(path).sections), sound, strict=True)] == [
            j != i for j in range(3)
        ]


@pytest.mark.parametrize("kept", [1, 2])
def test_lost_sections_are_noticed(tmp_path: Path, whole: Path, kept: int) -> None:
    sections = Bundle.open(whole).sections
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole.read_bytes()[: sections[kept - 1].offset + sections[kept - 1].size])
    bundle = Bundle.open(path)
    assert bundle.missing == (TEXT, EMBEDDER, DRAFTER)[kept:]
    with pytest.raises(MissingPartError, match=r"the MTP drafter that this file once had is gone.*gemma4gguf pack"):
        bundle.require(DRAFTER)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((EMBEDDER, TEXT), "holds a multimodal embedder, expected a Gemma 4 text model first"),
        ((DRAFTER,), "holds an MTP drafter, expected"),
        (("llama",), "holds a 'llama' model, expected"),
        ((TEXT, DRAFTER, EMBEDDER), "expected each of gemma4, clip, gemma4-assistant once, in order"),
        ((TEXT, EMBEDDER, EMBEDDER), "once, in order"),
        ((TEXT, TEXT), "once, in order"),
        ((TEXT, "llama"), "once, in order"),
    ],
)
def test_sections_in_another_order(tmp_path: Path, order: tuple[str, ...], message: str) -> None:
    path = tmp_path / "file.gguf"
    write_bundle(path, [part(name) for name in order])
    with pytest.raises(FormatError, match=message):
        Bundle.open(path)


@pytest.mark.parametrize("rest", [b"\0" * 100_000, b"GGU", b"PK\3\4" + b"x" * 70_000, b"GGUF" + b"\xff" * 100])
def test_bytes_after_the_last_section(tmp_path: Path, whole: Path, rest: bytes) -> None:
    raw = whole.read_bytes()
    path = tmp_path / "more.gguf"
    path.write_bytes(raw + bytes(padded(len(raw), SECTION_ALIGNMENT) - len(raw)) + rest)
    with pytest.raises(FormatError, match=r"more\.gguf"):
        Bundle.open(path)
