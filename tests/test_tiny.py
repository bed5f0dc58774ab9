"""The trained tiny model: it answers right, and stops doing so when a stage is wrong.

Needs only the runtime: the model is converted here, the held-out material lies in tests/data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from gemma4gguf import Gemma4, patchify
from gemma4gguf.runtime import engine
from gemma4gguf.runtime.prompt import spans
from tests.support.held import COUNT, TASKS, ask, figure, material, right, said
from training import texts, videos, watching

ROOT = Path(__file__).parents[1]
TINY, ASSISTANT = ROOT / "models" / "tiny", ROOT / "models" / "tiny-assistant"

DROP = 0.2  # a wrong stage costs a figure at least this much


@pytest.fixture(scope="module")
def held() -> texts.Material:
    return material()


def test_held_out_pairs_of_colours_are_never_trained_on() -> None:
    """Neither by name, nor by hues between the names."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        clip = videos.clip(rng, False, int(rng.integers(1, 3)), named=[])
        assert tuple(clip.colours[:2]) not in videos.HELD_PAIRS
        colour = clip.colours[0]
        assert videos.called(videos.any_hue(colour, rng, None)) == colour


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("tiny")

    def make(quant: str, source: Path = TINY) -> Path:
        out = folder / f"{source.name}-{quant}.gguf"
        if not out.exists():
            convert(source, out, quant=quant, drafter=ASSISTANT if source == TINY else None)
        return out

    return make


@pytest.fixture
def model(bundles: Callable[..., Path]) -> Iterator[Gemma4]:
    with Gemma4(bundles("F32"), context=1024, threads=1, draft="off") as opened:
        yield opened


# What it reaches, less what two dozen questions leave to chance.
REACHED = {"digit": 0.85, "row": 0.75, "see": 0.9, "hear": 0.8, "sum": 0.9, "think": 0.9, "tool": 0.9}
REACHED |= {"photo": 0.9, "watch": 0.8, "when": 0.8, "watch and hear": 0.8}


CLIPS = {"watch", "when", "watch and hear"}  # slow to ask, so in Q8_0 alone
ASKED = [(quant, task) for quant in ("F32", "Q8_0") for task in TASKS if quant == "Q8_0" or task not in CLIPS]


@pytest.mark.parametrize(("quant", "task"), ASKED)
def test_answers_are_right(bundles: Callable[..., Path], held: texts.Material, quant: str, task: str) -> None:
    with Gemma4(bundles(quant), context=1024, threads=1, draft="off") as model:
        assert figure(model, held, task) >= REACHED[task]


