#!/usr/bin/env python3
"""Several answers at once, and turns that cost only what is new, beside llama-server on parts cut from the same bundle.

    benchmarks/conversations.py BUNDLE [--peers FOLDER] [--threads N] [--rounds 3] [--quick] [--only chat,logits]

FOLDER is what scripts/peers prints. Every answer is one letter again and again, by a bias on its token, so that both
write the same number of tokens and each of them shows. One contestant works at a time.

throughput  tokens a second of four answers of 64 tokens, one after another and at once (llama-server with -np 4).
stall       the longest time between two tokens of a stream while a text of 1,500 tokens, or a picture, is read for
            somebody else, beside the time that a piece of 256 positions, or the picture alone, takes.
chat        seconds to the first token, and positions evaluated of how many, by turn: ten turns with a picture and a
            clip, then a thought of 2,000 tokens that history leaves out, an earlier turn edited, a second chat and the
            first one again by turns; each beside the same from a cold cache. Ours also: the next turn in a new process,
            from `cache_dir` and without it.
logits      the largest difference of a logit after each of these prompts between the warm and the cold cache, ours, for
            caches of float32, f16 and q8_0.

--quick asks for less of everything: whether it works, not how fast. Prints JSON, and how long it took itself.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf import Gemma4, Message  # noqa: E402
from gemma4gguf.bundle.reading import EMBEDDER, TEXT, Bundle  # noqa: E402
from gemma4gguf.machine import physical_cores  # noqa: E402
from tests.support.contestants import LETTER, Contestant, Ours, Theirs, Turn  # noqa: E402
from tests.support.runtimes import serve  # noqa: E402

PLACES, ANSWER, PIECE = 4, 64, 256
SIDE = 768  # pixels: 256 soft tokens for both, which would scale other sizes differently
WORDS = "The quick brown fox jumps over the lazy dog while seven wizards quietly pack boxes of liquor jugs. "


NEXT = """
import json, sys
from gemma4gguf import Gemma4
given = json.loads(sys.argv[1])
with Gemma4(given["file"], **given["how"]) as model:
    model.load()
    result = model.chat(given["messages"], max_tokens=1, temperature=0)
