"""Many lines of all kinds for the small model, the command that answers them, and the answer to one alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

from gemma4gguf import Gemma4, Result
from gemma4gguf.batch.lines import CHAT, RESPONSES
from gemma4gguf.media.audio import SAMPLE_RATE
from gemma4gguf.records import Logprob
from tests.support.held import material
from training import pictures

# In float32, where it makes no difference in how many pieces a prompt is read, or what a cache held before.
HOW: dict[str, Any] = {"context": 1024, "threads": 1, "draft": "off", "kv_type": "f32", "flash_attention": "off"}
LETTER, CERTAIN, LONG = "a", 100, 48  # answers of one letter again and again, by a bias on its token: of a known length
NEAR = 0.05  # between two tokens: rows that are computed together are rounded otherwise
STORY = "The quick brown fox jumps over the lazy dog while seven wizards pack boxes. " * 6
Json = dict[str, Any]


def opened(bundle: Path, **more: Any) -> Gemma4:
    return Gemma4(bundle, **HOW, **more)


def command(file: object, source: Path, out: Path, *options: object) -> list[str]:
    """The command line that answers lines by a model opened in the same way."""
    return program("batch", file, source, out, *options)


def program(*arguments: object) -> list[str]:
    """A command of ours that opens the model in the same way."""
    how = [part for name, value in HOW.items() for part in (f"--{name.replace('_', '-')}", value)]
    return [*map(str, (sys.executable, "-m", "gemma4gguf", *arguments, *how))]


def letter_of(model: Gemma4) -> int:
    """The token that long answers consist of."""
    return model.tokenize(LETTER)[0]


def mixed(count: int, folder: Path, letter: int) -> list[Json]:
    """Sums by both APIs, long answers, pictures, clips, and questions after a text that they share.

    Pictures and clips become files in the folder.
    """
    held, chance = material(), np.random.default_rng(20)
    cards, clips = 40, [clip for _, clip in held.clips]
    for i in range(cards):
        pictures.card(list(chance.permutation(held.digits)[:4]), chance, plain=True).save(folder / f"{i}.png")
    for i, clip in enumerate(clips):
        soundfile.write(folder / f"{i}.wav", clip, SAMPLE_RATE)

    def asked(i: int) -> Json:
        addition, saying = f"What is {i} + {i % 89}?", f"{i}: say it."
        shown = [picture(f"file:{i % cards}.png"), {"type": "text", "text": "What number is this?"}]
        sound = {"type": "input_audio", "input_audio": {"data": f"file:{i % len(clips)}.wav"}}
        heard = [{"type": "text", "text": "What is said?"}, sound]
        long = line(f"q{i}", saying, max_tokens=LONG, logit_bias={str(letter): CERTAIN})
        own = {"url": RESPONSES, "body": {"input": addition, "temperature": 0, "max_output_tokens": 32}}
        kinds = (
            *(line(f"q{i}", addition), long, line(f"q{i}", shown), long, line(f"q{i}", heard), long),
            *({"custom_id": f"q{i}", "method": "POST", **own}, line(f"q{i}", addition, system=STORY)),
        )
        return kinds[i % len(kinds)]

    return [asked(i) for i in range(count)]


def line(name: str, content: object, system: str | None = None, max_tokens: int = 32, **more: object) -> Json:
    """A line of OpenAI's chat API."""
    head = [] if system is None else [{"role": "system", "content": system}]
    messages = [*head, {"role": "user", "content": content}]
    body = {"messages": messages, "temperature": 0, "max_tokens": max_tokens, **more}
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": body}


def picture(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def alone(model: Gemma4, asked: Json, folder: Path, **more: Any) -> Result:
    """The answer to one line, as a program asks it; its files are in the folder."""
    body = json.loads(json.dumps(asked["body"]).replace("file:", f"{folder}/"))
    messages = body["messages"] if "messages" in body else [{"role": "user", "content": body["input"]}]
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = [_local(part) for part in message["content"]]
    bias = {int(token): value for token, value in body.get("logit_bias", {}).items()} or None
    most = body.get("max_tokens") or body["max_output_tokens"]
    return model.chat(messages, local_files=True, temperature=0, max_tokens=most, logit_bias=bias, **more)


def _local(part: Json) -> Json:
    return {"type": "audio", "path": part["input_audio"]["data"]} if part["type"] == "input_audio" else part


def same(
    bundle: Path, folder: Path, lines: Sequence[Json], expected: Mapping[str, str], found: Mapping[str, str]
) -> bool:
    """Whether all answers are there, and equal but for near ties. Prints those that differ."""
    if found.keys() != expected.keys():
        print(f"{len(expected.keys() - found.keys())} lines are lost")
        return False
    far, other = 0, [one for one in lines if found[one["custom_id"]] != expected[one["custom_id"]]]
    with opened(bundle) as model:
        for one in other:
            name = one["custom_id"]
            said = alone(model, one, folder, logprobs=True, top_logprobs=2).logprobs
            gap = gap_where_they_part(said, expected[name], found[name])
            far += gap > NEAR
            print(f"{name}: two tokens {gap:.4f} apart: {expected[name]!r} alone, {found[name]!r} here")
    print(f"{len(found)} answers; {len(other)} differ, {far} of them by no near tie")
    return not far


def gap_where_they_part(said: Sequence[Logprob], *texts: str) -> float:
    """How far apart the two likeliest tokens are where an answer and one of the texts may have parted.

    That is the first place that a text lacks, or one before it whose second token begins a text's rest as well: " " and
    " follows" both do.
    """
    wanted, so_far, gaps = [text.encode() for text in texts], b"", []
    for token in said:
        first, second = token.top
        whole = all(text.startswith(so_far + token.piece) for text in wanted)
        if not whole or any(text.startswith(so_far + second.piece) for text in wanted):
            gaps.append(first.logprob - second.logprob)
        if not whole:
            break
        so_far += token.piece
    return min(gaps)


def count(out: Path) -> int:
    """Whole lines of a file that may not be there yet."""
    return out.read_bytes().count(b"\n") if out.exists() else 0


def until(happened: Callable[[], bool], seconds: float = 600) -> None:
    """Wait for what must happen. Servers that are not there yet are no error."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if happened():
                return
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds:g} s")
