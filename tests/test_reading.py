"""The bundle as a file format: what is written is read, and nothing read can do harm.

The files are small and made here, byte by byte where it matters; no model is loaded.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import (
    MAX_ENTRIES,
    MAX_VALUES,
    LazyStrings,
    TensorInfo,
    encode_array,
    encode_header,
    encode_pair,
    encode_string,
    padded,
    place_tensors,
    read_header,
)
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, KEY, SECTION_ALIGNMENT, TEXT, Bundle, digest, read_sections
from gemma4gguf.bundle.writing import Part, part_of, place_sections, write_bundle
from gemma4gguf.errors import ConversionError, FormatError, Gemma4Error, InputError

WORDS = ["", "a", "größe", "😀", "<bos>", "x" * 300]
VALUES = {T.F32: np.arange(6, dtype=np.float32).reshape(2, 3), T.F16: np.arange(8, dtype=np.float16).reshape(2, 2, 2)}


def part(architecture: str, seed: int = 0, **extra: bytes) -> Part:
    """A small section of every kind of value; another `seed`, other data."""
    pairs = {
        "general.architecture": encode_pair("general.architecture", V.STRING, architecture),
        "some.bool": encode_pair("some.bool", V.BOOL, True),
        "some.float": encode_pair("some.float", V.FLOAT32, 0.5),
        "some.words": encode_array("some.words", V.STRING, WORDS),
        "some.bytes": encode_array("some.bytes", V.UINT8, [0, 255]),
        "some.numbers": encode_array("some.numbers", V.INT32, [-1, 0, 1 << 30]),
        **extra,
    }
    arrays = {f"t.{kind.name}": values + seed for kind, values in VALUES.items()}
    arrays["t.one"] = np.asarray([seed], np.float32)
    kinds = {np.dtype(np.float32): T.F32, np.dtype(np.float16): T.F16}
    table = place_tensors([(name, a.shape, kinds[a.dtype]) for name, a in arrays.items()])

    def data() -> Iterator[bytes]:
        for array in arrays.values():
            yield array.tobytes()
            yield bytes(padded(array.nbytes) - array.nbytes)

    return Part(architecture, pairs, table, data)


PARTS = (part(TEXT, 1), part(EMBEDDER, 2), part(DRAFTER, 3))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "whole.gguf", PARTS)
    return tmp_path / "whole.gguf"


# ── written and read ─────────────────────────────────────────────────────────────────────────────────────────────


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
    with pytest.raises(FormatError, match=r"has no multimodal embedder.*gemma4gguf pack"):
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


# ── lost and misplaced sections ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kept", [1, 2])
def test_lost_sections_are_noticed(tmp_path: Path, whole: Path, kept: int) -> None:
    sections = Bundle.open(whole).sections
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole.read_bytes()[: sections[kept - 1].offset + sections[kept - 1].size])
    bundle = Bundle.open(path)
    assert bundle.missing == (TEXT, EMBEDDER, DRAFTER)[kept:]
    with pytest.raises(FormatError, match=r"the MTP drafter that this file once had is gone.*gemma4gguf pack"):
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


# ── hostile and damaged files ────────────────────────────────────────────────────────────────────────────────────


def refused(path: Path) -> str | None:
    """What opening says, in one line; None when it opens. Anything but our own error is a failure."""
    try:
        for section in Bundle.open(path).sections:
            for name in section.tensors:
                section.raw(name)
    except Gemma4Error as error:
        message = str(error)
    else:
        return None
    assert str(path) in message
    assert "\n" not in message
    return message


def refused_bytes(raw: bytes) -> str | None:
    """The same of bytes in memory, of which there can be thousands; every value is looked at."""
    try:
        header = read_header(raw, 0, "FILE")
    except FormatError as error:
        message = str(error)
    else:
        assert header.data_start <= header.end <= len(raw) or not header.tensors
        for info in header.tensors.values():
            assert 0 <= info.offset <= info.offset + info.nbytes <= len(raw) - header.data_start
        for value in header.metadata.values():
            assert not isinstance(value, LazyStrings) or len(list(value)) == len(value)
        return None
    assert message.startswith("FILE: ")
    assert "\n" not in message
    return message


def test_truncation_anywhere(tmp_path: Path) -> None:
    """Cut at every byte of a section's header and data: an error, until the last tensor is whole."""
    raw = b"".join([PARTS[0].header(), *PARTS[0].data()])
    last = len(raw) - (padded(4) - 4)
    for end in range(len(raw)):
        assert (refused_bytes(raw[:end]) is None) == (end >= last), end
    for end in range(0, last, 97):
        path = tmp_path / f"{end}.gguf"
        path.write_bytes(raw[:end])
        assert refused(path), end


