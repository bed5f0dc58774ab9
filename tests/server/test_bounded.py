"""Media that were held against the limits go back to the parts that they came from."""

from __future__ import annotations

import base64
from typing import Any

from gemma4gguf.server.limits import bounded
from gemma4gguf.server.settings import Limits
from tests.support.serving import DEMO, encoded

VIDEO = b"\x00\x00\x00\x20ftypisom, and no more: only its reader decodes it"


def test_a_video_before_a_picture_and_a_clip() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{base64.b64encode(VIDEO).decode()}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(DEMO / 'digits.png')}"}},
        {"type": "input_audio", "input_audio": {"data": encoded(DEMO / "number.wav"), "format": "wav"}},
        {"type": "text", "text": "What is this?"},
    ]
    (message,) = bounded([{"role": "user", "content": parts}], Limits())
    content: Any = message["content"]
    by_kind = {part["type"]: part for part in content}
    assert by_kind["video"]["video"] == VIDEO
    assert by_kind["image"]["image"] == (DEMO / "digits.png").read_bytes()
    assert by_kind["audio"]["audio"][1] == 16_000
