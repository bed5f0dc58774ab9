"""A batch on a Ray cluster of this machine alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gemma4gguf import Gemma4
from tests.support.batches import answers, batch, written
from tests.support.serving import DEMO, encoded


def test_a_cluster_answers_as_a_model_here(tiny_bundle: Path, tmp_path: Path) -> None:
    """Sums, a picture in the line and one by its name, in a folder of parts."""
    shutil.copy(DEMO / "digits.png", tmp_path / "a.png")
    how: dict[str, Any] = {"temperature": 0, "max_tokens": 32}
    with Gemma4(tiny_bundle, context=2048, threads=1, draft="off") as model:
        sums = [f"What is {i} + {i + 5}?" for i in range(6)]
        expected = {text: model.generate(text, **how).text for text in sums}
        seen = model.generate("What number is this?", images=[tmp_path / "a.png"], **how).text
    lines: list[dict[str, Any]] = [
        {"custom_id": text, "body": {"messages": [{"role": "user", "content": text}], **how}} for text in sums
    ]
    for url in (f"data:image/png;base64,{encoded(DEMO / 'digits.png')}", "file:a.png"):
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What number is this?"}]
        lines.append({"custom_id": url[:9], "body": {"messages": [{"role": "user", "content": content}], **how}})
    (tmp_path / "parts").mkdir()
    written(tmp_path / "parts" / "1.jsonl", lines[:4])
    written(tmp_path / "parts" / "2.jsonl", lines[4:])
    out = tmp_path / "answers"
    assert batch(tiny_bundle, tmp_path / "parts", out, "--ray", "local", "--files-from", tmp_path) == 0
    assert {**answers(out / "1.jsonl"), **answers(out / "2.jsonl")} == {
        **expected, "data:imag": seen, "file:a.pn": seen
    }  # fmt: skip
