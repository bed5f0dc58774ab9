"""Hostile and damaged files: opening one is an error of one line, and never does harm."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import (
    LazyStrings,
    encode_header,
    encode_pair,
    encode_string,
    padded,
    place_tensors,
    read_header,
)
from gemma4gguf.bundle.reading import TEXT, Bundle
from gemma4gguf.bundle.writing import Part, write_bundle
from gemma4gguf.errors import FormatError, Gemma4Error, InputError
from gemma4gguf.limits import Limits
from tests.support.bundles import PARTS


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
    "big-endian": (b"GGUF\0\0\0\3" + bytes(60), "is a big-endian GGUF"),
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
    "too many keys": (gguf(ARCHITECTURE, counts=(0, Limits().entries + 1)), "keys"),
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
    "strings of 2^63 bytes": (
        gguf(pair("a", ARRAY, struct.pack("<IQQQ", STRING, 2, 1 << 63, 0))),
        "an array of 2 strings runs past the end",
    ),
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


class Fetched:
    """Bytes elsewhere, as of a file on the Hub, and how far somebody looked."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.seen = raw, 0

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, where: slice) -> bytes:
        self.seen = max(self.seen, where.stop)
        return self.raw[where]


def test_a_long_string_far_away_is_not_fetched() -> None:
    """Strings that lead beyond the longest header are refused before anybody looks there."""
    strings = struct.pack("<IQQ", STRING, 2, 1 << 39)
    fetched = Fetched(gguf(ARCHITECTURE, pair("a", ARRAY, strings)))
    with pytest.raises(FormatError, match="runs past the end of the largest header"):
        read_header(fetched, 0, "FILE")
    assert fetched.seen <= len(fetched.raw)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(tmp_path: Path, name: str) -> None:
    raw, message = HOSTILE[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(raw)
    assert message in (refused(path) or "it opened")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(struct.pack("<IQ", U8, Limits().numbers + 1), id="bytes as numbers"),
        pytest.param(struct.pack("<IQ", STRING, Limits().strings + 1), id="empty strings"),
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


def test_header_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(encode_header([ARCHITECTURE], []))
    assert refused(path) is None
    assert Bundle.open(path).text.tensors == {}
