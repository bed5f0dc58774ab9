"""How the tiny model is trained: what its code computes another way than the reference must be the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer

from gemma4gguf import frame, patchify
from tests.support.held import material
from tests.support.reference import Picture, Reference
from tests.support.variants import TINY
from training import batches, export, network, passes, texts, watching

SAME = 0.005  # of logits up to 30; training has code of its own that enlarges pictures, and a pixel may round otherwise


@pytest.mark.parametrize("window", [8, 96], ids=["sliding", "full"])
def test_attention_in_pieces_is_the_whole(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU attends for some rows at a time, and leaves out the keys that none of them sees: also backwards."""
    monkeypatch.setattr(passes, "ROWS", 16)  # 70 rows: the last piece is a short one
    random = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(2, heads, 70, 8, generator=random, requires_grad=True) for heads in (4, 2, 2))
    gap = torch.arange(70)[:, None] - torch.arange(70)
    block = (torch.arange(70) // 10 == 3)[:, None] & (torch.arange(70) // 10 == 3)  # a picture sees both ways
    seen = ((gap >= 0) | block) & (gap < window)
    padded = torch.zeros(2, 70, dtype=torch.bool)
    padded[1, 50:] = True  # the second one is shorter; its padding sees itself alone
    seen = (seen & ~padded[:, None]) | torch.eye(70, dtype=torch.bool)
    mask = torch.zeros(2, 1, 70, 70).masked_fill(~seen[:, None], passes.UNSEEN)

    def gradients(out: torch.Tensor) -> list[torch.Tensor]:
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(8))
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), (q, k, v))]

    whole = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), mask, scale=1.0)
    for ours, theirs in zip(gradients(passes.attend(q, k, v, mask)), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def tiny() -> Reference:
    return Reference(TINY)


@pytest.fixture(scope="module")
def trained() -> network.Target:
    model = network.Target()
    with torch.no_grad():
        export.read(TINY, export.target_tensors(model))
    return model


def patches(image: Image.Image) -> Picture:
    cut = patchify(image, 70)
    return cut.pixels, cut.positions


@pytest.mark.parametrize(
    "make",
    [
        texts.row,
        texts.see_two,
        texts.hear,
        watching.watch,
        watching.watch_hear,
        partial(texts.total, think=True),
        texts.use_tool,
        texts.talk,
    ],
    ids=["row", "two pictures", "sound", "clip", "clip and sound", "thought", "tool", "talk"],
)
def test_logits_are_the_reference_s(
    make: Callable[..., texts.Example], trained: network.Target, tiny: Reference
) -> None:
    """Training prepares media itself; the reference gets them as the runtime prepares them."""
    rng, held = np.random.default_rng(5), material()
    examples = [make(rng, held) for _ in range(3)]
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    batch = batches.stack([batches.item(example, tokenizer) for example in examples])
    with torch.no_grad():
        ours = trained(network.Tensors(batch)).numpy()
    wanted = []
    for example in examples:
        shown = []
        for clip in example.clips:
            frames = [(stamp, patches(picture)) for stamp, picture in clip.shown()]
            text = " ".join(f"{stamp} <|image>{'<|video|>' * len(cut[0])}<image|>" for stamp, cut in frames)
            shown.append((text, [cut for _, cut in frames]))
        prompt = (example.prompt + example.reply).removeprefix("<bos>")
        sounds = [frame((sound, 16000)) for sound in example.sounds]
        logits = tiny.logits(tiny.inputs(prompt, [patches(image) for image in example.images], sounds, shown))
        wanted.append(logits[-len(tiny.tokenize(example.reply)) - 1 : -1])
    assert np.abs(ours - np.concatenate(wanted)).max() < SAME
