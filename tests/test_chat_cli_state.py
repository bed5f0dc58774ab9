"""A chat's state as a value, and the paths in what people type."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf.chat.messages import prepare_messages
from gemma4gguf.cli.chat.conversation import Conversation
from gemma4gguf.cli.chat.paths import as_path, mentions, without
from gemma4gguf.errors import InputError

CHAT = Conversation(system="Be brief.").ask("One?").answer("1", "counting").ask("Two?").answer("2")


def test_messages_are_the_api_s() -> None:
    assert CHAT.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1", "reasoning_content": "counting"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
    ]
    prepare_messages(CHAT.messages)


def test_what_is_attached_goes_with_the_next_question_alone() -> None:
    chat = Conversation().attach("audio", "a.WAV", b"sound").attach("image", "b.png", b"picture").ask("What?")
    assert chat.attached == ()
    assert [part["type"] for part in chat.turns[-1]["content"]] == ["image_url", "text", "input_audio"]
    _, media = prepare_messages(chat.messages, local_files=False)
    assert media == [("image", b"picture"), ("audio", b"sound")]
    assert chat.answer("That.").ask("Sure?").turns[-1]["content"] == "Sure?"


@pytest.mark.parametrize("name", ["cat.wav", "cat", "cat.svg", "cat.JPEG"])
def test_a_picture_is_one_whatever_its_name(name: str) -> None:
    _, media = prepare_messages(Conversation().attach("image", name, b"x").ask("?").messages)
    assert media == [("image", b"x")]


def test_undo_takes_back_attachments_first_then_questions() -> None:
    chat = CHAT.attach("image", "a.png", b"x")
    assert chat.undo() == CHAT
    assert CHAT.undo() == Conversation(system="Be brief.").ask("One?").answer("1", "counting")
    assert CHAT.undo().undo().undo() == Conversation(system="Be brief.")


def test_retry_ends_with_the_question() -> None:
    assert CHAT.retry().messages[-1] == {"role": "user", "content": "Two?"}
    assert CHAT.retry().retry() == CHAT.retry()
    assert Conversation().retry() == Conversation()


def test_reset_keeps_how_it_answers() -> None:
    chat = Conversation(system="x", thinking=True).attach("image", "a.png", b"x").ask("?")
    assert chat.reset() == Conversation(system="x", thinking=True)


@pytest.mark.parametrize(
    "chat",
    [
        CHAT,
        Conversation(),
        Conversation(thinking=True)
        .attach("image", "a.png", bytes(range(256)))
        .ask("Ünï?")
        .attach("audio", "a.wav", b"y"),
    ],
)
def test_saved_and_loaded_it_is_the_same(chat: Conversation) -> None:
    assert Conversation.from_json(chat.to_json()) == chat
    assert "Ünï?" in chat.to_json() or chat in (CHAT, Conversation())


def _changed(**how: Any) -> str:
    return json.dumps(json.loads(CHAT.to_json()) | how)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "/save"),
        ('{"messages": []}', "/save"),
        (_changed(version=2), "another version"),
        (_changed(messages={}), "damaged"),
        (_changed(thinking="no"), "damaged"),
        (_changed(messages=[{"role": "thief", "content": "x"}]), "role"),
        (_changed(messages=[{"role": "user", "content": [{"type": "image", "path": "/etc/passwd"}]}]), "path"),
        (_changed(attached=[{"type": "image", "path": "/etc/passwd"}]), "path"),
        (_changed(attached=[5]), "content"),
    ],
)
def test_what_is_no_saved_chat_is_told(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        Conversation.from_json(text)


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "a cat.png"
    path.write_bytes(b"")
    return path


def test_paths_as_terminals_drop_them(cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    escaped = str(cat).replace(" ", "\\ ")
    for text in (str(cat), f"'{cat}'", f'"{cat}"', escaped, cat.as_uri(), f"  {cat} "):
        assert as_path(text) == cat
    monkeypatch.setenv("HOME", str(cat.parent))
    assert as_path("~/a cat.png") == cat
    assert as_path("~/a\\ cat.png") == cat


def test_media_in_a_line_are_found(cat: Path) -> None:
    clip = cat.with_name("b.wav")
    clip.write_bytes(b"")
    (only,) = mentions(str(cat))
    assert (only.path, only.kind) == (cat, "image")
    assert without(str(cat), only) == ""
    line = f"What is '{cat}' and {clip} there?"
    found = mentions(line)
    assert [(m.path, m.kind) for m in found] == [(cat, "image"), (clip, "audio")]
    for mention in found:
        line = without(line, mention)
    assert line == "What is and there?"


@pytest.mark.parametrize(
    "line", ["", "What is cat.png?", "/nowhere/cat.png", "it's", "x" * 5000 + ".png", "a\0b.png", "."]
)
def test_a_line_without_media(line: str) -> None:
    assert mentions(line) == []


def test_the_data_is_kept() -> None:
    part = Conversation().attach("image", "a.png", b"\x00\xff").attached[0]
    assert part == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"\x00\xff").decode()},
    }
