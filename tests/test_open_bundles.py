"""A bundle that changes while it is open ends in an error; `~` in paths; what llama.cpp's log leaves behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.imatrix import read_imatrix
from converters.origin import locate
from gemma4gguf import Bundle, Gemma4, pack
from gemma4gguf.arguments import local_path
from gemma4gguf.bundle.finding import find_model
from gemma4gguf.errors import FormatError, Gemma4Error, InputError
from gemma4gguf.media.audio import frame
from gemma4gguf.media.rgb import to_rgb
from gemma4gguf.native.library import started

DATA = Path(__file__).parent / "data" / "media"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


def write_in_place(path: Path) -> None:
    path.write_bytes(b"another file")


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def replace(path: Path) -> None:
    shutil.copy2(path, other := path.with_suffix(".new"))
    other.replace(path)


CHANGES = [truncate, cut_to_nothing, overwrite, write_in_place, append, replace]


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_that_changed_while_open_is_an_error(
    tiny_bundle: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """llama.cpp maps the file: a read behind its new end would end the process, and changed bytes change answers."""
    path = Path(shutil.copy2(tiny_bundle, tmp_path / "open.gguf"))
    with Gemma4(path, context=256, draft=2) as model:
        assert model.generate("What is 47 + 38?", temperature=0, max_tokens=8).text
        change(path)
        for ask in (
            lambda: model.generate("What is 47 + 38?", temperature=0, max_tokens=8),
            lambda: model.stream("What is 11 + 12?"),
            lambda: model.chat([{"role": "user", "content": "What number is this?"}]),
            lambda: model.generate("What number is this?", images=[DATA / "waves_160x120.png"]),
            lambda: model.evaluate("What is 47 + 38?"),
        ):
            with pytest.raises(FormatError, match=r"open\.gguf: was changed or replaced after it was opened; open it"):
                ask()


def test_a_bundle_that_is_gone_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy2(tiny_bundle, tmp_path / "open.gguf"))
    with Gemma4(path, context=256) as model:
        model.load()
        path.unlink()
        with pytest.raises(InputError, match=r"open\.gguf: no such file"):
            model.generate("What is 47 + 38?")


def test_home_in_paths(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "m.gguf").symlink_to(tiny_bundle)
    shutil.copy(DATA / "waves_160x120.png", tmp_path / "a.png")
    assert Bundle.open("~/m.gguf").path == Bundle.open(Path("~/m.gguf")).path == tmp_path / "m.gguf"
    assert find_model("~/m.gguf") == locate("~/m.gguf").path == tmp_path / "m.gguf"
    assert to_rgb("~/a.png").size == (160, 120)
    assert pack("~/m.gguf", "~/n.gguf").path == tmp_path / "n.gguf"
    assert (tmp_path / "n.gguf").is_file()
    with Gemma4("~/m.gguf") as model:
        assert model.bundle.path == tmp_path / "m.gguf"


@pytest.mark.parametrize("path", ["~nobody-of-this-name/a", "~nobody-of-this-name", "a/~/b", "\0"])
def test_no_home_is_no_traceback(path: str) -> None:
    assert local_path(path) == Path(path)
    readers: list[Callable[[str], object]] = [Bundle.open, locate, read_imatrix, to_rgb, frame]
    for read in readers:
        with pytest.raises(Gemma4Error):
            read(path)


def test_only_errors_of_llama_cpp_are_kept_for_messages() -> None:
    log = started()
    log.last()
    for level, text in (
        (2, b"info\n"),
        (3, b"a warning\n"),
        (5, b"its rest\n"),
        (4, b"an error\n"),
        (5, b" goes on\n"),
    ):
        log._write(level, text, None)
    assert log.last() == " (an error; goes on)"
    assert log.last() == ""
