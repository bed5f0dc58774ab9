"""Held-out questions of the trained tiny model: what is asked, and how much of it is answered rightly."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from gemma4gguf import Gemma4
from gemma4gguf.chat.reply import parse_reply
from gemma4gguf.media.audio import SAMPLE_RATE
from training import texts, videos, watching

DATA = Path(__file__).parents[1] / "data"
COUNT = 24  # questions a task


@cache
def material() -> texts.Material:
    """Digits, voices and speeds that were never trained on. The clips are at 16 kHz."""
    kept = json.loads((DATA / "tiny.json").read_text())
    samples, _ = soundfile.read(DATA / "tiny.flac", dtype="int16")
    clips = list(zip(kept["words"], np.split(samples, kept["ends"][:-1]), strict=True))
    digits = np.array(kept["digits"], np.uint8).reshape(-1, 8, 8)
    return texts.Material(True, digits, np.array(kept["labels"]), clips)


def watch(kind: str, rng: np.random.Generator, m: texts.Material) -> texts.Example:
    """A question about a clip of 2 to 8 frames: "watch" asks for its colours, "watch_when" when they change."""
    while (example := watching.watch(rng, m)).kind != kind:
        pass
    return example


Make = Callable[[np.random.Generator, texts.Material], texts.Example]
TASKS: dict[str, Make] = {
    "digit": partial(texts.row, count=1, think=False),
    "row": partial(texts.row, count=3, think=False),
    "see": texts.see,
    "photo": texts.photo,
    "watch": partial(watch, "watch"),
    "when": partial(watch, "watch_when"),
    "watch and hear": watching.watch_hear,
    "hear": texts.hear,
    "sum": texts.total,
    "think": partial(texts.total, think=True),
    "tool": texts.use_tool,
}


def ask(model: Gemma4, example: texts.Example) -> Any:
    return model.generate(
        example.prompt.removeprefix("<bos>"),
        images=example.images,
        audio=[(s, SAMPLE_RATE) for s in example.sounds],
        videos=[videos.encoded(clip) for clip in example.clips],
        raw=True,
        temperature=0,
        max_tokens=64,
    )


def said(reply: Any) -> Any:
    return reply.text, reply.thought, [(call.name, call.arguments) for call in reply.tool_calls]


def right(model: Gemma4, example: texts.Example) -> bool:
    wanted = example.reply.removesuffix("<turn|>").removesuffix("<|tool_response>")
    return bool(said(ask(model, example)) == said(parse_reply(wanted)))


def figure(model: Gemma4, held: texts.Material, task: str, count: int = COUNT) -> float:
    rng = np.random.default_rng(1)
    return float(np.mean([right(model, TASKS[task](rng, held)) for _ in range(count)]))
