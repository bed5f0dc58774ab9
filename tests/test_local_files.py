"""Whoever writes a message does not choose which files or addresses this machine opens."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemma4gguf import Gemma4, InputError

MODELS = Path(__file__).parents[1] / "models"
DIGITS, NUMBER = MODELS / "demo" / "digits.png", MODELS / "demo" / "number.wav"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
TOUCHING = ("open", "os.listdir", "os.scandir", "socket.", "urllib.", "subprocess.", "os.open")
_seen: list[str] | None = None  # what Python was asked to open; None: nobody watches


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event.startswith(TOUCHING):
        _seen.append(f"{event} {arguments[:1]!r}")


sys.addaudithook(_watch)  # a hook stays for good: this one does nothing while nobody watches


@contextmanager
def watched() -> Iterator[list[str]]:
    """The files and addresses that Python opens during the block."""
    global _seen
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=1024) as opened:
        opened.chat([{"role": "user", "content": "Hi"}], **GREEDY)  # whatever is read once has been read
        yield opened


def part(key: str, value: Any, kind: str = "image") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": kind, key: value}, {"type": "text", "text": "What?"}]}


def named(folder: Path) -> dict[str, dict[str, Any]]:
    """Messages that name something to open, by how they name it."""
    device = folder / "device.png"
    device.symlink_to("/dev/zero")
    with os.scandir(folder) as entries:
        entry = next(entries)
    return {
        "path": part("path", str(DIGITS)),
        "path as image": part("image", str(DIGITS)),
        "relative path": part("image", "digits.png"),
        "Path": part("image", DIGITS),
        "entry of a folder": part("image", entry),
        "empty": part("image", ""),
        "file:": part("url", DIGITS.as_uri()),
        "FILE:": part("image_url", {"url": "FILE:" + str(DIGITS)}, "image_url"),
        "link to a device": part("image", str(device)),
        "device": part("audio", "/dev/zero", "audio"),
        "http:": part("image_url", {"url": "http://127.0.0.1:9/a.png"}, "image_url"),
        "https:": part("url", "https://127.0.0.1:9/a.wav", "audio"),
        "UNC": part("image", "\\\\127.0.0.1\\share\\a.png"),
        "UNC with slashes": part("image", "//127.0.0.1/share/a.png"),
        "drive": part("image", "C:\\Windows\\a.png"),
        "pipe": part("image", "\\\\.\\pipe\\a"),
        "sound by path": part("path", str(NUMBER), "audio"),
    }


def test_nothing_that_a_message_names_is_opened(model: Gemma4, tmp_path: Path) -> None:
    for name, message in named(tmp_path).items():
        for messages in ([message], [{"role": "user", "content": "Hi"}, message]):
            with watched() as opened, pytest.raises(InputError, match=r"not accepted here|not fetched") as caught:
                model.chat(messages, **GREEDY)
            assert opened == [], name
            assert "messages[" in str(caught.value)
            with watched() as opened, pytest.raises(InputError, match=r"not accepted here|not fetched"):
                list(model.stream_chat(messages, **GREEDY))
            assert opened == [], name


def test_the_watch_sees_what_is_opened(model: Gemma4) -> None:
    with watched() as opened:
        model.chat([part("image", str(DIGITS))], local_files=True, **GREEDY)
    assert any(str(DIGITS) in line for line in opened)


def test_media_themselves_are_taken(model: Gemma4) -> None:
    data = DIGITS.read_bytes()
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    with Image.open(DIGITS) as picture:
        pixels = np.asarray(picture.convert("RGB"))
        given = [data, url, pixels, picture, io.BytesIO(data)]
        expected = model.generate("What?", images=DIGITS, **GREEDY).text
        for value in given:
            with watched() as opened:
                assert model.chat([part("image", value)], **GREEDY).text == expected
            assert [line for line in opened if str(model.bundle.path) not in line] == []  # the model's own file is
    heard = model.chat([part("audio", NUMBER.read_bytes(), "audio")], **GREEDY)
    assert heard.tokens.audio


def test_generate_takes_the_callers_own_paths(model: Gemma4) -> None:
    assert model.generate("What?", images=[DIGITS], **GREEDY).tokens.image
    assert model.chat([part("path", str(DIGITS))], local_files=True, **GREEDY).tokens.image
    with pytest.raises(InputError, match="not fetched"):
        model.chat([part("url", "http://127.0.0.1:9/a.png")], local_files=True, **GREEDY)
