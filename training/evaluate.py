"""Figures of the tiny model on held-out material, side by side: transformers and our bundles.

    python -m training.evaluate WORK                                # every figure, 64 examples a task
    python -m training.evaluate WORK --engines float32,F32 --same   # how many replies are the same text
    python -m training.evaluate WORK --engines F32,Q8_0 --drafts 3  # drafts accepted a step, by task

WORK holds the cache of spoken clips. Engines: bfloat16 and float32 are transformers' generate(); F32, Q8_0, Q4_K_M and
so on are bundles that this script converts into WORK and runs with gemma4gguf. Everything is decoded greedily.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gemma4gguf import Result
from gemma4gguf.chat.reply import Reply, parse_reply

from . import pictures, speech, texts, videos
from .tasks import TASKS

MOST_TOKENS = 64
Said = tuple[str, str | None, list[tuple[str, Any]]]  # text, thought, calls by name and arguments


def material(work: Path, count: int, seed: int) -> list[texts.Example]:
    """Held out: digits, voices, speeds, pitches, sums and cities that training never saw."""
    held = texts.Material.load(work, True)
    rng = np.random.default_rng(seed)
    return [make(rng, held) for make in TASKS.values() for _ in range(count)]


def media(example: texts.Example) -> dict[str, Any]:
    """What `generate` takes beside the prompt; clips as files."""
    return {
        "images": example.images,
        "audio": [(s, speech.RATE) for s in example.sounds],
        "videos": [videos.encoded(clip) for clip in example.clips],
    }


def said(reply: Reply | Result) -> Said:
    """What counts: text, thought, calls by name and arguments."""
    return reply.text, reply.thought, [(call.name, call.arguments) for call in reply.tool_calls]


def expected(example: texts.Example) -> Said:
    reply = example.reply
    for end in ("<turn|>", "<|tool_response>"):
        reply = reply.removesuffix(end)
    return said(parse_reply(reply))


class Transformers:
    """The checkpoint as transformers runs it, with the masks of generate() over a static cache."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoTokenizer, Gemma4UnifiedForConditionalGeneration

        self.torch = torch
        self.model = Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def answer(self, example: texts.Example) -> tuple[Said, tuple[int, int] | None]:
        torch, tiny = self.torch, self.model.config
        from . import batches

        it = batches.item(example, self.tokenizer.backend_tokenizer)
        ids = torch.from_numpy(it.ids[None, : -it.reply]).long()
        types = torch.from_numpy(it.types[None, : -it.reply]).long()
        given = {"mm_token_type_ids": types}
        if it.pictures:
            cut = [pictures.patches(Image.fromarray(pixels)) for pixels in it.pictures]
            values = torch.stack([torch.from_numpy(p).to(self.model.dtype) / 255 for p, _ in cut])
            places = torch.stack([torch.from_numpy(xy).long() for _, xy in cut])
            if example.clips:
                given |= {"pixel_values_videos": values, "video_position_ids": places}
                given["num_frames_per_video"] = torch.tensor([len(cut)])
            else:
                given |= {"pixel_values": values, "image_position_ids": places}
        if it.frames:
            given["input_features"] = torch.stack([torch.from_numpy(f).to(self.model.dtype) for f in it.frames])
            given["input_features_mask"] = torch.ones(given["input_features"].shape[:2], dtype=torch.bool)
        with torch.no_grad():
            out = self.model.generate(
                ids,
                **given,
                max_new_tokens=MOST_TOKENS,
                do_sample=False,
                cache_implementation="static",
                disable_compile=True,
                pad_token_id=tiny.text_config.pad_token_id,
            )
        reply = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=False)
        for end in ("<turn|>", "<|tool_response>", "<eos>"):
            reply = reply.removesuffix(end)
        return said(parse_reply(reply)), None


class Bundle:
    """Our file and runtime."""

    def __init__(self, folder: Path, work: Path, quant: str, drafts: int) -> None:
        from converters import convert
        from gemma4gguf import Gemma4

        assistant = folder.with_name(folder.name + "-assistant")
        path = work / f"tiny-{quant}.gguf"
        convert(folder, path, quant=quant, drafter=assistant if assistant.is_dir() else None, force=True)
        self.model = Gemma4(path, context=4096, threads=1, draft=drafts or "off")

    def answer(self, example: texts.Example) -> tuple[Said, tuple[int, int] | None]:
        prompt = example.prompt.removeprefix("<bos>")
        done = self.model.generate(prompt, raw=True, temperature=0, max_tokens=MOST_TOKENS, **media(example))
        return said(done), (done.draft.accepted, done.draft.steps)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path)
    p.add_argument("--models", type=Path, default=Path(__file__).parents[1] / "models")
    p.add_argument("--engines", default="bfloat16,F32,Q8_0,Q4_K_M")
    p.add_argument("--count", type=int, default=64, help="examples a task")
    p.add_argument("--seed", type=int, default=1234)
    p.add_argument("--drafts", type=int, default=0, help="tokens drafted a step by the bundles")
    p.add_argument("--same", action="store_true", help="also compare each engine's replies with the first one's")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    asked = material(a.work, a.count, a.seed)
    right: dict[str, dict[str, list[bool]]] = {}
    drafted: dict[str, dict[str, list[int]]] = {}
    replies: dict[str, list[Said]] = {}
    for name in a.engines.split(","):
        engine = (
            Transformers(a.models / "tiny", name)
            if name in ("bfloat16", "float32")
            else Bundle(a.models / "tiny", a.work, name, a.drafts)
        )
        right[name], drafted[name], replies[name] = defaultdict(list), defaultdict(lambda: [0, 0]), []
        begun = time.monotonic()
        for example in asked:
            reply, drafts = engine.answer(example)
            replies[name].append(reply)
            right[name][example.kind].append(reply == expected(example))
            if drafts:
                for key in (example.kind, "all"):
                    drafted[name][key][0] += drafts[0]
                    drafted[name][key][1] += drafts[1]
        print(f"{name}: {len(asked)} replies in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    report(right, drafted if a.drafts else {}, replies if a.same else {})


def report(
    right: Mapping[str, Mapping[str, list[bool]]],
    drafted: Mapping[str, Mapping[str, list[int]]],
    replies: Mapping[str, list[Said]],
) -> None:
    engines = list(right)
    print("| task | " + " | ".join(engines) + " |\n|---" + "|---" * len(engines) + "|")
    tasks = list(right[engines[0]])
    for task in tasks:
        print(
            f"| {task} ({len(right[engines[0]][task])}) | "
            + " | ".join(f"{np.mean(right[n][task]):.1%}" for n in engines)
            + " |"
        )
    rows = [t for t in tasks if t.startswith("row")]
    print(
        "| rows of 1 to 4, exactly | "
        + " | ".join(f"{np.mean([np.mean(right[n][t]) for t in rows]):.1%}" for n in engines)
        + " |"
    )
    if drafted:
        print("\n| drafts accepted a step | " + " | ".join(engines) + " |\n|---" + "|---" * len(engines) + "|")
        for task in [*tasks, "all"]:
            print(
                f"| {task} | "
                + " | ".join(f"{drafted[n][task][0] / max(1, drafted[n][task][1]):.2f}" for n in engines)
                + " |"
            )
    if replies:
        first = engines[0]
        for n in engines[1:]:
            same = np.mean([x == y for x, y in zip(replies[first], replies[n], strict=True)])
            print(f"\n{n}: the same reply as {first} for {same:.1%} of {len(replies[n])} prompts")


if __name__ == "__main__":
    main()
