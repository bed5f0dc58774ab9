"""Writing a bundle: the whole file or none, whatever fails, and whoever else writes."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import (
    encode_array,
    place_tensors,
)
from gemma4gguf.bundle.reading import EMBEDDER, TEXT, Bundle
from gemma4gguf.bundle.writing import Part, place_sections, write_bundle
from gemma4gguf.errors import ConversionError
from tests.support.bundles import PARTS


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_nothing_is_replaced_without_force(tmp_path: Path, whole: Path) -> None:
    before = listing(tmp_path)
    with pytest.raises(ConversionError, match=r"exists already.*force=True"):
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
        monkeypatch.setattr("gemma4gguf.bundle.newfile.sync_folder", refuse)
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