def test_truncation_in_the_second_section(tmp_path: Path, whole: Path) -> None:
    raw = whole.read_bytes()
    second = Bundle.open(whole).sections[1]
    for end in range(second.offset + 1, second.header.data_start + 8, 29):
        path = tmp_path / f"{end}.gguf"
        path.write_bytes(raw[:end])
        assert refused(path), end


def test_every_flipped_bit_of_a_header() -> None:
    """Each bit of a header, flipped by itself: reads as another header, or is refused in one line."""
    header = PARTS[0].header()
    raw = header + b"".join(PARTS[0].data())
    outcomes = {True: 0, False: 0}
    for bit in range(8 * len(header)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        outcomes[refused_bytes(bytes(changed)) is None] += 1
    assert min(outcomes.values()) > 100  # both ends are reached, so the test tests something


def test_random_damage() -> None:
    raw = b"".join([PARTS[0].header(), *PARTS[0].data()])
    dice = random.Random(4)
    for _ in range(5000):
        changed = bytearray(raw)
        for _ in range(dice.choice([1, 2, 8, 40])):
            at, size = dice.randrange(len(changed)), dice.choice([1, 4, 8])
            new = [bytes(size), b"\xff" * size, dice.randbytes(size), struct.pack("<Q", 1 << 62)[:size]]
            changed[at : at + size] = dice.choice(new)
        refused_bytes(bytes(changed[: dice.choice([len(changed), dice.randrange(len(changed))])]))


def test_random_bytes() -> None:
    dice = random.Random(5)
    for _ in range(2000):
        assert refused_bytes(b"GGUF\3\0\0\0" + dice.randbytes(dice.randrange(200)))


def pair(key: str, kind: int, body: bytes) -> bytes:
    return encode_string(key) + struct.pack("<I", kind) + body


def gguf(*pairs: bytes, tensors: bytes = b"", counts: tuple[int, int] | None = None, version: int = 3) -> bytes:
    tensor_count, pair_count = counts or (0, len(pairs))
    return b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs) + tensors


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return encode_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = encode_pair("general.architecture", V.STRING, TEXT)
STRING, ARRAY, U8, U64 = 8, 9, 0, 10
HUGE = (1 << 64) - 1
HOSTILE = {
    "nothing after the magic": (b"GGUF", "not a GGUF file"),
    "another magic": (b"GGML" + bytes(60), "not a GGUF file"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(60), "version 50331648 is not supported"),
    "version 2": (gguf(ARCHITECTURE, version=2), "version 2 is not supported"),
    "no architecture": (gguf(encode_pair("a", V.BOOL, True)), "names no general.architecture"),
    "a number as architecture": (
        gguf(encode_pair("general.architecture", V.UINT32, 4)),
        "names no general.architecture",
    ),
    "a key twice": (gguf(ARCHITECTURE, ARCHITECTURE), "'general.architecture' a second time"),
    "a tensor twice": (
        gguf(ARCHITECTURE, tensors=tensor("a", (8,)) * 2 + bytes(99), counts=(2, 1)),
        "'a' a second time",
    ),
    "2^64 keys": (gguf(ARCHITECTURE, counts=(0, HUGE)), "keys"),
    "2^64 tensors": (gguf(ARCHITECTURE, counts=(HUGE, 1)), "tensors"),
    "too many keys": (gguf(ARCHITECTURE, counts=(0, MAX_ENTRIES + 1)), "keys"),
    "a key of 2^64 bytes": (gguf(struct.pack("<Q", HUGE)), "a key of"),
    "a key that is no text": (gguf(struct.pack("<Q", 2) + b"\xff\xfe" + bytes(20)), "not UTF-8"),
    "a string of 2^64 bytes": (gguf(pair("a", STRING, struct.pack("<Q", HUGE))), "a string of"),
    "a string past the end": (gguf(pair("a", STRING, struct.pack("<Q", 1000))), "past the end"),
    "an unknown value type": (gguf(pair("a", 99, bytes(8))), "unknown value type 99"),
    "an array of arrays": (gguf(pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1))), "an array of arrays"),
    "an array of an unknown type": (gguf(pair("a", ARRAY, struct.pack("<IQ", 77, 1))), "unknown value type 77"),
    "2^64 numbers": (gguf(pair("a", ARRAY, struct.pack("<IQ", U64, HUGE))), "values runs past the end"),
    "2^61 numbers, 0 bytes by overflow": (gguf(pair("a", ARRAY, struct.pack("<IQ", U64, 1 << 61))), "past the end"),
    "2^64 strings": (gguf(pair("a", ARRAY, struct.pack("<IQ", STRING, HUGE))), "values runs past the end"),
    "strings of 2^64 bytes": (gguf(pair("a", ARRAY, struct.pack("<IQQ", STRING, 1, HUGE))), "past the end"),
    "no dimensions": (gguf(ARCHITECTURE, tensors=tensor("a", ()), counts=(1, 1)), "0 dimensions"),
    "2^32 dimensions": (
        gguf(ARCHITECTURE, tensors=encode_string("a") + struct.pack("<I", (1 << 32) - 1), counts=(1, 1)),
        "dimensions",
    ),
    "an empty dimension": (gguf(ARCHITECTURE, tensors=tensor("a", (0, 8)), counts=(1, 1)), "of shape"),
    "a huge tensor": (gguf(ARCHITECTURE, tensors=tensor("a", (1 << 39,) * 4), counts=(1, 1)), "truncated"),
    "an unknown tensor type": (gguf(ARCHITECTURE, tensors=tensor("a", (8,), 250), counts=(1, 1)), "unknown type 250"),
    "half a block": (gguf(ARCHITECTURE, tensors=tensor("a", (40,), T.Q8_0), counts=(1, 1)), "blocks of 32"),
    "an unaligned tensor": (gguf(ARCHITECTURE, tensors=tensor("a", (8,), 0, 8), counts=(1, 1)), "not a multiple of 32"),
    "a tensor beyond the file": (gguf(ARCHITECTURE, tensors=tensor("a", (8,), 0, 1 << 63), counts=(1, 1)), "truncated"),
    "an alignment of 0": (gguf(ARCHITECTURE, encode_pair("general.alignment", V.UINT32, 0)), "general.alignment is 0"),
    "an alignment of 48": (gguf(ARCHITECTURE, encode_pair("general.alignment", V.UINT32, 48)), "power of two"),
    "an alignment of 2^31": (gguf(ARCHITECTURE, encode_pair("general.alignment", V.UINT32, 1 << 31)), "power of two"),
    "an alignment of words": (gguf(ARCHITECTURE, encode_pair("general.alignment", V.STRING, "32")), "power of two"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(tmp_path: Path, name: str) -> None:
    raw, message = HOSTILE[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(raw)
    assert message in (refused(path) or "it opened")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(struct.pack("<IQ", U8, MAX_VALUES + 1), id="bytes as numbers"),
        pytest.param(struct.pack("<IQ", STRING, MAX_VALUES + 1), id="empty strings"),
        pytest.param(struct.pack("<IQ", U64, 1 << 28), id="numbers"),
    ],
)
def test_absurd_counts_that_fit_a_large_file_cost_nothing(tmp_path: Path, body: bytes) -> None:
    """A 12B's file has room for a billion values: the count must be refused, not read."""
    path = tmp_path / "large.gguf"
    path.write_bytes(gguf(ARCHITECTURE, pair("a", ARRAY, body)))
    with open(path, "r+b") as file:
        file.truncate(8 << 30)  # sparse
    tracemalloc.start()
    begun = time.process_time()
    message = refused(path)
    spent, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message
    assert "more than" in message or "largest header" in message
    assert peak < 1 << 20
    assert spent < 5  # seconds of this process; a read would take minutes


