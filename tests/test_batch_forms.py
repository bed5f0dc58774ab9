"""Batches as other programs write them, in parts and as folders; and lines that another process reads."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from gemma4gguf import Gemma4
from gemma4gguf.batch.cluster import pool
from gemma4gguf.batch.journal import Answer
from gemma4gguf.batch.lines import entries, folder_entries
from gemma4gguf.batch.run import AwayError, FailedError
from tests.support.batches import answers, batch, written
from tests.support.recorded import moving, video_file
from tests.support.serving import DEMO, encoded

SUM = "What is 47 + 38?"
PICTURE = f"data:image/png;base64,{encoded(DEMO / 'digits.png')}"


def test_lines_of_the_openai_package(tiny_bundle: Path, tmp_path: Path) -> None:
    """Bodies of its own types go in, and its own types read what comes out."""
    chat: CompletionCreateParamsNonStreaming = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
            {"type": "text", "text": "What number is this?"},
        ]}],
        "max_completion_tokens": 32,
        "temperature": 0,
        "store": False,
        "metadata": {"from": "a batch"},
    }  # fmt: skip
    response: ResponseCreateParamsNonStreaming = {
        "model": "gpt-4o-mini",
        "instructions": "Add.",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": SUM}]}],
        "max_output_tokens": 32,
        "temperature": 0,
    }
    lines: list[dict[str, Any]] = [
        {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        {"custom_id": "request-2", "method": "POST", "url": "/v1/responses", "body": response},
    ]
    out = tmp_path / "out.jsonl"
    assert batch(tiny_bundle, written(tmp_path / "in.jsonl", lines), out) == 0
    found = {line["custom_id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert all(line["error"] is None and line["response"]["status_code"] == 200 for line in found.values())
    assert all(line["id"] and line["response"]["request_id"] for line in found.values())
    first = ChatCompletion.model_validate(found["request-1"]["response"]["body"], strict=True)
    assert first.choices[0].message.content == "I read the number 4072."
    second = Response.model_validate(found["request-2"]["response"]["body"])
    assert second.output_text.endswith("85")


def test_lines_of_vllm(tiny_bundle: Path, tmp_path: Path) -> None:
    """With fields of its own, which are understood or left out, and an address that has no answer here."""
    own = {
        "min_tokens": 1,
        "top_k": -1,
        "ignore_eos": False,
        "skip_special_tokens": True,
        "add_generation_prompt": True,
    }
    body = {
        "model": "google/gemma-4-12B-it",
        "messages": [{"role": "user", "content": SUM}],
        "max_completion_tokens": 32,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    lines: list[dict[str, Any]] = [
        {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "request-2", "method": "POST", "url": "/v1/chat/completions", "body": {**body, **own}},
        {"custom_id": "request-3", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "Hi"}},
    ]
    out = tmp_path / "out.jsonl"
    assert batch(tiny_bundle, written(tmp_path / "in.jsonl", lines), out) == 1
    found = {line["custom_id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert {name: line["response"]["status_code"] for name, line in found.items()} == {
        "request-1": 200, "request-2": 200, "request-3": 400
    }  # fmt: skip
    assert "/v1/embeddings" in found["request-3"]["error"]["message"]


def test_a_folder_of_parts(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each part has its file of answers; ids are unique in a part; a limit counts all of them."""
    parts, out = tmp_path / "parts", tmp_path / "answers"
    parts.mkdir()
    assert batch(tiny_bundle, parts, out) == 1
    assert "has no *.jsonl in it" in capsys.readouterr().err
    body = {"messages": [{"role": "user", "content": SUM}], "temperature": 0, "max_tokens": 32}
    for name in ("b", "a"):
        written(parts / f"{name}.jsonl", [{"custom_id": f"q{i}", "body": body} for i in range(2)])
    assert batch(tiny_bundle, parts, out, "--limit", 3) == 0
    assert {path.name: len(answers(path)) for path in out.iterdir()} == {"a.jsonl": 2, "b.jsonl": 1}
    assert batch(tiny_bundle, parts, out) == 0
    assert {path.name: sorted(answers(path)) for path in out.iterdir()} == {
        "a.jsonl": ["q0", "q1"], "b.jsonl": ["q0", "q1"]
    }  # fmt: skip
    (tmp_path / "file").write_bytes(b"")
    assert batch(tiny_bundle, parts, tmp_path / "file") == 1
    assert "parts have their answers in a folder" in capsys.readouterr().err


def test_a_video_and_a_question(tiny_bundle: Path, tmp_path: Path) -> None:
    folder, out, question = tmp_path / "media", tmp_path / "out.jsonl", "What number is this?"
    folder.mkdir()
    (folder / "a.MP4").write_bytes(video_file("mp4", "libx264", moving(4, 96, 128), 25))
    assert batch(tiny_bundle, folder, out, "--prompt", question, "--max-tokens", 16) == 0
    (line,) = map(json.loads, out.read_text().splitlines())
    with Gemma4(tiny_bundle, context=2048, threads=1, draft="off") as model:
        alone = model.generate(question, videos=[folder / "a.MP4"], max_tokens=16)
    assert line["response"]["body"]["usage"]["prompt_tokens"] == alone.tokens.prompt


# ── lines elsewhere ──────────────────────────────────────────────────────────────────────────────────────────────


def test_another_process_reads_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to another machine is small, and needs neither this folder nor the picture's bytes."""
    shutil.copy(DEMO / "digits.png", tmp_path / "a.png")
    picture = {"type": "image_url", "image_url": {"url": PICTURE}}
    line = {"custom_id": "long", "body": {"messages": [{"role": "user", "content": [picture] * 20}]}}
    written(tmp_path / "in.jsonl", [line])
    monkeypatch.chdir(tmp_path)
    found = [*entries(Path("in.jsonl")), *folder_entries(Path(), None, "What is this?", {})]
    carried = [pickle.dumps(entry) for entry in found]
    assert max(map(len, carried)) < 2000 < len(PICTURE)
    monkeypatch.chdir("/")
    there = [pickle.loads(data) for data in carried]
    assert there[0].read().body == line["body"]
    assert [entry.read().digest for entry in there] == [entry.digest for entry in found]


def test_what_another_process_raises_arrives() -> None:
    away, failed = AwayError("busy", 3.0), FailedError(Answer(500, {"error": "no"}))
    there = pickle.loads(pickle.dumps(away))
    assert (there.message, there.after) == ("busy", 3.0)
    assert pickle.loads(pickle.dumps(failed)).answer == failed.answer


@pytest.mark.parametrize(
    ("cpus", "threads", "expected"),
    [
        ([16, 16, 8], None, (7, 3)),  # one on each node, and a processor left
        ([1], None, (1, 1)),
        ([16, 16, 8], 8, (8, 5)),
        ([4, 4], 8, (8, 0)),
    ],
)
def test_models_on_the_nodes_of_a_cluster(cpus: list[int], threads: int | None, expected: tuple[int, int]) -> None:
    assert pool(cpus, threads) == expected
