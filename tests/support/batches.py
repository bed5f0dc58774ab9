"""Lines of batches, the command that answers them, and what their files of answers say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma4gguf.cli import cli, run

OPENING = ("--context", "2048", "--threads", "1", "--draft", "off")


def batch(*arguments: object) -> int:
    """The command in this process; its exit status."""
    return run(cli, ["batch", *map(str, arguments), *OPENING])


def written(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """A file of lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def answers(path: Path) -> dict[str, str]:
    """Texts by id, in the file's order; an id that is there twice fails, and so does an error."""
    found: dict[str, str] = {}
    for data in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(data)
        assert line["custom_id"] not in found
        found[line["custom_id"]] = said(line["response"]["body"])
    return found


def said(body: Mapping[str, Any]) -> str:
    """The text of an answer of either API."""
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    return "".join(part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"])
