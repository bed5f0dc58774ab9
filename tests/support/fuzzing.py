"""The areas of `scripts/fuzz`: each makes a function from (seed, number) to what became of that case."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType as V

from converters.safetensors import read_file
from gemma4gguf.bundle.container import LazyStrings, read_header
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle
from gemma4gguf.bundle.validation import check_text
from gemma4gguf.chat.rendering import render
from gemma4gguf.errors import Gemma4Error, NativeError
from gemma4gguf.model import Gemma4
from gemma4gguf.tools.verify import faults

from . import forkserver, rewrite, standin
from .mutations import Pieces, mutate
from .smallest import NARROW, SIZES, smallest

MEMORY_BYTES = 500_000_000  # a case may take beyond what an unchanged one takes
MERGES = "tokenizer.ggml.merges"
MESSAGE_CHARS = 2000  # of an error


@dataclass(frozen=True)
class Found:
    """What became of a case. `bad`: it must not have."""

    kind: str
    what: str
    detail: str
    bad: bool


Case = Callable[[int, int], Found]


def judged(what: str, outcome: forkserver.Outcome, usual: forkserver.Outcome) -> Found:
    """What became of a case, held against the bounds. `usual`: the outcome of one that nothing was changed in."""
    kind, bad, told = outcome.kind, not outcome.survived, outcome.detail
    if outcome.survived and ("\n" in told or len(told) > MESSAGE_CHARS):
        kind, bad = "rambling", True
    if outcome.memory > usual.memory + MEMORY_BYTES:
        kind, bad = "memory", True
    return Found(kind, what, f"{told} [{outcome.memory >> 20} MB, {outcome.seconds:.1f} s]", bad)


Action = Callable[[], str]
TOGETHER = 64  # cases that are tried in one fork


def batched(made: Callable[[int, int], tuple[str, Action]], log: Path, usual: forkserver.Outcome) -> Case:
    """Cases in forks, many in each. `made`: (seed, number) -> what is changed, and what is to be tried."""
    known: dict[tuple[int, int], Found] = {}

    def case(seed: int, number: int) -> Found:
        if (seed, number) not in known:
            known.clear()
            numbers = range(number, number + TOGETHER)
            tries = [made(seed, n) for n in numbers]
            outcomes = forkserver.together([action for _, action in tries], log, usual.memory + MEMORY_BYTES)
            for n, (what, _), outcome in zip(numbers, tries, outcomes, strict=True):
                known[seed, n] = judged(what, outcome, usual)
        return known[seed, number]

    return case


# ── whole bundles ────────────────────────────────────────────────────────────────────────────────────────────────


def bundle(folder: Path) -> Case:
    """Load a changed bundle and ask it for three tokens."""
    path, log = folder / "case.gguf", folder / "stderr"
    bases = [rewrite.pieces(smallest(folder, quant, NARROW)) for quant in ("F32", "Q8_0")]
    for piece in (base[name] for base in bases for name in (TEXT, DRAFTER)):
        piece.put(MERGES, V.STRING, list(piece.values[MERGES])[:16])  # all of them take as long to read as the rest
    template = bases[0][TEXT].values["tokenizer.chat_template"]
    render([{"role": "user", "content": "Hi"}], template=template)  # compiled once, here
    gc.freeze()  # a fork copies no page that it only looks at
    usual = forkserver.run(lambda: asked(rewrite.copied(bases[0]), path, "auto", True), log)
    assert usual.kind == "clean", usual

    def made(seed: int, number: int) -> tuple[str, Action]:
        dice = random.Random(f"{seed}/{number}")
        held = rewrite.copied(dice.choice(bases))
        what = mutate(held, dice)
        return what, partial(asked, held, path, dice.choice(("auto", "3", "off")), dice.random() < 0.2)

    cases = batched(made, log, usual)

    def case(seed: int, number: int) -> Found:
        found = cases(seed, number)
        return replace(found, kind=found.detail.split()[0]) if found.kind == "clean" else found

    return case


def asked(held: Pieces, path: Path, draft: str, picture: bool) -> str:
    """Write it and ask it for three tokens, with a picture where there is something to see with. Says what came of it.

    What an open model refuses, `verify` must refuse, too; but for what was computed from its weights.
    """
    try:
        rewrite.write(held, path)
        text = Bundle.open(path).text
    except Gemma4Error as error:  # the writer's or the parser's business
        return f"unparsed {error}"
    check_text(text)  # as the runtime does and `verify`
    guesses: Any = int(draft) if draft.isdigit() else draft
    with Gemma4(path, context=200, threads=1, image_tokens=70 if picture else None, draft=guesses) as model:
        embedder = model.bundle.section(EMBEDDER)
        sees = picture and embedder is not None and embedder.metadata.get("clip.has_vision_encoder") is True
        images = [np.zeros((48, 96, 3), np.uint8)] if sees else []
        try:
            answer = model.generate("Hi", images=images, max_tokens=3, seed=1).text
            return f"clean {answer[:40]!r}"  # a token's text may be long, and is no message
        except Gemma4Error as error:
            sound = not faults(path)
            if isinstance(error, NativeError) or "values that are not finite" in str(error):
                return f"{'sound-but-' * sound}refused-by-C {error}"
            if sound:
                raise AssertionError(f"verify finds nothing in it: {error}") from error
            raise


# ── the parsers alone ────────────────────────────────────────────────────────────────────────────────────────────


def header(folder: Path) -> Case:
    """Bytes of a header flipped, cut, overwritten with counts: read, or refused in one line."""
    whole = smallest(folder)
    section = Bundle.open(whole).text
    raw = whole.read_bytes()[: section.header.data_start]
    raw = raw + bytes(section.header.end - section.header.data_start)
    usual = forkserver.here(lambda: str(len(read_header(raw, 0, "FILE").metadata)))

    def case(seed: int, number: int) -> Found:
        dice = random.Random(f"{seed}/{number}")
        changed = bytearray(raw)
        size = dice.choice((2000, 200_000, section.header.data_start))
        for _ in range(dice.choice((1, 1, 2, 5, 20))):
            at = dice.randrange(min(size, section.header.data_start))
            new = dice.choice(
                (bytes((dice.randrange(256),)), dice.randbytes(4), (1 << dice.randrange(64)).to_bytes(8, "little"))
            )
            changed[at : at + len(new)] = new
        end = dice.randrange(len(changed)) if dice.random() < 0.1 else len(changed)

        def read() -> str:
            found = read_header(bytes(changed[:end]), 0, "FILE")
            return str(sum(len(list(v)) for v in found.metadata.values() if isinstance(v, LazyStrings)))

        return judged("header", forkserver.here(read), usual)

    return case


def safetensors(folder: Path) -> Case:
    """A header of a checkpoint's file, its JSON changed: a table whose tensors lie inside, or refused in one line."""
    path = folder / "case.safetensors"
    whole = standin.write_checkpoint(folder / "checkpoint", sizes=SIZES) / "model.safetensors"
    raw = whole.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    data = b"\0" * 4096
    usual = forkserver.here(lambda: str(len(read_file(whole))))

    def case(seed: int, number: int) -> Found:
        dice = random.Random(f"{seed}/{number}")
        text = bytearray(raw[8 : 8 + length])
        for _ in range(dice.choice((1, 1, 2, 5, 20))):
            at = dice.randrange(len(text))
            text[at : at + dice.randrange(9)] = dice.choice(ODD_JSON)
        told_length = len(text) if dice.random() < 0.9 else dice.choice((0, 1, 7, length * 2, 1 << 40, (1 << 64) - 1))
        path.write_bytes(told_length.to_bytes(8, "little") + bytes(text) + data)
        with path.open("r+b") as file:
            file.truncate(8 + len(text) + len(raw) - length)  # as much room as before, without bytes

        def read() -> str:
            for tensor in read_file(path).values():
                assert 8 <= tensor.offset <= tensor.offset + tensor.nbytes <= path.stat().st_size, tensor
            return ""

        return judged("safetensors", forkserver.here(read), usual)

    return case


ODD_JSON = (
    *(b"", b"0", b"-1", b"9" * 40, b"9" * 5000, b"1e999", b"NaN", b"null", b"true", b"[]", b"{}"),
    *(b"[" * 2000, b'{"a":' * 2000, b"\xff", b"\\u0000", b'"', b",", b":", b"[", b"]", b"{", b"}"),
    *(b'"BF16"', b'"F64"', b"1.5", b"18446744073709551616"),
)
