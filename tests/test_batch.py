"""Batches: every line answered once, as the model answers alone, whatever ends in between."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf import Gemma4
from gemma4gguf.batch import run as running
from gemma4gguf.batch.journal import Answer, journal
from gemma4gguf.batch.lines import entries
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import InputError
from tests.support.batches import OPENING, answers, batch, written
from tests.support.serving import DEMO, Serving, encoded, serving

PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(DEMO / 'digits.png')}"}}
GREEDY = {"temperature": 0, "max_tokens": 32}


def question(number: int) -> dict[str, Any]:
    """A sum, a picture, or a sum for the responses API, by its number."""
    text = f"What is {number} + {number + 5}?"
    if number % 3 == 1:
        return {"url": "/v1/responses", "body": {"input": text, "temperature": 0, "max_output_tokens": 32}}
    content: Any = text if number % 3 else [PICTURE, {"type": "text", "text": "What number is this?"}]
    return {"url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": content}], **GREEDY}}


@pytest.fixture(scope="module")
def asked() -> list[dict[str, Any]]:
    return [{"custom_id": f"q{i}", "method": "POST", **question(i)} for i in range(18)]


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> dict[str, str]:
    with Gemma4(tiny_bundle, context=2048, threads=1, draft="off") as model:
        picture = model.generate("What number is this?", images=[DEMO / "digits.png"], **GREEDY).text  # type: ignore[arg-type]
        sums = (model.generate(f"What is {i} + {i + 5}?", **GREEDY).text for i in range(18))  # type: ignore[arg-type]
        return {f"q{i}": text if i % 3 else picture for i, text in enumerate(sums)}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Sequence[dict[str, Any]]], Path]:
    return lambda lines: written(tmp_path / "in.jsonl", lines)


def test_the_same_answers_as_alone(tiny_bundle: Path, tmp_path: Path, file: Any, asked: Any, expected: Any) -> None:
    out = tmp_path / "out.jsonl"
    assert batch(tiny_bundle, file(asked), out) == 0
    assert answers(out) == expected
    before = out.read_bytes()
    assert batch(tiny_bundle, file(asked), out) == 0
    assert out.read_bytes() == before, "nothing is asked twice"


def test_several_answers_to_a_line(tiny_bundle: Path, tmp_path: Path, file: Any, asked: Any) -> None:
    out = tmp_path / "out.jsonl"
    assert batch(tiny_bundle, file([{**asked[2], "body": {**asked[2]["body"], "n": 3}}]), out) == 0
    choices = json.loads(out.read_text())["response"]["body"]["choices"]
    assert [(one["index"], one["message"]["content"]) for one in choices] == [(i, "2 + 7 = 9") for i in range(3)]


def test_in_order_and_a_few_at_a_time(tiny_bundle: Path, tmp_path: Path, file: Any, asked: Any, expected: Any) -> None:
    out = tmp_path / "out.jsonl"
    for most in (5, 11, 18):
        assert batch(tiny_bundle, file(asked), out, "--ordered", "--limit", 6) == 0
        assert list(answers(out)) == [line["custom_id"] for line in asked[: len(answers(out))]]
        assert len(answers(out)) >= min(most, 18)
    assert answers(out) == expected


def test_errors_are_lines(
    tiny_bundle: Path, tmp_path: Path, file: Any, asked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    link = {"type": "image_url", "image_url": {"url": "file:/etc/passwd"}}
    bad: list[Any] = [
        {"custom_id": "role", "body": {"messages": [{"role": "king", "content": "Hi"}]}},
        {"custom_id": "path", "body": {"messages": [{"role": "user", "content": [link]}]}},
        {"custom_id": "long", "body": {"messages": [{"role": "user", "content": "word " * 4000}]}},
        {"custom_id": "url", "url": "/v1/embeddings", "body": {}},
        asked[2],
    ]
    path, out = file(bad), tmp_path / "out.jsonl"
    with open(path, "a") as more:
        more.write("{no json\n\n")
    assert batch(tiny_bundle, path, out) == 1
    lines = {line["custom_id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert {name: line["response"]["status_code"] for name, line in lines.items()} == {
        **dict.fromkeys(("role", "path", "long", "url", "line-6"), 400), "q2": 200
    }  # fmt: skip
    assert lines["q2"]["error"] is None
    assert "role" in lines["role"]["error"]["message"]
    assert "files_from" in lines["path"]["error"]["message"]
    assert lines["long"]["error"]["code"] == "context_length_exceeded"
    assert "is not JSON" in lines["line-6"]["error"]["message"]
    assert "5 of 6 answers are errors" in capsys.readouterr().err
    assert batch(tiny_bundle, path, out, "--retry-errors", "--context", "8192") == 1
    assert len(answers_or_errors(out)) == 6


def answers_or_errors(path: Path) -> set[str]:
    return {json.loads(line)["custom_id"] for line in path.read_text().splitlines()}


def test_a_folder_and_a_question(tiny_bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "media", tmp_path / "out.jsonl"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(DEMO / "digits.png", folder / "deep" / "a.png")
    shutil.copy(DEMO / "number.wav", folder / "b.wav")
    (folder / "notes.txt").write_text("not asked about")
    assert batch(tiny_bundle, folder, out, "--prompt", "What number is this?", "--max-tokens", 32) == 0
    found = answers(out)
    assert found["deep/a.png"] == "I read the number 4072."
    assert set(found) == {"deep/a.png", "b.wav"}


def test_files_stay_in_their_folder(tiny_bundle: Path, tmp_path: Path, file: Any) -> None:
    shutil.copy(DEMO / "digits.png", tmp_path / "in.png")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "in.png")

    def line(name: str, path: str) -> dict[str, Any]:
        part = {"type": "image_url", "image_url": {"url": path}}
        text = {"type": "text", "text": "What number is this?"}
        return {"custom_id": name, "body": {"messages": [{"role": "user", "content": [part, text]}], **GREEDY}}

    shutil.copy(DEMO / "digits.png", inside / "own.png")
    lines = [line("own", "file:own.png"), line("up", "file:../in.png"), line("link", "file:link.png")]
    lines += [line("whole", f"file://{inside}/own.png"), line("none", "file:none.png")]
    out = tmp_path / "out.jsonl"
    assert batch(tiny_bundle, file(lines), out, "--files-from", inside) == 1
    status = {n["custom_id"]: n["response"]["status_code"] for n in map(json.loads, out.read_text().splitlines())}
    assert status == {"own": 200, "up": 400, "link": 400, "whole": 200, "none": 400}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"custom_id": "a"}\n' * 2, "custom_id 'a' is in lines 1 and 2"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_batch(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "in.jsonl"
    if text is not None:
        path.write_text(text.replace("}", ', "body": {}}'))
    with pytest.raises(InputError, match=words):
        entries(path)


@pytest.mark.parametrize(
    "content", ["hello\n", '{"custom_id": "q0"}\n', '{"custom_id": "q0", "request_sha256": "0", "error": null}\n']
)
def test_answers_to_other_questions_are_left_alone(tmp_path: Path, file: Any, asked: Any, content: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content + "\n")
    with pytest.raises(InputError, match="line 1: "), journal(out, entries(file(asked))):
        pass
    assert out.read_text() == content + "\n"


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path, file: Any, asked: Any) -> None:
    out, found = tmp_path / "out.jsonl", entries(file(asked))
    with journal(out, found) as first:
        for entry in found[:3]:
            first.add(entry, Answer(200, {"text": "é"}))
    whole = out.read_bytes()
    for cut in (1, 5, 40):
        out.write_bytes(whole[:-cut])
        with journal(out, found) as again:
            assert again.done == {"q0", "q1"}
            again.add(found[2], Answer(200, {"text": "é"}))
        assert answers_or_errors(out) == {"q0", "q1", "q2"}
        assert len(out.read_text().splitlines()) == 3


def test_an_error_that_is_a_text_alone(tmp_path: Path, file: Any, asked: Any) -> None:
    out, found = tmp_path / "out.jsonl", entries(file(asked[:1]))
    with journal(out, found) as answers:
        answers.add(found[0], Answer(404, {"error": "no such address"}))
    assert json.loads(out.read_text())["error"] == {"code": "404", "message": "no such address"}


def test_killed_again_and_again(tiny_bundle: Path, tmp_path: Path, file: Any, asked: Any, expected: Any) -> None:
    """At points that a seed chooses among those that it gets to; then a run that is left alone."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance, path, out = random.Random(seed), file(asked), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "gemma4gguf", "batch", str(tiny_bundle), str(path), str(out), *OPENING]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        wanted = out.stat().st_size + chance.randrange(4000) if out.exists() else 1
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not out.exists() or out.stat().st_size < wanted):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) in (-number, 128 + number, 0)
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=300).returncode == 0
    assert answers(out) == expected


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def servers(tiny_bundle: Path) -> Iterator[list[Serving]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving(tiny_bundle)) for _ in range(2)]


