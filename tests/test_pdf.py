"""Pages of a PDF: drawn, chosen, with their text; and what cannot be used."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pypdfium2.raw
import pytest
from click.testing import CliRunner
from PIL import Image

from gemma4gguf import pages
from gemma4gguf.cli import cli
from gemma4gguf.cli.media import media_of
from gemma4gguf.errors import InputError
from gemma4gguf.media.image import patchify
from gemma4gguf.media.pdf import MOST_PAGES

A4 = (595, 842)  # points
COLOURS = ("red", "lime", "blue")


def pdf(*colours: str) -> bytes:
    """A page of each colour, by Pillow."""
    buffer = io.BytesIO()
    first, *others = (Image.new("RGB", A4, colour) for colour in colours)
    first.save(buffer, "PDF", save_all=True, append_images=others)
    return buffer.getvalue()


def written(text: str) -> bytes:
    """A page with a text, by PDFium."""
    document = pypdfium2.PdfDocument.new()
    page = document.new_page(*A4)
    thing = pypdfium2.raw.FPDFPageObj_NewTextObj(document, b"Helvetica", 12.0)
    letters = (text + "\0").encode("utf-16-le")
    wide = (pypdfium2.raw.FPDF_WCHAR * (len(text) + 1)).from_buffer_copy(letters)
    pypdfium2.raw.FPDFText_SetText(thing, wide)
    pypdfium2.raw.FPDFPageObj_Transform(thing, 1, 0, 0, 1, 72, 700)
    pypdfium2.raw.FPDFPage_InsertObject(page, thing)
    page.gen_content()
    buffer = io.BytesIO()
    document.save(buffer)
    document.close()
    return buffer.getvalue()


def colours(found: list[Any]) -> list[str]:
    names = {(255, 0, 0): "red", (0, 255, 0): "lime", (0, 0, 255): "blue"}
    middles = [page.picture.getpixel((page.picture.width // 2, page.picture.height // 2)) for page in found]
    return [min(names.items(), key=lambda item: np.abs(np.subtract(item[0], middle)).sum())[1] for middle in middles]


def test_pages_are_drawn_upright_and_as_large_as_the_model_looks_at_them() -> None:
    found = pages(pdf(*COLOURS))
    assert colours(found) == list(COLOURS)
    assert [page.number for page in found] == [1, 2, 3]
    assert found[0].picture.size == (-(-2304 * A4[0] // A4[1]), 2304)
    assert len(patchify(found[0].picture, 1120)) > 1000


@pytest.mark.parametrize(
    ("which", "numbers"),
    [("", [1, 2, 3]), ("2", [2]), ("2-3", [2, 3]), ("2-", [2, 3]), ("3,1", [3, 1]), (" 1 - 2 ", [1, 2])],
)
def test_which_pages(which: str, numbers: list[int]) -> None:
    assert [page.number for page in pages(pdf(*COLOURS), which)] == numbers


def test_the_text_of_a_page(tmp_path: Path) -> None:
    path = tmp_path / "letter.pdf"
    path.write_bytes(written("You owe us 12 pounds."))
    with open(path, "rb") as file:
        for source in (path, str(path), file):
            assert [page.text for page in pages(source)] == ["You owe us 12 pounds."]
    assert not pages(pdf("red"))[0].text


def locked() -> bytes:
    """A PDF with a password that nobody knows."""
    keys = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O <" + b"00" * 32 + b"> /U <" + b"11" * 32 + b"> /P -4 >>"
    head, mark, tail = pdf("red").rpartition(b"trailer")
    return head + mark + tail.replace(b"<<", b"<< /ID [<00> <00>] " + keys, 1)


@pytest.mark.parametrize(
    ("source", "which", "message"),
    [
        (pdf("red"), "2", "pages 2: it has 1; choose pages of 1 to 1"),
        (pdf("red"), "0", "pages 0: it has 1"),
        (pdf(*COLOURS), "3-2", "pages 3-2: it has 3"),
        (pdf("red"), "a", "pages 'a': expected such as 3, 2-4 or 1,5-"),
        (pdf(*["red"] * (MOST_PAGES + 1)), "", "33 pages, 32 at a time are the most; choose some, such as 1-32"),
        (locked(), "", "an encrypted PDF; decrypt it first"),
        (pdf("red")[:200], "", "a damaged PDF; get the file again"),
        (b"%PDF-1.7\n", "", "a damaged PDF"),
        (b"hello", "", r"the PDF \(5 bytes\): not a PDF"),
        ("no/such.pdf", "", "no/such.pdf: No such file"),
        (5, "", "a PDF given as int"),
    ],
)
def test_what_cannot_be_used(source: Any, which: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        pages(source, which)
    assert str(raised.value).isprintable()


def test_damaged_pages_raise_nothing_but_input_errors() -> None:
    whole = np.frombuffer(pdf(*COLOURS), np.uint8)
    rng = np.random.default_rng(9)
    refused: list[str] = []
    for _ in range(20):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 30)] = rng.integers(0, 256, 30)
        try:
            assert pages(damaged.tobytes())
        except InputError as error:
            refused.append(str(error))
    assert all(map(str.isprintable, refused))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(
        InputError, match=r"it is a PDF; pip install 'gemma4gguf\[media\]' lets it be read, or .*pdftoppm"
    ):
        pages(pdf("red"))
    with pytest.raises(InputError, match=r"it is a PDF; take its pages by gemma4gguf.pages"):
        patchify(pdf("red"))


def asked(**given: Any) -> dict[str, Any]:
    """Options as `generate` gets them."""
    nothing = {"images": (), "audio": (), "videos": (), "pdf_text": False, "video_sound": False}
    return nothing | dict.fromkeys(("frames", "frame_tokens", "start", "end")) | given


def test_pages_on_the_command_line(tmp_path: Path) -> None:
    for name, data in (("a.pdf", pdf(*COLOURS)), ("odd#1.png", b"x"), ("letter.pdf", written("Hello"))):
        (tmp_path / name).write_bytes(data)
    seen = media_of(asked(images=(f"{tmp_path}/a.pdf#2-3", f"{tmp_path}/odd#1.png"))).keywords["images"]
    assert [picture.getpixel((9, 9))[2] > 200 for picture in seen[:2]] == [False, True]
    assert seen[2] == f"{tmp_path}/odd#1.png"
    given = media_of(asked(images=(f"{tmp_path}/letter.pdf", f"{tmp_path}/a.pdf#1"), pdf_text=True))
    assert len(given.keywords["images"]) == 2
    assert given.texts == ["Text of page 1 of letter.pdf:\nHello"]


def test_what_is_refused_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("red"))
    for arguments, message in (
        (["--image", f"{tmp_path}/a.pdf#4"], "a.pdf: pages 4: it has 1; choose pages of 1 to 1"),
        (["--image", f"{tmp_path}/a.pdf", "--pdf-text"], "--pdf-text: no page with a text was given"),
        (["--frames", "4"], "--frames, --frame-tokens, --from, --to and --video-sound go with --video"),
        (["--video", "a.mp4", "--from", "soon"], "'soon': expected seconds, mm:ss or hh:mm:ss"),
        (["--video", "a.mp4", "--from", "1:30", "--to", "1:00"], "--to is 60.0, expected seconds, after the start"),
        (["--video", "a.mp4", "--frames", "0"], "--frames is 0, expected a whole number, 1 to 1,024"),
    ):
        result = CliRunner().invoke(cli, ["generate", str(tiny_bundle), "What?", *arguments])
        assert message in result.stderr, result.stderr


def test_a_video_on_the_command_line() -> None:
    found = media_of(asked(videos=("a.mp4",), start=90.0, frames=8, video_sound=True)).keywords["videos"]
    assert (found[0].source, found[0].start, found[0].frames, found[0].sound) == ("a.mp4", 90.0, 8, True)