def test_long_clips_are_watched_to_the_end(bundles: Callable[..., Path], held: texts.Material) -> None:
    """Of 9 to 399 frames, up to 32 of them shown: which colour comes when, and at what second it changes."""
    rng = np.random.default_rng(3)
    with Gemma4(bundles("Q8_0"), context=3072, threads=1, draft="off") as model:
        answers = [right(model, watching.watch(rng, held, long=True)) for _ in range(COUNT // 2)]
    assert np.mean(answers) >= 0.75


def test_patches_in_another_order_are_misread(model: Gemma4, held: texts.Material) -> None:
    """Channels first, as llama.cpp stores them, where the checkpoint has row, column, channel."""
    good = figure(model, held, "digit")
    embedder = model.engine.embedder

    class Wrong:
        audio = embedder.audio

        def image(self, patches: Any) -> Any:
            pixels = patches.pixels.reshape(-1, 48, 48, 3).transpose(0, 3, 1, 2).reshape(len(patches.pixels), -1)
            return embedder.image(replace(patches, pixels=np.ascontiguousarray(pixels)))

    model.engine.__dict__["embedder"] = Wrong()
    assert figure(model, held, "digit") <= good - DROP


def test_a_picture_that_sees_only_backwards_gives_other_logits(
    model: Gemma4, held: texts.Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of digits are read from left to right, so the answers stay right; the logits tell."""
    card = texts.row(np.random.default_rng(0), held, 3).images[0]

    def last() -> Any:
        return model.evaluate("Read the digits.", images=[card]).logits[-1]

    good = last()
    monkeypatch.setattr(engine, "spans", lambda *given: [replace(span, causal=True) for span in spans(*given)])
    assert np.abs(good - last()).max() > 0.05


def changed(folder: Path, config: Callable[[dict[str, Any]], None], tensors: Callable[[str], float | None]) -> Path:
    """A copy of the checkpoint with another configuration, or with other values in some one-number tensors."""
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((TINY / "config.json").read_text())
    config(content["text_config"])
    (folder / "config.json").write_text(json.dumps(content))
    data = bytearray((TINY / "model.safetensors").read_bytes())
    length = struct.unpack_from("<Q", data)[0]
    for name, entry in json.loads(data[8 : 8 + length]).items():
        value = None if name == "__metadata__" else tensors(name)
        if value is not None:
            struct.pack_into("<H", data, 8 + length + entry["data_offsets"][0], np.float32(value).view(np.uint32) >> 16)
    (folder / "model.safetensors").write_bytes(data)
    return folder


def untouched(_: Any) -> None:
    """No change."""


def test_layers_without_their_scalars_talk_nonsense(
    bundles: Callable[..., Path], tmp_path: Path, held: texts.Material
) -> None:
    source = changed(tmp_path / "no-scalar", untouched, lambda name: 1.0 if name.endswith("layer_scalar") else None)
    with Gemma4(bundles("F32", source), context=1024, threads=1, draft="off") as model:
        assert figure(model, held, "row") <= REACHED["row"] - DROP


def test_wrong_rope_frequencies_talk_nonsense(
    bundles: Callable[..., Path], tmp_path: Path, held: texts.Material
) -> None:
    def config(text: dict[str, Any]) -> None:
        text["rope_parameters"]["sliding_attention"]["rope_theta"] = 100.0

    source = changed(tmp_path / "rope", config, untouched)
    with Gemma4(bundles("F32", source), context=1024, threads=1, draft="off") as model:
        assert figure(model, held, "row") <= REACHED["row"] - DROP


def test_the_softcap_shows_in_the_logits(bundles: Callable[..., Path], tmp_path: Path, model: Gemma4) -> None:
    """It keeps their order, so no answer can tell; their size does."""

    def config(text: dict[str, Any]) -> None:
        text["final_logit_softcapping"] = 1e5  # as good as none

    source = changed(tmp_path / "no-cap", config, untouched)
    capped = model.evaluate("What is 2 + 3?").logits
    with Gemma4(bundles("F32", source), context=1024, threads=1, draft="off") as open_ended:
        free = open_ended.evaluate("What is 2 + 3?").logits
    assert np.allclose(capped, 30 * np.tanh(free / 30), atol=1e-2)
    assert np.abs(capped - free).max() > 0.5


def test_sound_that_is_cut_elsewhere_or_louder_gives_other_logits(model: Gemma4, held: texts.Material) -> None:
    """A half-frame shift is something that training varied, so it is the logits that tell."""
    sound = held.clips[0][1].astype(np.float32) / 32768

    def last(samples: Any) -> Any:
        return model.evaluate("What is said?", audio=[(samples.astype(np.float32), 16000)]).logits[-1]

    good = last(sound)
    assert np.abs(good - last(np.concatenate([np.zeros(320), sound]))).max() > 0.05
    assert np.abs(good - last(sound / 32768)).max() > 0.05


def test_a_picture_fills_the_budget_that_it_was_trained_with(model: Gemma4, held: texts.Material) -> None:
    assert model.image_tokens == 70
    picture = texts.row(np.random.default_rng(0), held, 4).images[0]
    assert len(patchify(picture, 70).pixels) == 56


def test_drafts_are_accepted_and_change_nothing(bundles: Callable[..., Path], held: texts.Material) -> None:
    accepted = steps = 0
    with (
        Gemma4(bundles("F32"), context=1024, threads=1, draft=3) as drafting,
        Gemma4(bundles("F32"), context=1024, threads=1, draft="off") as plain,
    ):
        rng = np.random.default_rng(2)
        for task in TASKS:
            for _ in range(5):
                example = TASKS[task](rng, held)
                reply = ask(drafting, example)
                assert said(reply) == said(ask(plain, example))
                accepted, steps = accepted + reply.draft.accepted, steps + reply.draft.steps
    assert accepted >= 1.8 * steps
