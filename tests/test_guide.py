"""Every Python block of docs/guide.md and README.md runs, and prints what its comments say."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from gemma4gguf import Gemma4
from tests.support.recorded import moving, video_file

ROOT = Path(__file__).parent.parent
PAGE = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("docs/guide.md", "README.md"))
SECTIONS = re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(code, id=f"{title}-{number}")
    for title, text in SECTIONS
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
]


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the guide's files are: the small model, a picture, a clip, a photograph, a checkpoint."""
    here, models = tmp_path_factory.mktemp("guide"), ROOT / "models"
    files = {"cat.jpg": "demo/cat.jpg", "digits.png": "demo/digits.png", "note.wav": "demo/number.wav"}
    for name, source in files.items():
        shutil.copy(models / source, here / name)
    (here / "clip.mp4").write_bytes(video_file("mp4", "libx264", moving(120, 90, 160), 24))
    Image.new("RGB", (595, 842)).save(here / "letter.pdf", save_all=True, append_images=[Image.new("RGB", (595, 842))])
    (here / "gemma.gguf").symlink_to(tiny_bundle)
    (here / "checkpoint").symlink_to(models / "tiny")
    (here / "checkpoint-assistant").symlink_to(models / "tiny-assistant")
    return here


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Gemma4]:
    """What the blocks after the first call `model`."""
    with Gemma4(folder / "gemma.gguf") as opened:
        yield opened


def test_the_pages_have_blocks() -> None:
    assert len(BLOCKS) == PAGE.count("```python")
    assert len(BLOCKS) > 10


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_runs(code: str, folder: Path, model: Gemma4, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "a page", "exec"), {"model": model})
    wanted = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert [line for line in printed.getvalue().splitlines() if line in wanted] == wanted, printed.getvalue()
