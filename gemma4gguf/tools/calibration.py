"""The bundled calibration corpus: text in several languages, code, chats, tool calls, drawn pictures and sounds.

Nothing comes in. Out: a text, and conversations as messages, whose pictures are pixels and whose clips are samples; the
same ones on every machine. This module does not know what they are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 336  # pixels of a drawn picture
RATE = 16_000  # samples per second

Pixels = NDArray[np.uint8]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Chat:
    """A whole conversation, with the model's own turns, and the tools that it may call."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: bool = False


def text() -> str:
    return files(__package__).joinpath("calibration.txt").read_text(encoding="utf-8")


def chats(*, media: bool) -> list[Chat]:
    """Conversations in text alone, then with each picture and each clip if `media`."""
    found = [Chat((_user(asked), _model(answered))) for asked, answered in _TALK]
    found += [*_tool_calls(), Chat((_user("Which is larger, 9.11 or 9.9?"), _model("9.9 is larger.")), thinking=True)]
    if not media:
        return found
    found += [
        Chat((_user("What do you see?", {"type": "image", "image": pixels}), _model(said)))
        for pixels, said in pictures()
    ]
    found += [
        Chat((_user("What do you hear?", {"type": "audio", "audio": (clip, RATE)}), _model(said)))
        for clip, said in sounds()
    ]
    return found


def _user(asked: str, *media: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*media, {"type": "text", "text": asked}]}


def _model(said: str) -> dict[str, Any]:
    return {"role": "assistant", "content": said}


_TALK = (
    ("Hi, who are you?", "I am Gemma, a model that reads text, sees pictures and hears sound. What can I do for you?"),
    ("Give me three names for a grey cat.", "1. Ash\n2. Pebble\n3. Fog"),
    (
        "Translate into German: The window is open because it was too warm.",
        "Das Fenster ist offen, weil es zu warm war.",
    ),
    (
        "Write a Python function that reverses the words of a sentence.",
        'def reverse_words(sentence: str) -> str:\n    return " ".join(reversed(sentence.split()))',
    ),
    ("Ist 97 eine Primzahl?", "Ja. 97 ist durch keine Primzahl bis 9 teilbar (2, 3, 5, 7), also ist sie prim."),
    (
        "Summarise: the meeting moved from Tuesday to Thursday, because the room is being painted; bring the plans.",
        "The meeting is on Thursday now, as the room is being painted. Bring the plans.",
    ),
)


def _tool_calls() -> Iterator[Chat]:
    """A question, the call, the tool's response, the answer."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "description": "The weather in a city now.", "parameters": parameters}
    for city, weather in (("Oslo", "4 C and rain"), ("Lima", "19 C and fog"), ("Cairo", "31 C, clear")):
        call = {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'}
        yield Chat(
            (
                {"role": "user", "content": f"What is the weather in {city}?"},
                {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
                {"role": "tool", "tool_call_id": "1", "content": weather},
                _model(f"It is {weather} in {city}."),
            ),
            ({"type": "function", "function": function},),
        )


# ── drawn and computed media ─────────────────────────────────────────────────────────────────────────────────────


def pictures() -> Iterator[tuple[Pixels, str]]:
    """Pictures, uint8 [336, 336, 3], each with what it shows."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    chance = np.random.Generator(np.random.PCG64(19))
    disc, box = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.09, (abs(x - 0.4) < 0.2) & (abs(y - 0.6) < 0.15)
    yield _painted(disc, (220, 40, 30), (245, 240, 225)), "A red disc on a cream ground."
    yield _painted(box, (30, 70, 200), (250, 250, 210)), "A blue rectangle on pale yellow."
    yield _painted((np.floor(8 * x) + np.floor(8 * y)) % 2 == 0, (20, 20, 20), (235, 235, 235)), "A chessboard."
    yield _pixels(np.dstack([x, y, 1 - x])), "A gradient from blue to yellow."
    yield _pixels(np.dstack([0.35 + 0.3 * y, 0.5 + 0.2 * y, 0.9 - 0.5 * y])), "A sky that is darker above."
    bars = y > 1 - np.array([0.3, 0.7, 0.45, 0.9, 0.2, 0.6])[np.minimum((6 * x).astype(int), 5)]
    yield _painted(bars & ((6 * x) % 1 < 0.7), (40, 120, 60), (255, 255, 255)), "A bar chart with six bars."
    lines = (
        ((24 * y) % 1 < 0.45)
        & (x > 0.08)
        & (x < 0.92)
        & (chance.random((24, 60))[(24 * y).astype(int), (60 * x).astype(int)] < 0.7)
    )
    yield _painted(lines, (15, 15, 25), (252, 252, 250)), "A page of small print."
    coarse = chance.random((14, 14, 3))
    smooth = np.kron(coarse, np.ones((SIDE // 14, SIDE // 14, 1)))
    yield _pixels(0.7 * smooth + 0.3 * chance.random((SIDE, SIDE, 3))), "Coloured squares with noise."
    waves = 0.5 + 0.5 * np.sin(40 * x + 6 * np.sin(9 * y))
    yield _pixels(np.dstack([waves, 0.6 * waves + 0.2, 0.3 + 0 * waves])), "Wavy stripes, like wood."


def _painted(where: NDArray[np.bool_], ink: tuple[int, ...], paper: tuple[int, ...]) -> Pixels:
    return np.where(where[..., None], np.array(ink, np.uint8), np.array(paper, np.uint8))


def _pixels(values: NDArray[np.float64]) -> Pixels:
    return np.asarray(np.rint(255 * np.clip(values, 0, 1)), np.uint8)


def sounds() -> Iterator[tuple[Samples, str]]:
    """Clips of 2 s at 16 kHz, float32, each with what it is."""
    t = np.arange(2 * RATE) / RATE
    chance = np.random.Generator(np.random.PCG64(91))
    noise = chance.normal(size=t.size)
    yield _clip(np.sin(2 * np.pi * 440 * t)), "A steady tone."
    yield _clip(np.sin(2 * np.pi * (200 * t + 400 * t**2))), "A tone that rises."
    yield _clip(noise), "Noise."
    yield _clip(noise * (np.sin(2 * np.pi * 3 * t) > 0.9)), "Six short bursts of noise, like claps."
    yield _clip(sum(np.sin(2 * np.pi * f * t) for f in (262, 330, 392)) * np.exp(-1.5 * t)), "A chord that fades."
    pulses = np.cumsum(np.sin(2 * np.pi * (110 + 20 * np.sin(2 * np.pi * 1.5 * t)) * t) > 0.95) % 7
    for (low, high), said in (
        ((700, 1200), "A voice-like ah."),
        ((300, 2300), "A voice-like ee."),
        ((350, 800), "A voice-like oo."),
    ):
        vowel = (pulses == 0) * (np.sin(2 * np.pi * low * t) + 0.6 * np.sin(2 * np.pi * high * t))
        yield _clip((vowel + 0.02 * noise) * (0.2 + np.sin(np.pi * 2 * t) ** 2)), said


def _clip(values: NDArray[np.float64]) -> Samples:
    return np.asarray(0.5 * values / np.abs(values).max(), np.float32)
