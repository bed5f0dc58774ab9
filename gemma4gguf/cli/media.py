"""Pictures, videos and pages as people give them on the command line.

In: what was typed. Out: what the library takes, and texts that go beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..arguments import local_path
from .common import Function, standard_input
from .question import STDIN

_OF_VIDEOS = ("frames", "frame_tokens", "start", "end", "video_sound")


def _seconds(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """A time as seconds, mm:ss or hh:mm:ss."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d{1,9}:){0,2}\d{1,9}(\.\d+)?", value):
        raise click.BadParameter(f"{value!r}: expected seconds, mm:ss or hh:mm:ss", context, option)
    total = 0.0
    for part in value.split(":"):
        total = total * 60 + float(part)
    return total


_OPTIONS = (
    click.option(
        "--image", "images", multiple=True, metavar="PATH", help="A picture or a PDF (a.pdf#2-4); as often as you like."
    ),
    click.option("--pdf-text", is_flag=True, help="The text of a PDF's pages goes beside their pictures."),
    click.option("--audio", multiple=True, metavar="PATH", help="A sound clip; may be given several times."),
    click.option("--video", "videos", multiple=True, metavar="PATH", help="A video; may be given several times."),
    click.option("--frames", type=int, metavar="N", help="Frames of a video that are looked at [32]."),
    click.option("--frame-tokens", type=int, metavar="N", help="Soft tokens of a frame [70]."),
    click.option("--from", "start", callback=_seconds, metavar="TIME", help="Where in a video to begin: 90 or 1:30."),
    click.option("--to", "end", callback=_seconds, metavar="TIME", help="Where in a video to end."),
    click.option("--video-sound", is_flag=True, help="A video's sound is heard, too; at most 30 s."),
)


def media_options(function: Function) -> Function:
    """Options of what the model sees and hears."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


class Given(NamedTuple):
    """Keywords of `Gemma4.generate`, and texts that go before the question."""

    keywords: dict[str, Any]
    texts: list[str]


def uses_standard_input(given: dict[str, Any]) -> bool:
    """Whether one of the media is `-`."""
    return STDIN in (*given["images"], *given["audio"], *given["videos"])


def media_of(given: dict[str, Any]) -> Given:
    """Take the media's options out of `given`, and read what they name."""
    chosen = {name: given.pop(name) for name in _OF_VIDEOS}
    images, audio, videos, pdf_text = (given.pop(name) for name in ("images", "audio", "videos", "pdf_text"))
    how: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None and value is not False}
    if how and not videos:
        raise click.UsageError("--frames, --frame-tokens, --from, --to and --video-sound go with --video")
    if "video_sound" in how:
        how["sound"] = how.pop("video_sound")
    seen, texts = _pictures(images, pdf_text)
    from ..media.video import Video  # here: `doctor` and --help do without numpy

    shown = [Video(_medium(path), **how) for path in videos]
    return Given({"images": seen, "audio": [_medium(path) for path in audio], "videos": shown}, texts)


def _pictures(paths: Sequence[str], pdf_text: bool) -> tuple[list[Any], list[str]]:
    from ..media.pdf import pages

    seen: list[Any] = []
    texts: list[str] = []
    for path in paths:
        name, which = _file_and_pages(path)
        if not which and not _is_pdf(name):
            seen.append(_medium(path))
            continue
        for page in pages(name, which):
            seen.append(page.picture)
            if pdf_text and page.text:
                texts.append(f"Text of page {page.number} of {Path(name).name}:\n{page.text}")
    if pdf_text and not texts:
        raise click.UsageError("--pdf-text: no page with a text was given; --image FILE.pdf gives pages")
    return seen, texts


def _file_and_pages(path: str) -> tuple[str, str]:
    """`a.pdf#2-4` -> its name and its pages; a file that has that name is taken as it is."""
    name, mark, which = path.rpartition("#")
    return (name, which) if mark and not local_path(path).exists() and _is_pdf(name) else (path, "")


def _is_pdf(path: str) -> bool:
    try:
        with open(local_path(path), "rb") as file:
            return file.read(5) == b"%PDF-"
    except (OSError, ValueError):  # who opens it says so
        return False


def _medium(path: str) -> str | bytes:
    return standard_input() if path == STDIN else path