def test_a_string_is_not_a_way_to_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    path.write_bytes(gguf(ARCHITECTURE, pair("a", STRING, struct.pack("<Q", 1 << 30))))
    with open(path, "r+b") as file:
        file.truncate(2 << 30)
    assert "a string of 1,073,741,824 bytes" in (refused(path) or "")


def test_header_of_bytes_and_of_a_mapped_file_agree(whole: Path) -> None:
    raw = whole.read_bytes()
    assert read_header(raw, 0, "bytes") == Bundle.open(whole).text.header


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: p.mkdir(), InputError, "is a folder"),
        (lambda p: p.touch(), FormatError, "the file is empty"),
        (lambda p: p.write_text("hello " * 20), FormatError, "not a GGUF file"),
        (lambda p: None, InputError, "no such file"),
    ],
)
def test_what_is_no_file(tmp_path: Path, make: object, error: type[Gemma4Error], message: str) -> None:
    path = tmp_path / "thing.gguf"
    make(path)  # type: ignore[operator]
    with pytest.raises(error, match=message):
        Bundle.open(path)


def test_tensors_that_are_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    table = place_tensors([("odd", (1, 256), T.Q8_K)])
    write_bundle(path, [Part(TEXT, PARTS[0].pairs, table, lambda: [bytes(padded(table[0].nbytes))])])
    text = Bundle.open(path).text
    with pytest.raises(FormatError, match="no tensor 'even'"):
        text.array("even")
    with pytest.raises(FormatError, match="'odd' is stored as Q8_K"):
        text.array("odd")


