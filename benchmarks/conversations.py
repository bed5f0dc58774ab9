#!/usr/bin/env python3
"""Several answers at once, and turns that cost only what is new, beside llama-server on parts cut from the same bundle.

    benchmarks/conversations.py BUNDLE [--peers FOLDER] [--threads N] [--rounds 3] [--turns 10] [--quick]
        [--only chat,logits]

FOLDER is what scripts/peers prints. Every answer is one letter again and again, by a bias on its token, so that both
write the same number of tokens and each of them shows. The contestants take turns, step by step; one works at a time.
Texts are cut to a number of tokens of the bundle's own vocabulary: that of `make_checkpoint.py` writes nearly a token
for each byte, four or five times the real one's, and a question would be a large part of its conversation. What the
template's own words take more than in the real one, a question has less.

throughput   tokens a second of four answers of 64 tokens, one after another and at once (llama-server with -np 4).
stall        the longest time between two tokens of a stream while a text of 1,500 tokens, or a picture, is read for
             somebody else, beside the time that a piece of 256 positions, or the picture alone, takes.
chat         seconds to the first token, and positions evaluated of how many, by turn: ten turns with a picture in
             the first and a clip in the third, an earlier and the last turn edited, a second chat and the first one
             again by turns. Ours beside the same from a cold cache.
thought      the same with a thought of 2,000 tokens in the tenth turn, which history leaves out; cold from there on.
new process  ours: the turn after those ten, saved with `Conversation.save` and opened in a new process, with a
             `cache_dir` and without one.
logits       ours: the largest difference of a logit between the warm and the cold cache, after steps of `thought` with
             short answers and 1,000 tokens of thought, for caches of float32, f16 and q8_0.

--quick asks for less of everything: whether it works, not how fast. Prints each part's JSON in a line when it ends.
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
from dataclasses import dataclass, replace
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
from tests.support.contestants import CERTAIN, LETTER, Contestant, Ours, Theirs, Turn  # noqa: E402
from tests.support.runtimes import serve  # noqa: E402

PLACES, ANSWER, PIECE = 4, 64, 256
SIDE = 768  # pixels: 256 soft tokens for both, which would scale other sizes differently
WORDS = "The quick brown fox jumps over the lazy dog while seven wizards quietly pack boxes of liquor jugs. "
CLIP = (ROOT / "models" / "demo" / "number.wav").read_bytes()
Found = tuple[str, Any]  # a part of what was measured


NEXT = """
import json, sys
from gemma4gguf import Gemma4
given = json.loads(sys.argv[1])
with Gemma4(given["file"], **given["how"]) as model:
    model.load()
    result = model.open_conversation(given["saved"]).say(given["text"], max_tokens=1, temperature=0)