print(json.dumps([result.timings.time_to_first_token_s, result.tokens.prompt, result.tokens.reused]))
"""


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────


def user(text: str, *media: Message) -> Message:
    return {"role": "user", "content": [*media, {"type": "text", "text": text}] if media else text}


def picture(number: int) -> Message:
    """A picture of its own for each number."""
    pixels = np.asarray(Image.radial_gradient("L").resize((SIDE, SIDE)))
    out = io.BytesIO()
    Image.fromarray(np.stack([np.roll(pixels, 90 * number * i, 1) for i in range(3)], -1)).save(out, "PNG")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_base64(out.getvalue())}"}}


def clip() -> Message:
    data = (ROOT / "models" / "demo" / "number.wav").read_bytes()
    return {"type": "input_audio", "input_audio": {"data": _base64(data), "format": "wav"}}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def long_text(model: Gemma4, tokens: int) -> str:
    """A text of about so many tokens."""
    once = len(model.tokenize(WORDS))
    return WORDS * max(1, tokens // once)


@dataclass
class Plan:
    """How much of everything."""

    rounds: int
    answer: int = ANSWER
    text: int = 1500
    turns: int = 10
    thought: int = 2000


# ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────────


def throughput(ready: dict[str, Contestant], plan: Plan) -> dict[str, dict[str, list[float]]]:
    """Tokens a second, one after another and at once, by contestant and round. They take turns: machines drift."""
    asked = [[user(f"{number}: {WORDS}")] for number in range(PLACES)]
    found: dict[str, dict[str, list[float]]] = {name: {"one at a time": [], "at once": []} for name in ready}
    with ThreadPoolExecutor(PLACES) as pool:

        def rate(contestant: Contestant, run: Callable[..., Iterable[Turn]]) -> float:
            begun = time.perf_counter()
            turns = list(run(lambda messages: contestant.ask(messages, plan.answer), asked))
            assert all(len(turn.text) == plan.answer * len(LETTER) for turn in turns), [t.text for t in turns]
            return round(PLACES * plan.answer / (time.perf_counter() - begun), 2)

        for contestant in ready.values():
            list(pool.map(lambda messages: contestant.ask(messages, 2), asked))  # noqa: B023 (the pool is waited for)
        for _ in range(plan.rounds):
            for kind, run in (("one at a time", map), ("at once", pool.map)):
                for name, contestant in ready.items():
                    found[name][kind].append(rate(contestant, run))
    return found


def stall(contestant: Contestant, others: Sequence[tuple[str, list[Message]]], plan: Plan) -> dict[str, Any]:
    """Longest times between two tokens of a stream, by what else was read meanwhile."""
    found: dict[str, Any] = {}
    for name, messages in others:
        alone = [contestant.ask(messages, 1, cold=True).first_s for _ in range(plan.rounds)]
        longest = []
        for number in range(plan.rounds):
            begun, count = threading.Event(), 0

            def told(begun: threading.Event = begun) -> None:
                nonlocal count
                count += 1
                if count == 8:
                    begun.set()

            with ThreadPoolExecutor(1) as pool:
                # Long enough to last until the other prompt has been read.
                stream = pool.submit(contestant.ask, [user(f"{number} Go on.")], plan.answer * 8, told)
                begun.wait()
                between = time.perf_counter()
                contestant.ask([*messages[:-1], _numbered(messages[-1], number)], 1)
                until = time.perf_counter()
                times = [at for at in stream.result().pieces if at >= between - 1]
            gaps = [b - a for a, b in pairwise(times) if b > between and a < until]
            longest.append(round(max(gaps), 3))
        found[name] = {"alone_s": [round(s, 3) for s in alone], "longest_stall_s": longest}
    return found


def _numbered(message: Message, number: int) -> Message:
    """The same question as another prompt from its first word on."""
    content = message["content"]
    if isinstance(content, str):
        return user(f"{number + 10} {content}")
    assert isinstance(content, list)
    return user(f"{number + 10} {content[-1]['text']}", picture(number + 10))


def chat(contestant: Contestant, plan: Plan) -> list[tuple[str, list[Message], Turn]]:
    """The conversation's steps in order, each with its prompt."""
    steps: list[tuple[str, list[Message], Turn]] = []

    def ask(name: str, messages: list[Message], tokens: int = 16) -> list[Message]:
        turn = contestant.ask(messages, tokens)
        steps.append((name, messages, turn))
        return [*messages, {"role": "assistant", "content": turn.text[: 16 * len(LETTER)]}]

    first: list[Message] = []
    halfway: list[Message] = []
    for number in range(plan.turns):
        media = [picture(0)] if number == 0 else [clip()] if number == 1 else []
        last = number == plan.turns - 1
        first = ask(
            f"turn {number + 1}", [*first, user(f"Question {number}. {WORDS}", *media)], plan.thought * last or 16
        )
        halfway = first if number == plan.turns // 2 - 1 else halfway
    first = ask(f"after a thought of {plan.thought} tokens", [*first, user(f"And then? {WORDS}")])
    ask(f"turn {plan.turns // 2 + 1} edited", [*halfway, user(f"Rather this. {WORDS}")])
    second: list[Message] = []
    for number in range(3):
        second = ask(f"second chat, turn {number + 1}", [*second, user(f"{number}? {WORDS}", *[picture(1)][number:])])
        first = ask(f"first chat again, {number + 1}", [*first, user(f"Once more, {number}. {WORDS}")])
    return steps


def chat_part(contestant: Contestant, plan: Plan) -> list[dict[str, Any]]:
    steps = chat(contestant, plan)
    colds = [contestant.ask(messages, 1, cold=True) for _, messages, _ in steps]
    return [
        {"step": name, **turn.row(), "cold_s": round(cold.first_s, 3), "ratio": round(turn.first_s / cold.first_s, 3)}
        for (name, _, turn), cold in zip(steps, colds, strict=True)
    ]