# ── writing that fails ───────────────────────────────────────────────────────────────────────────────────────────


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_nothing_is_replaced_without_force(tmp_path: Path, whole: Path) -> None:
    before = listing(tmp_path)
    with pytest.raises(ConversionError, match=r"exists already.*--force"):
        write_bundle(whole, PARTS[:1])
    assert listing(tmp_path) == before
    write_bundle(whole, PARTS[:1], force=True)
    assert len(Bundle.open(whole).sections) == 1
    assert [p.name for p in tmp_path.iterdir()] == [whole.name]


@pytest.mark.parametrize(
    ("out", "message"),
    [("none/a.gguf", "no such folder"), (".", "is a folder"), ("file/a.gguf", "no such folder")],
)
def test_places_that_cannot_be_written(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match=message):
        write_bundle(tmp_path / out, PARTS)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_more_than_the_disk_holds_is_refused_at_once(tmp_path: Path) -> None:
    table = place_tensors([("a", (1 << 30, 1 << 20), T.F32)])
    with pytest.raises(ConversionError, match="the disk has"):
        write_bundle(tmp_path / "a.gguf", [Part(TEXT, PARTS[0].pairs, table, lambda: [])])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [ValueError("broken"), KeyboardInterrupt(), ConversionError("not finite")])
def test_a_source_that_fails_leaves_nothing(tmp_path: Path, whole: Path, failure: BaseException) -> None:
    def data() -> Iterator[bytes]:
        yield bytes(8)
        raise failure

    before = listing(tmp_path)
    broken = Part(EMBEDDER, PARTS[1].pairs, PARTS[1].tensors, data)
    with pytest.raises(type(failure)):
        write_bundle(whole, [PARTS[0], broken], force=True)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("pieces", [[], [bytes(64)], [bytes(1000)]])