print(json.dumps([result.timings.time_to_first_token_s, result.tokens.prompt, result.tokens.reused]))
"""


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────


def user(text: str, *media: Message) -> Message:
    return {"role": "user", "content": [*media, {"type": "text", "text": text}] if media else text}


def picture_bytes(number: int) -> bytes:
    """A picture of its own for each number."""
    pixels = np.asarray(Image.radial_gradient("L").resize((SIDE, SIDE)))
    out = io.BytesIO()
    Image.fromarray(np.stack([np.roll(pixels, 90 * number * i, 1) for i in range(3)], -1)).save(out, "PNG")
    return out.getvalue()


def picture(number: int) -> Message:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_base64(picture_bytes(number))}"}}


def clip() -> Message:
    return {"type": "input_audio", "input_audio": {"data": _base64(CLIP), "format": "wav"}}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def text_of(model: Gemma4, tokens: int) -> str:
    """A text of about so many tokens."""
    whole = WORDS * (1 + tokens // len(model.tokenize(WORDS)))
    return whole[: len(whole) * tokens // len(model.tokenize(whole))]


def question_of(model: Gemma4, tokens: int) -> str:
    """A text that makes a turn as long as so many tokens do with the real vocabulary, which has two for each mark."""
    more = sum(len(model.tokenize(mark)) - 2 for mark in ("user\n", "model\n", "thought\n"))
    return text_of(model, max(tokens - more, 4))


@dataclass
class Plan:
    """How much of everything."""

    rounds: int
    answer: int = ANSWER
    text: int = 1500
    question: int = 24
    reply: int = 16
    turns: int = 10
    thought: int = 0
    returns: int = 3


@dataclass(frozen=True)
class Step:
    """A prompt, and how many tokens its answer has."""

    name: str
    messages: list[Message]
    tokens: int


def steps_of(plan: Plan, words: str) -> list[Step]:
    """The conversation in order. What is answered is known before."""
    found: list[Step] = []

    def ask(name: str, before: list[Message], text: str, *media: Message, tokens: int = plan.reply) -> list[Message]:
        messages = [*before, user(f"{text} {words}", *media)]
        found.append(Step(name, messages, tokens))
        return [*messages, {"role": "assistant", "content": LETTER * plan.reply}]

    first: list[Message] = []
    before: list[list[Message]] = []
    for number in range(plan.turns):
        before.append(first)
        media = [picture(0)] if number == 0 else [clip()] if number == 2 else []
        thought = plan.thought if number == plan.turns - 1 else 0
        first = ask(f"turn {number + 1}", first, f"{number}:", *media, tokens=thought or plan.reply)
    if plan.thought:
        first = ask(f"after a thought of {plan.thought} tokens", first, "And then?")
    for number in (plan.turns // 2, plan.turns - 1):
        ask(f"turn {number + 1} edited", before[number], "Rather this.")
    second: list[Message] = []
    for number in range(plan.returns):
        second = ask(f"second chat, turn {number + 1}", second, f"{number}?", *[picture(1)][number:])
        first = ask(f"first chat again, {number + 1}", first, f"Once more, {number}.")
    return found


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


def turns(ready: dict[str, Contestant], steps: Sequence[Step], since: int = 0) -> list[dict[str, Any]]:
    """What each step cost; ours from `since` on also from a cold cache."""
    rows: list[dict[str, Any]] = []
    for contestant in ready.values():  # what is loaded when it is first needed
        contestant.ask([user("Ready?", picture(9), clip())], 1)
    for step in steps:
        rows.append({"step": step.name})
        for name, contestant in ready.items():
            turn = contestant.ask(step.messages, step.tokens)
            assert turn.text == LETTER * step.tokens, (name, turn.text)
            rows[-1][name] = turn.row()
        print(rows[-1], file=sys.stderr)
    for step, row in zip(steps[since:], rows[since:], strict=True):
        cold = ready["ours"].ask(step.messages, 1, cold=True).first_s
        row["ours"] |= {"cold_s": round(cold, 3), "ratio": round(row["ours"]["first_s"] / cold, 3)}
    return rows


def new_process(file: Path, how: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The next turn of a saved conversation in a process of its own, with what the first one left on disk, and cold."""
    with tempfile.TemporaryDirectory() as folder:
        kept, saved = {**how, "cache_dir": folder}, str(Path(folder) / "chat.json")
        with Gemma4(file, **kept) as model:
            (letter,), words = model.tokenize(LETTER), question_of(model, plan.question)
            told: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "logit_bias": {letter: CERTAIN}}
            chat = model.conversation()
            for number in range(plan.turns):
                media: dict[str, Any] = {0: {"images": picture_bytes(0)}, 2: {"audio": CLIP}}.get(number, {})
                chat.say(f"{number}: {words}", **media, **told)
            chat.save(saved)
        found = {}
        for name, options in (("from cache_dir", kept), ("cold", how)):
            given = json.dumps({"file": str(file.resolve()), "how": options, "saved": saved, "text": f"Now? {words}"})
            run = subprocess.run(
                [sys.executable, "-c", NEXT, given], check=True, capture_output=True, text=True, cwd=ROOT
            )
            first_s, prompt, reused = json.loads(run.stdout)
            found[name] = {"first_s": round(first_s, 3), "evaluated": prompt - reused, "prompt": prompt}
    return found


