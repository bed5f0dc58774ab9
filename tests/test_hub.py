"""Checkpoints from the Hub, through its real client, from a Hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converters import convert
from gemma4gguf.bundle.reading import Bundle
from tests.support import standin
from tests.support.hub import Hub, Repository, serving

NAME = "someone/gemma-standin"
CODE = """
import json, sys
from converters import convert
from gemma4gguf.errors import Gemma4Error
seen = []
try:
    how = json.loads(sys.argv[3])
    done = convert(sys.argv[1], sys.argv[2], quant="Q4_0", progress=lambda *now: seen.append(now), **how)
    print(json.dumps({"size": done.size, "notes": done.plan.notes, "seen": seen}))
except Gemma4Error as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = standin.write_checkpoint(tmp_path / "gemma-standin", shards=2)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    (folder / "picture.png").write_bytes(b"never fetched")
    return folder


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with serving({NAME: Repository(files)}, monkeypatch) as server:
        yield server


def run(hub: Hub, name: str, out: Path, **how: Any) -> dict[str, Any]:
    """Convert in a process of its own, since the client reads its settings when it is imported."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(out.parent / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    command = [sys.executable, "-c", CODE, name, str(out), json.dumps(how)]
    ended = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120, check=True
    )
    assert "%|" not in ended.stderr  # no bars of the client's own
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_hub_id(hub: Hub, folder: Path, tmp_path: Path) -> None:
    found = run(hub, NAME, tmp_path / "out.gguf")
    convert(folder, tmp_path / "local.gguf", quant="Q4_0")
    fetched, local = (Bundle.open(tmp_path / name) for name in ("out.gguf", "local.gguf"))
    for ours, theirs in zip(fetched.sections, local.sections, strict=True):
        assert all((ours.raw(name) == theirs.raw(name)).all() for name in theirs.tensors)
    changed = {key for key, raw in fetched.text.header.pairs.items() if raw != local.text.header.pairs.get(key)}
    origin = "general.source.repo_url"  # only a Hub id tells where the files are from; sizes and digests follow
    assert changed == {origin, "gemma4gguf.bundle.sizes", "gemma4gguf.bundle.sha256"}
    assert fetched.text.metadata[origin].endswith(NAME)
    assert not any(path.endswith((".bin", ".png")) for path, _ in hub.asked)
    downloads = [(done, total) for done, total, stage in found["seen"] if stage == "download"]
    weights = sum(f.stat().st_size for f in folder.glob("model*"))
    assert downloads[-1][0] == downloads[-1][1] > weights
    hub.asked.clear()
    run(hub, NAME, tmp_path / "again.gguf")
    assert not any(path.endswith(".safetensors") for path, _ in hub.asked)


def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    shard = "model-00002-of-00002.safetensors"
    hub.cuts = {shard: [hub.repositories[NAME].files[shard].stat().st_size - 1000]}
    found = run(hub, NAME, tmp_path / "out.gguf")
    if "error" in found:  # the client gave up: the same command again goes on
        assert "run the same command again" in found["error"]
        found = run(hub, NAME, tmp_path / "out.gguf")
    assert found["size"] == (tmp_path / "out.gguf").stat().st_size
    ranges = [wanted for path, wanted in hub.asked if path == shard]
    assert ranges[0] is None
    assert ranges[-1] is not None
    assert ranges[-1].startswith("bytes=")


def test_a_plan_fetches_headers_only(hub: Hub, tmp_path: Path) -> None:
    found = run(hub, NAME, tmp_path / "out.gguf", dry_run=True)
    assert all(wanted is not None for path, wanted in hub.asked if path.endswith(".safetensors"))
    assert not (tmp_path / "out.gguf").exists()
    assert found["size"] == run(hub, NAME, tmp_path / "out.gguf")["size"]


def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    found = run(hub, "someone/else", tmp_path / "out.gguf")
    assert "no such folder here and no such model on the Hub" in found["error"]
    del hub.repositories[NAME].files["config.json"]
    assert "no config.json" in run(hub, NAME, tmp_path / "out.gguf")["error"]
    hub.shutdown()
    hub.server_close()
    found = run(hub, "someone/third", tmp_path / "out.gguf")
    assert "cannot be downloaded" in found["error"]
    assert list(tmp_path.glob("*.gguf")) == []