def test_a_source_of_another_size_than_planned(tmp_path: Path, pieces: list[bytes]) -> None:
    wrong = Part(EMBEDDER, PARTS[1].pairs, PARTS[1].tensors, lambda: pieces)
    with pytest.raises(ConversionError, match=r"came to .* planned"):
        write_bundle(tmp_path / "a.gguf", [PARTS[0], wrong])
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path, whole: Path) -> None:
    """The system refuses to let the file grow, at each of many sizes."""
    before = listing(tmp_path)
    total = place_sections(PARTS).total
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, total, total // 12):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            with pytest.raises(ConversionError, match=r"writing failed .*nothing was left behind"):
                write_bundle(whole, PARTS, force=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert listing(tmp_path) == before


def test_a_second_writer_is_told_and_harms_nothing(tmp_path: Path, whole: Path) -> None:
    started, go = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def slow() -> Iterator[bytes]:
        started.set()
        assert go.wait(60)
        yield from PARTS[1].data()

    def first() -> None:
        try:
            write_bundle(
                tmp_path / "a.gguf", [PARTS[0], Part(EMBEDDER, PARTS[1].pairs, PARTS[1].tensors, slow), PARTS[2]]
            )
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(60)
    with pytest.raises(ConversionError, match="another conversion is writing this file"):
        write_bundle(tmp_path / "a.gguf", PARTS)
    go.set()
    thread.join(60)
    assert not failures
    assert (tmp_path / "a.gguf").read_bytes() == whole.read_bytes()


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path, whole: Path) -> None:
    path, outcomes = tmp_path / "a.gguf", []

    def work() -> None:
        try:
            write_bundle(path, PARTS, force=True)
            outcomes.append("written")
        except ConversionError as error:
            outcomes.append(str(error))

    for _ in range(10):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert path.read_bytes() == whole.read_bytes()
    assert len(outcomes) == 80
    assert outcomes.count("written") >= 10
    assert all(o == "written" or "another conversion is writing this file" in o for o in outcomes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "whole.gguf"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "a.gguf"

    def data() -> Iterator[bytes]:
        out.write_text("somebody else's")
        yield from PARTS[0].data()

    with pytest.raises(ConversionError, match="exists already"):
        write_bundle(out, [Part(TEXT, PARTS[0].pairs, PARTS[0].tensors, data)])
    assert listing(tmp_path) == {"a.gguf": b"somebody else's"}


def test_what_a_killed_run_left_is_used_again(tmp_path: Path, whole: Path) -> None:
    (tmp_path / ".a.gguf.partial").write_bytes(b"x" * 1_000_000)
    write_bundle(tmp_path / "a.gguf", PARTS)
    assert (tmp_path / "a.gguf").read_bytes() == whole.read_bytes()
    assert not (tmp_path / ".a.gguf.partial").exists()


def test_a_symbolic_link_is_written_through_and_a_device_never(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, pipe = tmp_path / "link.gguf", tmp_path / "pipe.gguf"
    link.symlink_to(tmp_path / "disk" / "a.gguf")
    write_bundle(link, PARTS, force=True)
    assert link.is_symlink()
    assert (tmp_path / "disk" / "a.gguf").read_bytes() == whole.read_bytes()
    os.mkfifo(pipe)
    with pytest.raises(ConversionError, match="no ordinary file"):
        write_bundle(pipe, PARTS, force=True)
    assert pipe.is_fifo()


@pytest.mark.parametrize("call", ["flock", "fsync of the folder"])
def test_file_systems_that_can_do_less(tmp_path: Path, whole: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if call == "flock":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setattr("gemma4gguf.bundle.newfile._sync_folder", refuse)
    write_bundle(tmp_path / "a.gguf", PARTS)
    assert (tmp_path / "a.gguf").read_bytes() == whole.read_bytes()


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    told: list[int] = []
    plan = write_bundle(tmp_path / "a.gguf", PARTS, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == sum(plan.sizes)


def test_empty_arrays_are_not_written() -> None:
    with pytest.raises(ValueError, match="empty array"):
        encode_array("a", V.INT32, [])


def test_header_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(encode_header([ARCHITECTURE], []))
    assert refused(path) is None
    assert Bundle.open(path).text.tensors == {}