class Watched:
    """Keeps the logits of each prompt, as they are before its answer's second token."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self.seen: list[NDArray[np.float32]] = []

    def logits(self, messages: Sequence[Message], cold: bool = False) -> NDArray[np.float32]:
        self._ours.ask(messages, 1, cold=cold)
        row: NDArray[np.float32] = self._ours.model.engine.session.context.logits().copy()
        return row

    def ask(
        self, messages: Sequence[Message], tokens: int, told: Callable[[], object] = lambda: None, cold: bool = False
    ) -> Turn:
        self.seen.append(self.logits(messages))
        return self._ours.ask(messages, tokens)


def new_process(file: Path, how: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The next turn of a conversation in a process of its own, with and without what the first one left on disk."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {**how, "cache_dir": folder}
        with Gemma4(file, **kept) as model:
            _, messages, turn = chat(Ours(model), plan)[-1]
        messages = [*messages, {"role": "assistant", "content": turn.text}, user(f"And now? {WORDS}")]
        found = {}
        for name, options in (("from cache_dir", kept), ("cold", how)):
            given = json.dumps({"file": str(file.resolve()), "how": options, "messages": messages})
            run = subprocess.run(
                [sys.executable, "-c", NEXT, given], check=True, capture_output=True, text=True, cwd=ROOT
            )
            first_s, prompt, reused = json.loads(run.stdout)
            found[name] = {"first_s": round(first_s, 3), "evaluated": prompt - reused, "prompt": prompt}
    return found


def logits(file: Path, how: dict[str, Any], plan: Plan) -> dict[str, dict[str, float]]:
    """By type of the cache and by step: how far a logit is off after a warm prompt."""
    found: dict[str, dict[str, float]] = {}
    for kind in ("f32", "f16", "q8_0"):
        # llama.cpp reads a float32 cache as f16 in flash attention.
        more: dict[str, Any] = {"flash_attention": "off"} if kind == "f32" else {}
        with Gemma4(file, **how, **more, kv_type=kind) as model:
            watched = Watched(Ours(model))
            steps = chat(watched, plan)
            off = {}
            for (name, messages, _), warm in zip(steps, watched.seen, strict=True):
                cold = watched.logits(messages, cold=True)
                finite = np.isfinite(warm)  # tokens that are never said are not
                off[name] = round(float(np.abs(cold - warm)[finite].max()), 5)
            found[kind] = off
    return found


@contextmanager
def contestants(given: argparse.Namespace, places: int, how: dict[str, Any]) -> Iterator[dict[str, Contestant]]:
    """Ours, and llama-server where its programs are given."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = stack.enter_context(Gemma4(given.bundle, **how, parallel=places))
        model.load()
        found: dict[str, Contestant] = {"ours": Ours(model)}
        if given.peers:
            opened = Bundle.open(given.bundle)
            for name in (TEXT, EMBEDDER):
                with (folder / name).open("wb") as part:
                    part.writelines(opened.require(name).copy())
            command = [given.peers / "bin" / "llama-server", "-m", folder / TEXT, "--mmproj", folder / EMBEDDER]
            command += ["-np", places, "-c", how["context"] * places, "-t", how["threads"], "--jinja", "-fa", "on"]
            address = stack.enter_context(serve(command, folder / "log"))
            found["llama-server"] = Theirs(address, model.tokenize(LETTER)[0])
        yield found


PARTS = ("throughput", "stall", "chat", "logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas [{','.join(PARTS)}]")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    plan = Plan(1, answer=16, text=300, turns=3, thought=40) if given.quick else Plan(given.rounds)
    how: dict[str, Any] = {"context": given.context, "threads": given.threads, "draft": "off"}
    begun, found = time.perf_counter(), dict[str, Any]()
    if {"throughput", "stall"} & set(parts):
        with contestants(given, PLACES, how) as ready:
            ours = ready["ours"]
            assert isinstance(ours, Ours)
            others = [("text", [user(long_text(ours.model, plan.text))]), ("picture", [user("What?", picture(5))])]
            if "throughput" in parts:
                for name, rates in throughput(ready, plan).items():
                    found[f"throughput, {name}"] = rates
                    print(name, rates, file=sys.stderr)
            for name, contestant in ready.items() if "stall" in parts else ():
                found[f"stall, {name}"] = stalls = stall(contestant, others, plan)
                print(name, stalls, file=sys.stderr)
            found["a piece of 256 positions, ours"] = piece(ours, plan)
    if "chat" in parts:
        with contestants(given, 1, how) as ready:
            for name, contestant in ready.items():
                found[f"chat, {name}"] = rows = chat_part(contestant, plan)
                print(*(f"{name}: {row}" for row in rows), sep="\n", file=sys.stderr)
        found["chat, a new process, ours"] = new_process(given.bundle, how, plan)
    if "logits" in parts:
        found["logits"] = logits(given.bundle, how, plan)
    if "throughput" in parts and given.peers:
        pairs = zip(found["throughput, ours"]["at once"], found["throughput, llama-server"]["at once"], strict=True)
        found["throughput at once, ours / llama-server"] = round(statistics.median(a / b for a, b in pairs), 3)
    found["took_s"] = round(time.perf_counter() - begun)
    print(json.dumps(found, indent=1))


def piece(ours: Ours, plan: Plan) -> float:
    """Seconds for 256 positions of a prompt."""
    turns = [ours.ask([user(f"{n} {long_text(ours.model, plan.text)}")], 1, cold=True) for n in range(plan.rounds)]
    return round(statistics.median(turn.first_s * PIECE / turn.prompt for turn in turns), 3)


if __name__ == "__main__":
    main()
