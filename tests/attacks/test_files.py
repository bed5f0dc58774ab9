"""What is no file, files that change between open and load, and headers that cost more than they are worth."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import encode_header, encode_pair, encode_string, padded
from gemma4gguf.bundle.reading import SECTION_ALIGNMENT, TEXT, Bundle
from gemma4gguf.errors import FormatError, InputError
from gemma4gguf.limits import Limits, limited
from gemma4gguf.media.embedder import Embedder
from gemma4gguf.model import Gemma4
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.loading import in_place, load
from tests.support.attacks import one_line

# ── no file at all ───────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _socket(path: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        yield path


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def _inside(path: Path) -> Path:
    path.touch()
    return path / "x.gguf"


NO_FILES: dict[str, Callable[[Path], Path]] = {
    "a pipe": _fifo,  # opening one waits for a writer for ever
    "a device without end": lambda path: Path("/dev/zero"),
    "a device without bytes": lambda path: Path("/dev/null"),
    "a terminal": lambda path: Path("/dev/tty") if Path("/dev/tty").exists() else Path("/dev/null"),
    "a folder": lambda path: path.parent,
    "nothing": lambda path: path,
    "a name with a NUL": lambda path: Path(f"{path}\0x"),
    "a name too long": lambda path: path.with_name("x" * 5000),
    "a link to nothing": lambda path: _link(path, path.with_name("gone")),
    "a link to itself": lambda path: _link(path, path),
    "a file as a folder": _inside,
}


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_told_at_once(name: str, tmp_path: Path) -> None:
    path = NO_FILES[name](tmp_path / "thing.gguf")
    with pytest.raises(InputError) as told:
        Gemma4(path)
    assert "\n" not in str(told.value)


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with _socket(Path("s.gguf")) as path, pytest.raises(InputError, match="a pipe or a device"):
        Gemma4(path)


# ── another file than the one that was read ──────────────────────────────────────────────────────────────────────


def _rename(path: Path, other: Path) -> None:
    other.replace(path)


def _rewrite(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(0, 0))


def _truncate(path: Path, _: Path) -> None:
    os.truncate(path, 1000)


def _grow(path: Path, _: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("swap", [_rename, _rewrite, _truncate, _grow])
def test_a_swap_between_open_and_load_is_noticed(
    small: Path, tmp_path: Path, swap: Callable[[Path, Path], None]
) -> None:
    path, other = (Path(shutil.copy(small, tmp_path / name)) for name in ("a.gguf", "b.gguf"))
    with Gemma4(path, context=64, threads=1) as model:
        swap(path, other)
        with pytest.raises(FormatError, match="changed or replaced after it was opened"):
            model.generate("Hi", max_tokens=3)


@pytest.mark.parametrize("swap", [_rename, _truncate])
def test_the_embedder_notices_it_too(small: Path, tmp_path: Path, swap: Callable[[Path, Path], None]) -> None:
    path, other = (Path(shutil.copy(small, tmp_path / name)) for name in ("a.gguf", "b.gguf"))
    embedder = Embedder(path)
    swap(path, other)
    with pytest.raises(FormatError, match="changed or replaced after it was opened"):
        embedder.audio(np.zeros((1, 640), np.float32))


def test_a_file_that_goes_between_open_and_load(small: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(small, tmp_path / "a.gguf"))
    bundle = Bundle.open(path)
    path.unlink()
    one_line(lambda: load(bundle.text), path)


def test_c_gets_the_file_that_was_compared(small: Path, tmp_path: Path) -> None:
    """The last moment for a swap lies between the comparison and C's own reading: C is given the open file."""
    path, other = Path(shutil.copy(small, tmp_path / "a.gguf")), tmp_path / "b.gguf"
    other.write_bytes(b"GGUF")
    section = Bundle.open(path).text
    with section.open() as file, in_place(section, file) as (name, offset, descriptor):
        other.replace(path)
        with Weights(name, offset=offset, descriptor=descriptor) as weights:
            assert weights.vocab.size == 1024


# ── headers that cost too much ───────────────────────────────────────────────────────────────────────────────────


def _array(key: str, kind: V, count: int, body: bytes) -> bytes:
    return encode_string(key) + struct.pack("<IIQ", V.ARRAY, kind, count) + body


def _sections(path: Path, *pairs: bytes, count: int = 1, architecture: str = TEXT) -> Path:
    """Sections that hold nothing but these keys."""
    header = encode_header([encode_pair("general.architecture", V.STRING, architecture), *pairs], [])
    one = header + bytes(padded(len(header), SECTION_ALIGNMENT) - len(header))
    with path.open("wb") as file:
        for _ in range(count):
            file.write(one)
    return path


MANY = Limits().numbers // 2
COSTLY: dict[str, tuple[Callable[[Path], Path], str]] = {
    "bytes as numbers, over sections": (
        lambda path: _sections(path, _array("a", V.UINT8, MANY, bytes(MANY)), count=4),
        "more than the 0 that",
    ),
    "numbers, over keys": (
        lambda path: _sections(path, *(_array(f"k{i}", V.INT8, MANY, bytes(MANY)) for i in range(3))),
        "more than the 0 that",
    ),
    "empty strings": (
        lambda path: _sections(path, _array("a", V.STRING, Limits().strings + 1, bytes(8 * (Limits().strings + 1)))),
        "more than the",
    ),
    "long strings": (
        lambda path: _sections(path, *(encode_pair(f"k{i}", V.STRING, "x" * Limits().string_bytes) for i in range(9))),
        "largest header",
    ),
    "sections": (lambda path: _sections(path, count=Limits().sections + 1), "more than 8 sections"),
    "keys, over sections": (
        lambda path: _sections(
            path, *(encode_pair(f"k{i}", V.UINT8, 1) for i in range(Limits().entries // 2 - 1)), count=3
        ),
        f"at most {Limits().entries:,}",
    ),
    "a long key": (lambda path: _sections(path, encode_pair("k" * 5000, V.UINT8, 1)), "a key of 5,000 bytes"),
    "a long architecture": (
        lambda path: _sections(path, architecture="x" * 99_999),
        "names no general.architecture",
    ),
}


@pytest.mark.parametrize("name", COSTLY)
def test_headers_that_cost_too_much(name: str, tmp_path: Path) -> None:
    make, message = COSTLY[name]
    path = make(tmp_path / "costly.gguf")
    tracemalloc.start()
    begun = time.process_time()
    told = one_line(lambda: Bundle.open(path), path)
    spent, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in told
    assert peak < 400 << 20
    assert spent < 60  # traced, on a busy machine; unbounded it took minutes


TIGHT = [{"sections": 2}, {"header_bytes": 1000}, {"entries": 10}, {"numbers": 10}, {"strings": 10}]


@pytest.mark.parametrize("limits", TIGHT)
def test_limits_are_options(small: Path, limits: dict[str, float]) -> None:
    assert Bundle.open(small)
    with limited(**limits):
        one_line(lambda: Bundle.open(small), small)


def test_a_vocabulary_of_the_12b_is_far_inside_the_limits() -> None:
    """Two sections with 262,144 tokens and 514,906 merges each."""
    assert Limits().strings > 2 * (262_144 + 514_906)
    assert Limits().numbers > 2 * 2 * 262_144
    assert Limits().header_bytes / 2 > 2 * 15_000_000
    assert Limits().entries > 2 * 700
