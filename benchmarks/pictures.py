#!/usr/bin/env python3
"""Pictures to patches beside transformers' processor (torchvision), and patches to soft tokens beside torch and mtmd.

    benchmarks/pictures.py [BUNDLE] [--peers FOLDER] [--rounds 5]

A photo of 12 MP as JPEG at two budgets, a screenshot of 2560 x 1440 as PNG, 20 small pictures in one call each. With
BUNDLE also its embedder, beside torch's modules of the same shapes in float32, and with --peers (what scripts/peers
prints) beside llama-mtmd-cli, by the time that it prints. The contestants take turns. Prints JSON: milliseconds by
round, and the median ratios; less is better. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gemma4gguf.bundle.reading import EMBEDDER, TEXT, Bundle  # noqa: E402
from gemma4gguf.bundle.settings import DEFAULT_BUDGET  # noqa: E402
from gemma4gguf.machine import physical_cores  # noqa: E402
from gemma4gguf.media.embedder import Embedder  # noqa: E402
from gemma4gguf.media.image import Patches, patchify  # noqa: E402
from tests.support.photos import photo  # noqa: E402
from tests.support.turns import in_turns, ratio  # noqa: E402

SCREEN, THUMBNAIL = (2560, 1440), (320, 240)
MANY = 20
LARGE = 1120  # soft tokens
ENCODED = re.compile(rb"encod\w+ (?:done )?in (\d+) ms")  # what llama-mtmd-cli prints


def screenshot() -> bytes:
    """A PNG of lines of text."""
    screen = Image.new("RGB", SCREEN, "white")
    draw = ImageDraw.Draw(screen)
    for line in range(SCREEN[1] // 16):
        draw.text(
            (20, 16 * line), f"{line:4}  " + "the quick brown fox jumps over the lazy dog; " * 8, fill=(30, 30, 90)
        )
    out = io.BytesIO()
    screen.save(out, "PNG")
    return out.getvalue()


def to_patches() -> dict[str, Mapping[str, Callable[[], object]]]:
    """Each picture: who makes patches of it."""
    from transformers.models.gemma4_unified.image_processing_gemma4_unified import Gemma4UnifiedImageProcessor

    theirs, large, screen = Gemma4UnifiedImageProcessor(), photo(), screenshot()
    small = [photo(THUMBNAIL, number) for number in range(MANY)]

    def both(files: list[bytes], budget: int) -> Mapping[str, Callable[[], object]]:
        def ask_peer() -> object:
            opened = [Image.open(io.BytesIO(file)) for file in files]
            return theirs(opened, return_tensors="np", max_soft_tokens=budget)

        return {"ours": lambda: [patchify(file, budget) for file in files], "transformers": ask_peer}

    return {
        f"photo, {DEFAULT_BUDGET}": both([large], DEFAULT_BUDGET),
        f"photo, {LARGE}": both([large], LARGE),
        "screenshot": both([screen], DEFAULT_BUDGET),
        f"{MANY} thumbnails": both(small, DEFAULT_BUDGET),
    }


def to_soft_tokens(bundle: Path) -> dict[str, Mapping[str, Callable[[], object]]]:
    """The embedder by number of patches: ours, and torch's modules with random weights."""
    import torch
    from transformers.models.gemma4_unified import configuration_gemma4_unified as shapes
    from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedVisionEmbedder

    embedder = Embedder(bundle)
    text = shapes.Gemma4UnifiedTextConfig(hidden_size=embedder.hidden)
    vision = shapes.Gemma4UnifiedVisionConfig(mm_embed_dim=embedder.hidden, output_proj_dims=embedder.hidden)
    theirs = Gemma4UnifiedVisionEmbedder(vision, text).eval()
    torch.set_num_threads(physical_cores())

    def both(patches: Patches) -> Mapping[str, Callable[[], object]]:
        pixels, where = torch.from_numpy(patches.pixels)[None], torch.from_numpy(patches.positions)[None]

        def ask_peer() -> object:
            with torch.inference_mode():
                return theirs(pixels, where)

        return {"ours": lambda: embedder.image(patches), "torch": ask_peer}

    large = photo()
    return {f"soft tokens, {budget}": both(patchify(large, budget)) for budget in (DEFAULT_BUDGET, LARGE)}


def beside_mtmd(bundle: Path, peers: Path, rounds: int) -> dict[str, Any]:
    """The photo at the default budget: our embedder, and what llama-mtmd-cli says of its own."""
    with tempfile.TemporaryDirectory() as folder:
        opened, picture = Bundle.open(bundle), Path(folder) / "photo.jpg"
        picture.write_bytes(photo())
        for name in (TEXT, EMBEDDER):
            with (Path(folder) / name).open("wb") as part:
                part.writelines(opened.require(name).copy())
        command = [f"{peers}/bin/llama-mtmd-cli", "-m", f"{folder}/{TEXT}", "--mmproj", f"{folder}/{EMBEDDER}"]
        command += ["--image", str(picture), "-p", "?", "-n", "1", "-c", "2048", "-t", str(physical_cores()), "--jinja"]
        command += ["--image-max-tokens", str(DEFAULT_BUDGET)]
        embedder, patches = Embedder(opened), patchify(picture)
        found: dict[str, list[float]] = {"ours": [], "mtmd": []}
        for _ in range(rounds):
            found["ours"] += in_turns({"ours": lambda: embedder.image(patches)}, 1)["ours"]
            run = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
            if times := ENCODED.findall(run.stderr + run.stdout):
                found["mtmd"].append(float(times[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cases = to_patches() | (to_soft_tokens(given.bundle) if given.bundle else {})
    found: dict[str, Any] = {name: in_turns(who, given.rounds) for name, who in cases.items()}
    if given.bundle and given.peers:
        found["soft tokens, mtmd"] = beside_mtmd(given.bundle, given.peers, given.rounds)
    for times in found.values():
        ours, (peer, theirs) = times["ours"], next((who, t) for who, t in times.items() if who != "ours")
        times[f"ours / {peer}"] = round(ratio(ours, theirs), 3)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
