#!/usr/bin/env python3
"""Many answers at once from the tiny model, held against those of a model with one place.

    python scripts/stress.py WORK                        # everything
    python scripts/stress.py WORK --only storm --seed 7

same    300 held-out prompts of all kinds (pictures and sound among them) from 12 threads on four places, with drafts
        off, on and auto: every answer equals the one that is made alone. All places are full at some time, and a
        consumer that goes frees its place within one step.
storm   8 threads with 100 prompts each: streams that are closed, fail, time out, are cancelled; forks and edits of
        conversations. Whole answers are right, nobody hangs, memory stays flat.
turns   conversations with pictures and sound that go on for 50 turns after the context is full, with each `on_full`:
        every answer equals a cold one, what goes is told, memory stays flat.
cycles  500 models are opened, asked (with pictures, sound and drafts in turn) and closed: every answer equals that of a
        model that stays open; memory, threads and open files stay flat.

All parts but the first keep everything in float32, because otherwise a conversation that is read in other pieces than
it was written in differs by up to 0.2 in its logits. Where llama.cpp's last bits depend on how many rows are computed
together, two logits closer than 0.05 may change places: such answers are listed, and allowed in 1 %, in turns in 2 %
and one more. WORK holds the cache of spoken clips (see training/evaluate.py). Every choice follows from the seed, which
is printed. Prints what each part found; ends with status 1 if one fails.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from gemma4gguf import ContextError, Gemma4  # noqa: E402
from gemma4gguf.runtime.delivery import delivered  # noqa: E402
from tests.support.endless import Endless  # noqa: E402
from tests.support.private import resident_mb  # noqa: E402
from tests.support.storm import GREEDY, Messages, OneQuestion, Reference, Tally, storm  # noqa: E402
from training import speech  # noqa: E402
from training.evaluate import material  # noqa: E402

MODELS = ROOT / "models"
DEMO = MODELS / "demo"
PLACES, THREADS = 4, 12
HANG_S = 1800
BUDGET = 16_000_000  # bytes for states: little enough that some must go
SIZE: dict[str, Any] = {"context": 1024, "threads": 1}
EXACT: dict[str, Any] = {"threads": 1, "kv_type": "f32", "flash_attention": "off"}  # nothing is rounded to fewer bits


def same(given: argparse.Namespace) -> bool:
    dice, held = random.Random(given.seed), True
    questions = [
        OneQuestion(
            f"{number} {example.kind}",
            {
                "prompt": example.prompt.removeprefix("<bos>"),
                "images": example.images,
                "audio": [(clip, speech.RATE) for clip in example.sounds],
                "raw": True,
            },
        )
        for number, example in enumerate(material(given.work, given.count, given.seed))
        if not example.clips
    ]
    with Gemma4(given.file, draft="off", **SIZE) as slow:
        reference = Reference(slow)
        for draft in ("off", 3, "auto"):
            tally = Tally()

            def ask(question: OneQuestion, tally: Tally = tally) -> int:
                most, result = 0, None
                for chunk in question.stream(model):
                    most, result = max(most, len(model.engine.scheduler.live)), chunk.result
                assert result
                reference.compare(question, result, tally)
                return most

            with Gemma4(given.file, draft=draft, parallel=PLACES, **SIZE) as model:
                with ThreadPoolExecutor(THREADS) as pool:
                    full = max(pool.map(ask, questions))
                steps = [steps_after_leaving(model, dice) for _ in range(50)]
            print(
                f"same, drafts {draft}: {len(questions)} prompts from {THREADS} threads, {tally}; at most {full} of "
                f"{PLACES} places taken; after a consumer left, at most {max(steps)} step",
                flush=True,
            )
            held &= not tally.wrong and len(tally.ties) <= 0.01 * len(questions) and full == PLACES and max(steps) <= 1
    return held


def steps_after_leaving(model: Gemma4, dice: random.Random) -> int:
    """Steps that are made for a stream after its consumer has gone."""
    endless = Endless(model)
    stream = delivered(endless.start)
    for _ in range(dice.randrange(1, 20)):
        next(stream)
    stream.close()
    before = endless.made
    while model.engine.scheduler.live:
        time.sleep(0.001)
    return endless.made - before


def stormy(given: argparse.Namespace) -> bool:
    questions = [
        *(OneQuestion(f"sum {n}", {"prompt": f"What is {10 + n} + {3 * n}?"}) for n in range(12)),
        *(OneQuestion(f"thought {n}", {"prompt": f"What is {40 + n} + 38?", "thinking": True}) for n in range(3)),
        OneQuestion("picture", {"prompt": "What number is this?", "images": DEMO / "digits.png"}),
        OneQuestion("sound", {"prompt": "What is said?", "audio": DEMO / "number.wav"}),
        OneQuestion("long", {"prompt": "Hello", "system": "Be brief. " * 200}),
    ]
    with (
        Gemma4(given.exact, draft="off", context=1024, cache_memory=0, **EXACT) as slow,
        Gemma4(given.exact, parallel=3, cache_memory=BUDGET, context=1024, **EXACT) as model,
    ):
        reference, rounds = Reference(slow), 10
        total, used, kept = Tally(), [], []
        for number in range(rounds):
            found = storm(model, questions, reference, seed=given.seed + number, count=given.prompts // rounds)
            total.right, total.left, total.refused = (
                total.right + found.right,
                total.left + found.left,
                total.refused + found.refused,
            )
            total.ties += found.ties
            total.wrong += found.wrong
            while model.engine.scheduler.live:
                time.sleep(0.01)
            used.append(resident_mb())
            kept.append(model.engine.keeper.used)
    growth = max(used[rounds // 2 :]) - used[rounds // 2 - 1]
    print(
        f"storm: 8 threads, {given.prompts} prompts each, seed {given.seed}: {total}; states kept at most "
        f"{max(kept) / 1e6:.1f} of {BUDGET / 1e6:.0f} MB; resident {used[0]:.0f} to {used[-1]:.0f} MB, "
        f"{growth:+.1f} MB in the second half",
        flush=True,
    )
    return not total.wrong and max(kept) <= BUDGET and growth <= 20 and len(total.ties) <= 0.01 * total.right


def turns(given: argparse.Namespace) -> bool:
    size: dict[str, Any] = {"context": 512, "draft": "off", **EXACT}
    dice = random.Random(given.seed)
    with Gemma4(given.exact, cache_memory=BUDGET, **size) as model, Gemma4(given.exact, cache_memory=0, **size) as cold:
        reference, tally, used = Reference(cold), Tally(), []
        chat, asked, silent = model.conversation(system="Be brief."), 0, 0
        while chat.dropped < given.turns:
            asked, before = asked + 1, chat.dropped
            media: dict[str, Any] = {}
            if asked % 2:
                media["images"] = np.full((96, 96, 3), asked % 256, np.uint8)
            elif asked % 5 == 0:
                media["audio"] = DEMO / "number.wav"
            result = chat.say(f"What is {dice.randrange(10, 50)} + 1?", **media, **GREEDY)
            silent += result.dropped_turns != chat.dropped - before
            silent += chat.messages[0]["role"] != "system" or len(chat.messages) % 2 == 0
            reference.compare(Messages(chat.messages[:-1]), result, tally)
            used.append(resident_mb())
        drop = f"drop: {asked} turns, {chat.dropped} dropped, {tally}"
        chat, refused, changed = model.conversation(on_full="error"), 0, 0
        while refused < given.turns:
            before_messages = chat.messages
            try:
                chat.say(f"What is {dice.randrange(10, 50)} + 1?", images=np.full((96, 96, 3), 7, np.uint8), **GREEDY)
            except ContextError:
                refused += 1
                changed += chat.messages != before_messages
            used.append(resident_mb())
        growth = max(used[len(used) // 3 :]) - max(used[: len(used) // 3])
    print(
        f"turns: {drop}, {silent} not told or not whole; error: {refused} refused, {changed} changed the conversation; "
        f"resident {used[0]:.0f} to {used[-1]:.0f} MB, {growth:+.1f} MB after the first third",
        flush=True,
    )
    return not tally.wrong and not silent and not changed and growth <= 20 and len(tally.ties) <= 1 + 0.02 * asked


def cycles(given: argparse.Namespace) -> bool:
    asked: list[dict[str, Any]] = [
        *({"prompt": f"What is {10 + n} + {3 * n}?"} for n in range(5)),
        {"prompt": "What number is this?", "images": DEMO / "digits.png"},
        {"prompt": "What is said?", "audio": DEMO / "number.wav"},
    ]
    size: dict[str, Any] = {"context": 512, **EXACT}
    with Gemma4(given.exact, draft="off", **size) as slow:
        expected = [slow.generate(**how, **GREEDY).text for how in asked]
    wrong, used = 0, []
    for number in range(given.cycles):
        with Gemma4(given.exact, draft=("off", 2)[number // len(asked) % 2], **size) as model:
            wrong += model.generate(**asked[number % len(asked)], **GREEDY).text != expected[number % len(asked)]
        used.append((resident_mb(), threading.active_count(), open_files()))
    memory, threads, files = ([taken[kind] for taken in used] for kind in range(3))
    growth = max(memory[len(used) // 2 :]) - max(memory[: len(used) // 2])
    print(
        f"cycles: {len(used)} models opened, asked and closed, {wrong} answers wrong; resident {memory[0]:.0f} to "
        f"{memory[-1]:.0f} MB, {growth:+.1f} MB in the second half; {threads[-1]} threads and {files[-1]} files open "
        f"at the end, {threads[0]} and {files[0]} after the first",
        flush=True,
    )
    return not wrong and growth <= 20 and threads[-1] <= threads[0] and files[-1] <= files[0]


def open_files() -> int:
    """Of this process; 0 where the system does not tell."""
    listed = Path("/proc/self/fd")
    return len(list(listed.iterdir())) if listed.is_dir() else 0


PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "same": same,
    "storm": stormy,
    "turns": turns,
    "cycles": cycles,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas [{','.join(PARTS)}]")
    parser.add_argument("--seed", type=int, default=None, help="another one each time, if left out")
    parser.add_argument("--count", type=int, default=28, help="same: prompts of each of eleven kinds [28]")
    parser.add_argument("--prompts", type=int, default=100, help="storm: prompts of each thread [100]")
    parser.add_argument("--turns", type=int, default=50, help="turns: how many go on after the context is full [50]")
    parser.add_argument("--cycles", type=int, default=500, help="cycles: how many models are opened [500]")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if given.seed is None:
        given.seed = random.randrange(1 << 31)
    print(f"seed {given.seed}", flush=True)
    faulthandler.dump_traceback_later(HANG_S, exit=True)  # where somebody hangs, all threads are shown
    given.work.mkdir(parents=True, exist_ok=True)
    given.file, given.exact = given.work / "tiny.gguf", given.work / "tiny-exact.gguf"
    for path, quant in ((given.file, "Q8_0"), (given.exact, "F32")):
        convert(MODELS / "tiny", path, quant=quant, drafter=MODELS / "tiny-assistant", force=True)
    held = [PARTS[part](given) for part in parts]  # every part runs, whatever failed
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
