#!/usr/bin/env python3
"""Make tests/golden: what transformers says about the stand-in checkpoint, so that the tests need no PyTorch.

Run with the `reference` extra installed, after a change of the stand-in or of tests/cases.py:

    python scripts/make_golden.py

Writes tokens.json (200 texts and their ids), logits.npz, soft_tokens.npz, drafts.npz and greedy.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf import frame, patchify  # noqa: E402
from tests.support import cases, standin  # noqa: E402
from tests.support.reference import Inputs, Reference, ReferenceDrafter  # noqa: E402
from tests.support.standin_tokenizer import AUDIO, IMAGE, VIDEO  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
ROWS = 8  # logits rows kept of each case, spread evenly, the last position included
SOFT_STEP = 24  # every 24th soft token is kept
GREEDY_STEPS = 32
SURE = 0.01  # a greedy answer is kept up to the first step whose two best logits are closer than this
DRAFT_STEPS = 4
DRAFTED = ("text", "beyond_window", "image", "image_beyond_window", "audio", "everything")

WORDS = [
    "the", "quick", "brown", "fox", "natürlich", "élégante", "дорогие", "世界", "日本語", "한글", "café", "x=1;", "i++",
    "1000", "2026.", "naïve", "coöperate",
]  # fmt: skip
FIXED = [
    "", " ", "  ", "   ", "\n", "\t", "\r\n", "\r", "a", " a", "a ", " a ", "▁", "▁▁", "a▁b", "\u00a0", "\u200b",
    "\x00", "Hello, world!", "hello world", "HELLO WORLD", "The quick brown fox jumps over the lazy dog.",
    "What is in this picture?", "one\ntwo", "one\n\ntwo", "one \n two", "one\n \ntwo", "one\r\ntwo\r\n",
    "\n\nleading", "trailing\n\n", "tab\tone\t\ttwo", "été", "e\u0301te\u0301", "Größe", "ÅÄÖåäö", "İıŞş", "ñandú",
    "Привет, мир", "ΑΒΓ αβγ", "שלום", "مرحبا بالعالم", "नमस्ते", "สวัสดี", "你好世界", "日本語テキスト", "한국어 텍스트",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𠮷野家", "😀", "😀🎉👍", "😀 🎉", "👩\u200d👩\u200d👧\u200d👦", "👍🏽", "🇩🇪🇫🇷", "❤\ufe0f",
    "e\u0301\u0302\u0303\u0304", "\ufeffmark", "a\u202eb", "\ufffd", "\U0010ffff", "\u2028line", "ﬁ ligature",
    "<b>bold</b>", "</s>", "<s>", "a</s>b", "<table>", '<div class="x">',
    "https://www.example.com/index.html?a=1&b=2", "def f(x):\n    return x\n",
    "for (int i = 0; i < n; i++) {\n\tsum += values[i];\n}\n", '{"key": [1, 2.5, null]}', "1234567890", "3.14159",
    "1,000,000", "1e-6", "-42", "$100", "50%", "a@b.c", "#tag", "C++", "\\n", "\\\\", "'\"`", "...", "…", "—–-",
    "!!!???", "()[]{}<>", "~^|&*%", "a" * 300, "ab" * 120, "é" * 90, "世" * 80, "😀" * 40,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "pneumonoultramicroscopic" * 4, "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<bos>hello", "<eos><eos>", "<turn|>",
    "<|turn>user\nHi<turn|>\n", "<|turn>model\n<|channel>thought\n<channel|>", "<|think|>", '<|"|>x<|"|>',
    "<|tool>a<tool|>", "<|tool_call>call:f{a:1}<tool_call|>", "<|tool_response>", "<tool_response|>", "<turn>",
    "<|turn|>", "< |turn>", "<|turn >", "<|turn", "turn|>", "<end_of_turn>", "<start_of_turn>user", "<image>",
    "<audio>",
    "<|image", "<image|>", "<audio|>", "<|image><image|>", "<|audio><audio|>", "<|video>", "<unused0>", "<0x41>",
    "<0x0A>", "<|channel>", "<channel|> <channel|>", " <turn|> ", "a<turn|>b", "\n<turn|>\n", "▁<turn|>▁",
]  # fmt: skip


def texts() -> list[str]:
    """200 texts: special ones, runs of newlines and spaces of many lengths, and mixtures."""
    runs = [f"a{character * n}b" for character in "\n \t" for n in (2, 3, 7, 15, 30, 31, 32, 33, 64, 70)]
    runs += ["\n" * 100, " " * 100, " \n" * 20, "\n " * 20, "\n\t\n", "a\n\n\n  b\n \n\n", "\n" * 31 + " " * 31]
    mixtures = [" ".join(WORDS[(i * k + i) % len(WORDS)] for k in range(3 + i % 9)) for i in range(200)]
    found = list(dict.fromkeys(FIXED + runs + mixtures))[:200]
    assert len(found) == 200
    return found


def inputs_of(reference: Reference, case: cases.Case) -> Inputs:
    patches = [patchify(cases.picture(name)) for name in case.images]
    frames = [frame((cases.clip(name), cases.RATE)) for name in case.audio]
    return reference.inputs(case.prompt, [(p.pixels, p.positions) for p in patches], frames)


def greedy(reference: Reference, inputs: Inputs) -> list[int]:
    """The answer up to the first step where two tokens are as good, or where the reference makes a placeholder."""
    ids, logits = reference.generate(inputs, GREEDY_STEPS)
    best = np.sort(logits, axis=1)[:, -2:]  # [steps, 2]
    sure = (best[:, 1] - best[:, 0] > SURE) & ~np.isin(ids, [IMAGE, AUDIO, VIDEO])
    return list(ids if sure.all() else ids[: int(sure.argmin())])


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        reference = Reference(standin.write_checkpoint(Path(scratch) / "model"))
        drafter = ReferenceDrafter(reference, standin.write_drafter(Path(scratch) / "drafter"))

    lines = [json.dumps({"text": text, "ids": reference.tokenize(text)}, ensure_ascii=True) for text in texts()]
    (GOLDEN / "tokens.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")

    logits: dict[str, Any] = {}  # arrays; numpy's types let no dictionary of arrays into savez
    drafts: dict[str, Any] = {}
    answers = []
    for case in cases.CASES:
        inputs = inputs_of(reference, case)
        values = reference.logits(inputs)
        best = np.sort(values, axis=1)[:, -2:]
        rows = np.unique(np.linspace(0, len(values) - 1, ROWS).round().astype(np.int32))
        logits |= {
            f"{case.name}.ids": inputs.input_ids[0].numpy().astype(np.int16),
            f"{case.name}.argmax": values.argmax(axis=1).astype(np.int16),
            f"{case.name}.best": best[:, ::-1],  # [N, 2]: the best logit and the second best, at every position
            f"{case.name}.rows": rows,
            f"{case.name}.logits": values[rows],
        }
        ids = greedy(reference, inputs)
        answers.append(json.dumps({"case": case.name, "ids": ids}))
        if case.name in DRAFTED:
            token, as_transformers = drafter.draft(inputs, DRAFT_STEPS)
            again, as_llama = drafter.draft(inputs, DRAFT_STEPS, window_rows=standin.SMALL.window - 1)
            assert token == again
            drafts |= {
                f"{case.name}.token": np.int32(token),
                f"{case.name}.logits": as_transformers,
                f"{case.name}.logits_window_63": as_llama,
            }
        print(f"{case.name}: {len(values)} positions, logit std {values.std():.2f}, {len(ids)} greedy tokens")
    np.savez_compressed(GOLDEN / "logits.npz", **logits)
    np.savez_compressed(GOLDEN / "drafts.npz", **drafts)
    (GOLDEN / "greedy.json").write_text("[\n" + ",\n".join(answers) + "\n]\n")

    soft: dict[str, Any] = {}
    for name in cases.PICTURE_SIZES:
        patches = patchify(cases.picture(name))
        soft[f"picture.{name}"] = reference.image_soft_tokens((patches.pixels, patches.positions))
    for name in cases.CLIP_SAMPLES:
        soft[f"clip.{name}"] = reference.audio_soft_tokens(frame((cases.clip(name), cases.RATE)))
    kept = {name: values[::SOFT_STEP] for name, values in soft.items()}
    largest = {f"{name}.largest": np.abs(values).max() for name, values in soft.items()}
    np.savez_compressed(GOLDEN / "soft_tokens.npz", **kept, **largest)


if __name__ == "__main__":
    main()
