"""The program twice: a long system text that the first one read is not read again by the second."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.serving import eventually

SYSTEM = "Be brief, and never say more than you were asked for. " * 12
BODY = {
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What is 47 + 38?"}],
    "temperature": 0,
    "max_tokens": 4,
}


@contextmanager
def program(bundle: Path, *options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "gemma4gguf", "serve", str(bundle), "--port", "0", "--context", "2048", *options]
    command += ["--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            yield next(found[0] for line in process.stderr if (found := re.search(r"http://\S+:\d+", line)))
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            assert process.wait(120) == 0
        finally:
            process.kill()


def cached(url: str) -> int:
    """Positions of the prompt that were there already."""
    reply = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=300).json()
    found: int = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def test_a_system_text_is_read_once(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA4GGUF_MODELS", str(tmp_path))
    with program(tiny_bundle) as url:
        assert cached(url) == 0
        eventually(lambda: any(tmp_path.glob(".prefixes/*/*.state")))
    with program(tiny_bundle) as url:
        assert cached(url) > 100
    with program(tiny_bundle, "--no-disk-cache", "--cache-memory", "0") as url:
        assert cached(url) == 0
