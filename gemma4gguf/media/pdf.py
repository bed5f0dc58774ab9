"""Pages of a PDF as pictures, and the text that lies behind them.

A path, bytes or an open file comes in, and which pages; `Page`s go out, each drawn at the size of the largest picture
that the model looks at. Needs the extra `media` (pypdfium2). Runs no scripts and opens no links: only pages are drawn.
"""

from __future__ import annotations

import re
import threading
from importlib import import_module
from typing import Any, NamedTuple

from PIL import Image

from ..errors import InputError
from .kinds import EXTRA
from .source import FileInput, is_file, opened, told

MOST_PAGES = 32  # at a time
LONGEST_SIDE = 2304  # pixels of a page: at 1,120 soft tokens, an A4 page has 1,100 x 1,600 when the model sees it
_TO_PNG = "make pictures of its pages with: pdftoppm -png -r 150 FILE page"
_DRAWING = threading.Lock()  # PDFium is not made for threads


class Page(NamedTuple):
    """One page: its number from 1, an RGB picture of it, and its text, empty where it is a scan."""

    number: int
    picture: Image.Image
    text: str


def pages(pdf: FileInput, which: str = "") -> list[Page]:
    """Pages of a PDF. `which`: such as `3`, `2-4` or `1,5-`; empty for all, of which there may be 32 at most.

    Raises InputError for a file that is no PDF, encrypted or damaged, and for pages that it does not have.
    """
    if not is_file(pdf):
        raise InputError(f"a PDF given as {type(pdf).__name__}: expected a path, bytes or an open file")
    with opened(pdf, "the PDF") as (name, file), told(name):
        data = file.read()
    if b"%PDF" not in data[:1024]:
        raise InputError(f"{name}: not a PDF")
    try:
        library: Any = import_module("pypdfium2")
    except ImportError as error:
        raise InputError(f"{name}: it is a PDF; {EXTRA} lets it be read, or {_TO_PNG}") from error
    with _DRAWING:
        try:
            document = library.PdfDocument(data)
        except library.PdfiumError as error:
            if "password" in str(error).lower():
                raise InputError(f"{name}: an encrypted PDF; decrypt it first") from error
            raise InputError(f"{name}: a damaged PDF; get the file again") from error
        try:
            return [_page(library, document, number, name) for number in _numbers(which, len(document), name)]
        finally:
            document.close()


def _numbers(which: str, count: int, name: str) -> list[int]:
    """Numbers of pages, from 1, in the order asked for."""
    found: list[int] = []
    for part in which.split(",") if which else [f"1-{count}"]:
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?)?\s*", part)
        if not match:
            raise InputError(f"{name}: pages {which!r}: expected such as 3, 2-4 or 1,5-")
        first = int(match[1])
        last = int(match[3]) if match[3] else count if match[2] else first
        if not 1 <= first <= last <= count:
            raise InputError(f"{name}: pages {part.strip()}: it has {count:,}; choose pages of 1 to {count:,}")
        found += range(first, min(last, first + MOST_PAGES) + 1)
    if len(found) > MOST_PAGES:
        told = f"{count:,} pages" if not which else f"over {MOST_PAGES} pages asked for"
        raise InputError(f"{name}: {told}, {MOST_PAGES} at a time are the most; choose some, such as 1-{MOST_PAGES}")
    return found


def _page(library: Any, document: Any, number: int, name: str) -> Page:
    try:
        page = document[number - 1]
        scale = LONGEST_SIDE / max(page.get_size())
        picture = page.render(scale=scale).to_pil().convert("RGB")
        text = page.get_textpage().get_text_bounded()
    except (library.PdfiumError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{name}: page {number:,} is damaged ({' '.join(str(error).split())})") from error
    return Page(number, picture, "\n".join(text.split("\r\n")).strip())
