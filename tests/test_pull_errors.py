"""What stops a pull: one line, and nothing half there; what came is used again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import encode_pair
from gemma4gguf.bundle.reading import DRAFTER, read_sections
from gemma4gguf.bundle.writing import part_of
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import Gemma4Error
from gemma4gguf.tools.models import models, remove
from gemma4gguf.tools.offer import look
from gemma4gguf.tools.pack import pack
from gemma4gguf.tools.pull import pull
from tests.support.hub import Hub, Repository
from tests.support.published import Layout, lied_about, write

ROOT = Path(__file__).parent.parent
NAME, REPO = "gemma-4-12B-it-BF16", "ggml-org/gemma-4-12B-it-GGUF"
SOURCE = f"{REPO}:BF16"
TEXT_FILE, MMPROJ_FILE, MTP_FILE = (
    "gemma-4-12B-it-bf16.gguf",
    "mmproj-gemma-4-12B-it-bf16.gguf",
    "mtp-gemma-4-12B-it-Q8_0.gguf",
)
Serve = Callable[[Layout], Hub]


@pytest.fixture
def layout(layouts: dict[str, Layout]) -> Layout:
    return layouts["prefixes, several types"]


@pytest.fixture
def expected(layout: Layout, tmp_path: Path) -> bytes:
    files = layout.repositories[REPO].files
    pack(files[TEXT_FILE], tmp_path / "expected.gguf", embedder=files[MMPROJ_FILE], drafter=files[MTP_FILE])
    return (tmp_path / "expected.gguf").read_bytes()


def changed(layout: Layout, **files: Path | None) -> Layout:
    """The layout with other files: text, mmproj, mtp; None leaves one out."""
    names = {"text": TEXT_FILE, "mmproj": MMPROJ_FILE, "mtp": MTP_FILE}
    old = layout.repositories[REPO].files
    given = {names[key]: path for key, path in files.items()}
    new = {path: given.get(path, file) for path, file in old.items() if path != "mmproj-gemma-4-12B-it-f16.gguf"}
    return replace(layout, repositories={REPO: Repository({path: file for path, file in new.items() if file})})


def fails(source: str, *words: str, **options: str) -> str:
    """Pull, expect a one-line error with these words."""
    with pytest.raises(Gemma4Error) as caught:
        pull(look(source, **options))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message
    return message


def half(folder: Path) -> list[Path]:
    """Files in the models folder beyond the locks and records."""
    return [p for p in folder.rglob("*") if p.is_file() and p.name not in ("lock", "pulled.json")]


# ── cut and resumed ──────────────────────────────────────────────────────────────────────────────────────────────


def test_ten_broken_connections(layout: Layout, models_folder: Path, expected: bytes, serve: Serve) -> None:
    """Each goes on from the last whole megabyte, in the same pull."""
    hub = serve(layout)
    offer = look(SOURCE)
    size = offer.parts[0].size
    cuts = [size * i // 11 for i in range(1, 11)]
    hub.cuts = {TEXT_FILE: list(cuts)}
    before = hub.sent
    assert pull(offer).path.read_bytes() == expected
    started = hub.ranges_of(TEXT_FILE)
    assert len(started) == 11
    assert all(0 <= cut - start < 1 << 20 for cut, start in zip(cuts, started[1:], strict=True))
    assert hub.sent - before < offer.missing + 10 * (1 << 20)


def test_a_server_without_ranges_begins_again(
    layout: Layout, models_folder: Path, expected: bytes, serve: Serve
) -> None:
    hub = serve(layout)
    offer = look(SOURCE)
    hub.ranges, hub.cuts = False, {TEXT_FILE: [offer.parts[0].size // 2]}
    assert pull(offer).path.read_bytes() == expected
    hub.ranges = False
    remove(NAME)
    fails(SOURCE, f"{REPO}/", "sends no ranges")


def test_a_hub_that_stops_for_good_and_comes_back(
    layout: Layout, models_folder: Path, expected: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma4gguf.tools.hub.TRIES", 2)
    hub = serve(layout)
    size = look(SOURCE).parts[0].size
    hub.cuts = {TEXT_FILE: [size // 2, *range(size // 2 - (1 << 20), size // 2)]}  # nothing more than that comes
    fails(SOURCE, f"{REPO}/{TEXT_FILE}: stopped at ", "run the same command again, it goes on there")
    assert [path.suffix for path in half(models_folder)].count(".partial") == 1
    assert not (models_folder / f"{NAME}.gguf").exists()
    assert models()[0].size == 0
    hub.cuts, hub.asked = {}, []
    offer = look(SOURCE)
    assert offer.parts[0].missing < size
    assert pull(offer).path.read_bytes() == expected
    assert hub.ranges_of(TEXT_FILE)[0] > 0


@contextmanager
def pulling(hub: Hub, folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`gemma4gguf pull` in a process of its own."""
    settings = {"HF_ENDPOINT": hub.url, "GEMMA4GGUF_MODELS": str(folder), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *(more or ("-m", "gemma4gguf")), "pull", SOURCE],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_at_ten_points(layout: Layout, models_folder: Path, expected: bytes, serve: Serve) -> None:
    """By three signals, in headers, in parts and while it packs: no half file has the name, and what came stays."""
    hub = serve(layout)
    sizes = {path: file.stat().st_size for path, file in layout.repositories[REPO].files.items()}
    points = [(TEXT_FILE, 1000), (TEXT_FILE, 100_000)]
    points += [(MMPROJ_FILE, sizes[MMPROJ_FILE] * part // 4) for part in (2, 3)]
    points += [(MTP_FILE, sizes[MTP_FILE] * 2 // 3)]
    points += [(TEXT_FILE, sizes[TEXT_FILE] * part // 6) for part in (2, 3, 4, 5)]
    for i, (path, position) in enumerate(points):
        sent = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[i % 3]
        hub.stalls, hub.asked = {path: position}, []
        hub.stalled.clear()
        with pulling(hub, models_folder) as process:
            assert hub.stalled.wait(60)
            process.send_signal(sent)
            _, said = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[sent]
        assert said.strip() == {143: "ended by a signal", 130: "interrupted", -9: ""}[process.returncode]
        assert list(models_folder.glob("*")) == list(models_folder.glob(".*"))
        assert not [name for name in hub.asked if name == (path, "bytes=0-") and position > 1 << 21]
    hub.stalls = {}
    with pulling(hub, models_folder) as process:  # all has come but the end of the text: packed, or killed while it is
        while not list(models_folder.glob(f".{NAME}/.*.partial")) and process.poll() is None:
            pass
        process.kill()
    assert {path.name for path in models_folder.iterdir()} <= {f".{NAME}", f"{NAME}.gguf"}
    result = pull(look(SOURCE))
    assert result.path.read_bytes() == expected
    assert half(models_folder) == [result.path]


def test_two_at_once(layout: Layout, models_folder: Path, serve: Serve) -> None:
    hub = serve(layout)
    offer = look(SOURCE)
    hub.stalls = {TEXT_FILE: offer.parts[0].size // 2}
    with pulling(hub, models_folder) as process:
        assert hub.stalled.wait(60)
        with pytest.raises(Gemma4Error, match="another pull is writing this file"):
            pull(offer)
        with pytest.raises(Gemma4Error, match="another pull is writing this file"):
            remove(NAME)
        process.kill()
        process.wait()
    assert remove(NAME).parts > 0
    assert list(models_folder.iterdir()) == []


# ── wrong bytes, no room ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [TEXT_FILE, MMPROJ_FILE])
def test_a_wrong_digest(
    path: str, layout: Layout, models_folder: Path, expected: bytes, serve: Serve, tmp_path: Path
) -> None:
    hub = serve(layout)
    right = hub.repositories[REPO]
    hub.repositories[REPO] = lied_about(right, path)
    fails(SOURCE, f"{REPO}/{path}: its SHA-256 is ", "the Hub says 0000000000000000…", "what came was deleted")
    assert not [p for p in half(models_folder) if p.name.startswith(path)]
    assert not (models_folder / f"{NAME}.gguf").exists()
    hub.repositories[REPO] = right
    assert pull(look(SOURCE)).path.read_bytes() == expected


def test_bytes_that_changed_on_this_disk_come_again(
    layout: Layout, models_folder: Path, expected: bytes, serve: Serve
) -> None:
    serve(layout)
    first = pull(look(SOURCE), keep=True)
    first.path.unlink()
    (part,) = models_folder.glob(f".*/text/{TEXT_FILE}")
    raw = bytearray(part.read_bytes())
    raw[-1] ^= 1
    part.write_bytes(raw)
    assert pull(look(SOURCE)).path.read_bytes() == expected


def test_a_bundle_that_is_damaged(layout: Layout, models_folder: Path, serve: Serve) -> None:
    serve(layout)
    path = pull(look(SOURCE)).path
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    fails(SOURCE, f"{path}: is damaged (", "SHA-256", f"`gemma4gguf rm {NAME}`")


def test_a_name_that_is_taken(layout: Layout, models_folder: Path, serve: Serve) -> None:
    serve(layout)
    models_folder.mkdir()
    mine = models_folder / f"{NAME}.gguf"
    mine.write_text("mine")
    fails(SOURCE, f"{mine}: is there already, made of other files", f"`gemma4gguf rm {NAME}`")
    assert mine.read_text() == "mine"
    fails(SOURCE, "name is '../x'", name="../x")


LIMITED = """
import resource, signal, sys
from gemma4gguf.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), ) * 2)
main()
"""


@pytest.mark.parametrize("share", [0.8, 1.1])  # of the text file: it cannot be downloaded, then not be packed
def test_a_disk_that_fills_up(
    share: float, layout: Layout, models_folder: Path, expected: bytes, serve: Serve, tmp_path: Path
) -> None:
    """The system refuses to write beyond a limit, as a full disk does. What came is used once there is room."""
    hub = serve(layout)
    limit = int(share * look(SOURCE).parts[0].size)
    with pulling(hub, models_folder, "-c", LIMITED, str(limit)) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("error: ")
    assert "writing failed (File too large)" in said
    assert said.count("\n") == 1
    assert list(models_folder.glob("*.gguf")) == []
    hub.asked.clear()
    assert pull(look(SOURCE)).path.read_bytes() == expected
    assert hub.ranges_of(MMPROJ_FILE) == []
    assert 0 not in hub.ranges_of(TEXT_FILE)


def test_a_disk_without_room(
    layout: Layout, models_folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    hub = serve(layout)
    full = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    fails(SOURCE, f"{NAME}.gguf: needs ", "to download", "the disk has 1,000,000 free", "GEMMA4GGUF_MODELS")
    assert hub.ranges_of(TEXT_FILE) == []


def test_a_folder_that_cannot_be_made(
    layout: Layout, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(layout)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEMMA4GGUF_MODELS", str(tmp_path / "file" / "models"))
    fails(SOURCE, "cannot be written (Not a directory)", "GEMMA4GGUF_MODELS")


# ── what the Hub has, and what belongs together ──────────────────────────────────────────────────────────────────


def test_an_absent_projector(
    layout: Layout, models_folder: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = serve(changed(layout, mmproj=None))
    fails(SOURCE, f"{REPO}: has no multimodal embedder", "hold MTP drafter, text model", "text_only=True")
    assert run(cli, ["pull", SOURCE]) == 1
    assert "give --embedder a repository that has one, or --text-only" in capsys.readouterr().err
    assert not models_folder.exists()
    assert hub.ranges_of(TEXT_FILE) == []
    result = pull(look(SOURCE, text_only=True))
    assert [note for note in result.notes if "NO EMBEDDER" in note]


def test_a_gated_repository(layout: Layout, models_folder: Path, serve: Serve) -> None:
    hub = serve(layout)
    hub.repositories[REPO] = replace(hub.repositories[REPO], gated=True)
    fails(SOURCE, f"{REPO}: access is granted on its page first", "hf auth login")
    fails("ggml-org/none", "ggml-org/none: no such model on the Hub")
    assert not models_folder.exists()


def test_a_repository_that_is_closed_in_the_middle(
    layout: Layout, models_folder: Path, expected: bytes, serve: Serve
) -> None:
    hub = serve(layout)
    offer, right = look(SOURCE), hub.repositories[REPO]
    hub.repositories[REPO] = replace(right, gated=True)
    with pytest.raises(Gemma4Error, match="access is granted on its page first"):
        pull(offer)
    hub.repositories[REPO] = right
    assert pull(offer).path.read_bytes() == expected


def test_offline(layout: Layout, models_folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub = serve(layout)
    offer = look(SOURCE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(SOURCE, f"{REPO}: cannot be downloaded", "offline mode is enabled")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.shutdown()
    hub.server_close()
    fails(SOURCE, f"{REPO}: cannot be downloaded (")
    monkeypatch.setattr("gemma4gguf.tools.hub.TRIES", 1)
    with pytest.raises(Gemma4Error, match="stopped at 0 of "):
        pull(offer)
    assert half(models_folder) == [] or not (models_folder / f"{NAME}.gguf").exists()


def test_what_does_not_belong_together(layout: Layout, models_folder: Path, serve: Serve, tmp_path: Path) -> None:
    """In pack's words, before anything is fetched."""
    drafter = read_sections(layout.repositories[REPO].files[MTP_FILE])[0]
    part = part_of(drafter)
    key = f"{DRAFTER}.attention.sliding_window"
    other = write(tmp_path / "x.gguf", replace(part, pairs={**part.pairs, key: encode_pair(key, V.UINT32, 1024)}))
    hub = serve(changed(layout, mtp=other))
    fails(SOURCE, f"{REPO}/{MTP_FILE}: the MTP drafter and {REPO}/{TEXT_FILE} differ in how far", "not one model")
    files = layout.repositories[REPO].files
    hub.repositories[REPO] = changed(layout, mmproj=files[MTP_FILE], mtp=None).repositories[REPO]
    fails(SOURCE, "has no multimodal embedder")
    hub.repositories[REPO] = changed(layout, text=files[MTP_FILE]).repositories[REPO]
    fails(SOURCE, "has no text model of type BF16; there are Q4_K_M, Q8_0")
    assert {wanted and wanted.endswith("-") for _, wanted in hub.asked} == {False}
    assert not models_folder.exists()


def test_sources_that_are_none(layout: Layout, models_folder: Path, serve: Serve, tmp_path: Path) -> None:
    hub = serve(layout)
    for source in ("gemma", "https://huggingface.co/a/b", "../a/b", "a/b/c", ""):
        fails(source, "is no Hub id, expected OWNER/NAME or OWNER/NAME:TYPE")
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"x")
    hub.repositories["google/gemma"] = Repository({"model.safetensors": checkpoint})
    fails("google/gemma", "is a checkpoint without GGUF files", "`gemma4gguf convert google/gemma`")
    hub.repositories["google/gemma"] = Repository({"README.md": checkpoint})
    fails("google/gemma", "has no text model", "it has no GGUF file of one")
    fails(f"{REPO}:Q5_K_M", f"{REPO}: has no text model of type Q5_K_M; there are BF16, Q4_K_M, Q8_0")
    fails(SOURCE, "has no MTP drafter of type Q4_0; there are Q8_0", drafter=f"{REPO}:Q4_0")
    files = hub.repositories[REPO].files
    hub.repositories[REPO] = Repository({**files, "again/x-BF16.gguf": files[TEXT_FILE]})
    fails(SOURCE, "again/x-BF16.gguf and gemma-4-12B-it-bf16.gguf are of one type")