def test_servers_of_which_one_is_not_there(
    servers: list[Serving], tmp_path: Path, file: Any, asked: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "REST_S", 0.05)
    out = tmp_path / "out.jsonl"
    addresses = ",".join([servers[0].url, "http://127.0.0.1:9", f"{servers[1].url}/v1/"])
    assert run(cli, ["batch", "tiny", str(file(asked)), str(out), "--servers", addresses, "--parallel", "2"]) == 0
    assert answers(out) == expected


def test_a_server_that_ends_in_the_middle(
    tiny_bundle: Path, servers: list[Serving], tmp_path: Path, file: Any, asked: Any, expected: Any
) -> None:
    """A server in a process of its own is killed once it has answered something."""
    command = [sys.executable, "-m", "gemma4gguf", "serve", str(tiny_bundle), "--port", "0", *OPENING]
    mortal = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    assert mortal.stderr
    address = next(line for line in mortal.stderr if " at http" in line).split()[-1]
    out = tmp_path / "out.jsonl"
    batch_of = [sys.executable, "-m", "gemma4gguf", "batch", "tiny", str(file(asked)), str(out)]
    asking = subprocess.Popen([*batch_of, "--servers", f"{address},{servers[0].url}", "--parallel", "1"])
    while asking.poll() is None and (not out.exists() or not out.stat().st_size):
        time.sleep(0.01)
    mortal.kill()
    mortal.wait()
    mortal.stderr.close()
    assert asking.wait(120) == 0
    assert answers(out) == expected


def test_nobody_answers(
    tmp_path: Path, file: Any, asked: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PATIENCE_S", 0.2)
    monkeypatch.setattr(running, "REST_S", 0.05)
    out = tmp_path / "out.jsonl"
    assert run(cli, ["batch", "tiny", str(file(asked)), str(out), "--servers", "http://127.0.0.1:9"]) == 1
    assert "nobody has answered for 0.2 s (http://127.0.0.1:9: " in capsys.readouterr().err
    assert out.read_bytes() == b""


def test_a_server_that_says_nothing(tmp_path: Path, file: Any, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and hangs: the limit ends that, and each line becomes an error."""
    monkeypatch.setattr(running, "REST_S", 0.01)
    out = tmp_path / "out.jsonl"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert batch("tiny", file(asked[:3]), out, "--servers", address, "--timeout", 0.1) == 1
    lines = [json.loads(data) for data in out.read_text().splitlines()]
    assert {line["custom_id"] for line in lines} == {"q0", "q1", "q2"}
    assert {line["error"]["message"] for line in lines} == {"no answer within 0.1 s"}