def logits_after(ours: Ours, messages: Sequence[Message], cold: bool = False) -> NDArray[np.float32]:
    """The logits that a prompt's first token is chosen from."""
    ours.ask(messages, 1, cold=cold)
    row: NDArray[np.float32] = ours.model.engine.session.context.logits().copy()
    return row


def logits(file: Path, how: dict[str, Any], plan: Plan) -> dict[str, float]:
    """By step, how far a logit is off after a warm prompt."""
    with Gemma4(file, **how) as model:
        ours, steps, seen = Ours(model), steps_of(plan, question_of(model, plan.question)), []
        for step in steps:
            seen.append(logits_after(ours, step.messages))
            ours.ask(step.messages, step.tokens)
        off = {}
        for step, warm in [(steps[2], seen[2]), *zip(steps[plan.turns :], seen[plan.turns :], strict=True)]:
            cold = logits_after(ours, step.messages, cold=True)
            finite = np.isfinite(warm)  # tokens that are never said are not
            off[step.name] = round(float(np.abs(cold[finite] - warm[finite]).max()), 5)
    return off


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


def at_once(given: argparse.Namespace, how: dict[str, Any], plan: Plan, parts: Sequence[str]) -> Iterator[Found]:
    """Throughput and stalls: with four places."""
    with contestants(given, PLACES, how) as ready:
        ours = ready["ours"]
        assert isinstance(ours, Ours)
        others = [("text", [user(text_of(ours.model, plan.text))]), ("picture", [user("What?", picture(5))])]
        if "throughput" in parts:
            rates = throughput(ready, plan)
            yield "throughput", rates
            if given.peers:
                pairs = zip(rates["ours"]["at once"], rates["llama-server"]["at once"], strict=True)
                ratio = round(statistics.median(a / b for a, b in pairs), 3)
                yield "throughput at once, ours / llama-server", ratio
        for name, contestant in ready.items() if "stall" in parts else ():
            yield f"stall, {name}", stall(contestant, others, plan)
        yield "a piece of 256 positions, ours", piece(ours, plan)


def run(given: argparse.Namespace, how: dict[str, Any], plan: Plan, parts: Sequence[str]) -> Iterator[Found]:
    """What each part found, when it ends."""
    if {"throughput", "stall"} & set(parts):
        yield from at_once(given, how, plan, parts)
    thinking = replace(plan, thought=40 if given.quick else 2000, returns=1)
    for part, steps, since in (("chat", plan, 0), ("thought", thinking, plan.turns)):
        if part in parts:
            with contestants(given, 1, how) as ready:
                ours = ready["ours"]
                assert isinstance(ours, Ours)
                yield part, turns(ready, steps_of(steps, question_of(ours.model, plan.question)), since)
    if "new process" in parts:
        yield "new process", new_process(given.bundle, how, plan)
    brief = replace(thinking, thought=min(1000, thinking.thought), reply=4)
    for kind in KINDS if "logits" in parts else ():
        yield f"logits, {kind['kv_type']}", logits(given.bundle, {**how, **kind}, brief)


# llama.cpp reads a float32 cache as f16 in flash attention.
KINDS = ({"kv_type": "f32", "flash_attention": "off"}, {"kv_type": "f16"}, {"kv_type": "q8_0"})
PARTS = ("throughput", "stall", "chat", "thought", "new process", "logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas [{','.join(PARTS)}]")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--turns", type=int, default=10, help="of a chat, at least 3 [10]")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    plan = Plan(1, answer=16, text=300, turns=3, returns=1) if given.quick else Plan(given.rounds, turns=given.turns)
    how: dict[str, Any] = {"context": given.context, "threads": given.threads, "draft": "off"}
    begun = time.perf_counter()
    for name, found in run(given, how, plan, parts):
        print(json.dumps({name: found, "after_s": round(time.perf_counter() - begun)}), flush=True)


def piece(ours: Ours, plan: Plan) -> float:
    """Seconds for 256 positions of a prompt."""
    turns = [ours.ask([user(f"{n} {text_of(ours.model, plan.text)}")], 1, cold=True) for n in range(plan.rounds)]
    return round(statistics.median(turn.first_s * PIECE / turn.prompt for turn in turns), 3)


if __name__ == "__main__":
    main()
