"""A text model in several files: joined without a changed byte, or refused in one line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import encode_pair
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle
from gemma4gguf.bundle.split import siblings
from gemma4gguf.errors import Gemma4Error
from gemma4gguf.tools.pack import pack
from tests.support.parts import cut
from tests.support.splitting import split


@pytest.mark.parametrize("empty_first", [False, True])
@pytest.mark.parametrize("given", [0, 2])
def test_files_become_one_section(bundle: Path, tmp_path: Path, given: int, empty_first: bool) -> None:
    """Whichever of them is named; llama.cpp's option --no-tensor-first-split leaves the first without tensors."""
    files = split(Bundle.open(bundle).text, tmp_path / "text", 3, empty_first=empty_first)
    pack(
        files[given],
        tmp_path / "out.gguf",
        embedder=cut(bundle, EMBEDDER, tmp_path / "mmproj.gguf"),
        drafter=cut(bundle, DRAFTER, tmp_path / "drafter.gguf"),
    )
    assert (tmp_path / "out.gguf").read_bytes() == bundle.read_bytes()


def test_names() -> None:
    assert siblings("a-00002-of-00003.gguf") == [f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for other in ("a.gguf", "a-00000-of-00003.gguf", "a-00004-of-00003.gguf", "a-1-of-3.gguf", "a-00001-of-00003.txt"):
        assert siblings(other) == []


def _rewritten(path: Path, **numbers: int) -> Path:
    """The same file with other numbers in its split keys."""
    raw = path.read_bytes()
    for key, value in numbers.items():
        kind = V.INT32 if key == "tensors_count" else V.UINT16
        name = "split." + key.replace("_", ".")
        at = re.search(re.escape(encode_pair(name, kind, 0)[: -2 - 2 * (kind is V.INT32)]), raw)
        assert at is not None
        new = encode_pair(name, kind, value)
        raw = raw[: at.start()] + new + raw[at.start() + len(new) :]
    path.write_bytes(raw)
    return path


FAULTS: dict[str, tuple[Callable[[list[Path]], object], str]] = {
    "one is missing": (lambda f: f[1].unlink(), "00002-of-00003.gguf: no such file; .* one of 3 files"),
    "two are swapped": (
        lambda f: [shutil.move(f[1], f[0].parent / "x"), shutil.move(f[2], f[1]), shutil.move(f[0].parent / "x", f[2])],
        "00002-of-00003.gguf: split.no and split.count are 2 and 3, expected 1 and 3",
    ),
    "one of another split": (lambda f: _rewritten(f[2], count=4), "are 2 and 4, expected 2 and 3"),
    "a tensor too few": (lambda f: _rewritten(f[0], tensors_count=999), r"hold \d+ tensors, expected 999"),
    "tensors twice": (
        lambda f: [shutil.copy(f[1], f[2]), _rewritten(f[2], no=2)],
        r"00001-of-00003.gguf: its 3 files hold \d+ tensors, \d+ of them twice",
    ),
    "one is truncated": (lambda f: f[2].write_bytes(f[2].read_bytes()[:-5000]), "00003-of-00003.gguf: truncated"),
    "one is no GGUF": (lambda f: f[1].write_bytes(b"<html>" * 9), "00002-of-00003.gguf: not a GGUF file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_are_not_one_model(name: str, bundle: Path, tmp_path: Path) -> None:
    spoil, message = FAULTS[name]
    files = split(Bundle.open(bundle).text, tmp_path / "text", 3)
    spoil(files)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Gemma4Error, match=message) as failure:
        pack(files[0], tmp_path / "out.gguf")
    assert "\n" not in str(failure.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_split_of_another_model(bundle: Path, tmp_path: Path) -> None:
    drafter = Bundle.open(bundle).require(DRAFTER)
    files = split(replace(drafter, architecture=TEXT), tmp_path / "text", 3)
    with pytest.raises(Gemma4Error, match="holds an MTP drafter, expected a Gemma 4 text model"):
        pack(files[0], tmp_path / "out.gguf")


def test_a_part_as_the_model_says_what_to_type(bundle: Path, tmp_path: Path) -> None:
    files = split(Bundle.open(bundle).text, tmp_path / "text", 3)
    for file in files:
        with pytest.raises(Gemma4Error, match="is one of 3 parts; join them first with `gemma4gguf pack "):
            Bundle.open(file)
    for architecture, option in ((EMBEDDER, "--embedder"), (DRAFTER, "--drafter")):
        part = cut(bundle, architecture, tmp_path / f"{architecture}.gguf")
        with pytest.raises(Gemma4Error, match=f"`gemma4gguf pack TEXT OUT {option} .*{architecture}.gguf`"):
            Bundle.open(part)
