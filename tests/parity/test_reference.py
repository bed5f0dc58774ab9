"""The reference itself: that our way of asking transformers is `generate()`'s, and what it loads and re-saves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Gemma4UnifiedAssistantForCausalLM,
    Gemma4UnifiedForCausalLM,
    Gemma4UnifiedForConditionalGeneration,
)

from gemma4gguf import frame, patchify
from tests.support import cases, standin
from tests.support.reference import Inputs, Reference

SAME = 1e-4  # logits with a standard deviation of 2, float32 in another order
CASES = {case.name: case for case in cases.CASES}
LOADERS = {
    "model": Gemma4UnifiedForConditionalGeneration,
    "text_only": Gemma4UnifiedForCausalLM,
    "drafter": Gemma4UnifiedAssistantForCausalLM,
}


def reference_inputs(reference: Reference, case: cases.Case) -> Inputs:
    patches = [patchify(cases.picture(name)) for name in case.images]
    frames = [frame((cases.clip(name), cases.RATE)) for name in case.audio]
    return reference.inputs(case.prompt, [(p.pixels, p.positions) for p in patches], frames)


@pytest.mark.parametrize("name", CASES)
def test_prepared_masks_give_the_logits_of_generate(reference: Reference, name: str) -> None:
    inputs = reference_inputs(reference, CASES[name])
    _, steps = reference.generate(inputs, max_new_tokens=1)
    assert np.abs(reference.logits(inputs)[-1] - steps[0]).max() < SAME


def test_a_plain_call_masks_pictures_otherwise(reference: Reference) -> None:
    """Why the masks are prepared: should transformers mend this, the workaround can go."""
    inputs = reference_inputs(reference, CASES["image"])
    with torch.no_grad():
        plain = reference.model(input_ids=inputs.input_ids, **inputs.media).logits[0].numpy()
    assert np.abs(reference.logits(inputs) - plain).max() > 1


def write(kind: str, folder: Path, dialect: str, names: str = "hub") -> Path:
    if kind == "drafter":
        return standin.write_drafter(folder, dialect=dialect)
    return standin.write_checkpoint(folder, dialect=dialect, vision_names=names, text_only=kind == "text_only")


@pytest.mark.parametrize("kind", LOADERS)
def test_transformers_resaves_the_resaved_dialect_unchanged(kind: str, tmp_path: Path) -> None:
    """Loading the stand-in in the "resaved" dialect and saving it again writes the same config.json."""
    folder = write(kind, tmp_path / "standin", "resaved")
    LOADERS[kind].from_pretrained(folder, dtype="auto").save_pretrained(tmp_path / "saved")
    ours, theirs = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "saved"))
    assert ours == theirs


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("names", ["hub", "module"])
def test_both_dialects_are_the_same_model(kind: str, names: str, tmp_path: Path) -> None:
    states = []
    for dialect, vision in (("hub", "hub"), ("resaved", names)):
        model = LOADERS[kind].from_pretrained(write(kind, tmp_path / dialect, dialect, vision), dtype=torch.bfloat16)
        states.append({name: value.float().numpy() for name, value in model.state_dict().items()})
    assert states[0].keys() == states[1].keys()
    assert all((states[0][name] == states[1][name]).all() for name in states[0])
