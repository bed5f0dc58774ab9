"""What goes wrong most often, and that each error says the cure in one line."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from converters import convert
from converters.origin import locate
from gemma4gguf import Bundle, Gemma4
from gemma4gguf.chat.messages import prepare_messages
from gemma4gguf.chat.rendering import raw_segments
from gemma4gguf.errors import FormatError, Gemma4Error, InputError, MissingPartError

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "gemma4gguf"]


@pytest.mark.parametrize(
    ("head", "cure"),
    [
        (b"GGUF" + struct.pack("<I", 4), r"GGUF version 4 is not supported \(expected 3\); a newer gemma4gguf may"),
        (b"GGUF" + struct.pack("<I", 99), r"GGUF version 99 is not supported \(expected 3\); a newer gemma4gguf may"),
        (b"GGUF" + struct.pack("<I", 2), r"GGUF version 2 is not supported \(expected 3\); convert its checkpoint"),
        (b"GGUF" + struct.pack("<I", 1), r"GGUF version 1 is not supported \(expected 3\); convert its checkpoint"),
        (b"GGUF" + struct.pack(">I", 3), "is a big-endian GGUF.*`gguf-convert-endian FILE little`"),
        (b"GGUF" + struct.pack(">I", 2), "is a big-endian GGUF.*`gguf-convert-endian FILE little`"),
        (b"GGUF" + struct.pack(">I", 4), "is a big-endian GGUF.*`gguf-convert-endian FILE little`"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "not a GGUF file.*`git lfs pull`"),
        (b"<!DOCTYPE html><html>", "not a GGUF file.*web page.*get the file again"),
        (b"PK\x03\x04", "not a GGUF file.*ZIP archive"),
        (b"tjgg", "not a GGUF file.*old GGML"),
        (b"\x00\x01\x02\x03", r"not a GGUF file \(it starts with .*, expected b'GGUF'\)$"),
    ],
)
def test_another_kind_of_model_file(tmp_path: Path, bundle: Path, head: bytes, cure: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(head + bundle.read_bytes()[len(head) : 1000])
    with pytest.raises(FormatError, match=cure) as caught:
        Bundle.open(path)
    assert str(caught.value).isprintable()
    with pytest.raises(Gemma4Error):
        convert(path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


ADDRESSES = ["https://example.org/a.png", "http://localhost/a.wav", "HTTPS://example.org/a", "ftp://example.org/a.png"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", ["image", "audio"])
def test_addresses_of_media(tiny_bundle: Path, address: str, kind: str) -> None:
    local = "addresses are not fetched; download it first and give its path"
    part = {"type": kind, kind: address}
    media = [address] if kind == "image" else [], [address] if kind == "audio" else []
    model = Gemma4(tiny_bundle)
    asked: list[Callable[[], object]] = [
        lambda: prepare_messages([{"role": "user", "content": [part]}]),
        lambda: raw_segments(f"<|{kind}|>", *media),
        lambda: model.generate("?", images=media[0], audio=media[1]),
        lambda: model.generate(f"<|{kind}|>", images=media[0], audio=media[1], raw=True),
    ]
    for ask in asked:
        with pytest.raises(InputError, match=local):
            ask()
    with pytest.raises(InputError, match=f"addresses are not fetched; send the {kind} itself, as a data: URL"):
        prepare_messages([{"role": "user", "content": [part]}], local_files=False)


@pytest.mark.parametrize("name", ["owner/model", "owner/model@main", "google/gemma-4-12B-it"])
def test_the_hub_offline(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Gemma4Error, match=r"cannot be downloaded \(offline mode is enabled\); unset HF_HUB_OFFLINE"):
        locate(name)


@pytest.mark.parametrize("media", [{"images": [ROOT / "models/demo/cat.jpg"]}, {"audio": [b"RIFF"]}, {"images": [b""]}])
def test_no_embedder(make_bundle: Callable[..., Path], media: dict[str, list[object]]) -> None:
    model = Gemma4(make_bundle("F32", text_only=True))
    with pytest.raises(
        MissingPartError, match="has no multimodal embedder; convert the full checkpoint, or add one with"
    ):
        model.generate("?", **media)  # type: ignore[arg-type]


BROKEN = {"numpy": "numpy", "soundfile": "soundfile", "PIL": "pillow", "soxr": "soxr", "llama_cpp": "llama-cpp-python"}


@pytest.mark.parametrize("module", BROKEN)
@pytest.mark.parametrize("stub", ["raise OSError('libx.so.1: cannot open')", "raise ImportError('no such module')"])
def test_doctor_names_a_package_that_does_not_load(tmp_path: Path, module: str, stub: str) -> None:
    (tmp_path / f"{module}.py").write_text(stub)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    shown = subprocess.run([*COMMAND, "doctor"], env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    lines = [line for line in shown.stderr.splitlines() if f"--force-reinstall --no-cache-dir {BROKEN[module]}" in line]
    assert lines
    assert stub.split("'")[1] in lines[0]
    asked = [*COMMAND, "generate", "no-such-file.gguf", "-p", "x"]
    failed = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
