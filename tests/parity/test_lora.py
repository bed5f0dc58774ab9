"""Merged bundles against transformers with the adapter of PEFT active, live: logits of text, pictures and sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from converters import convert
from gemma4gguf import Gemma4, frame, patchify
from tests.support import cases
from tests.support.reference import Reference

CLOSE = 0.03  # logits, whose standard deviation is about 2 here
CASES = [case for case in cases.CASES if case.name in ("text", "image", "audio", "mixed")] or list(cases.CASES)[:4]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "attention": {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 4, "lora_alpha": 2, "target_modules": "all-linear"},
    "rslora": {"r": 16, "lora_alpha": 2, "use_rslora": True, "target_modules": LINEAR},
    "patterns": {
        "r": 4,
        "lora_alpha": 4,
        "target_modules": LINEAR,
        "rank_pattern": {"q_proj": 2, r"layers\.5\.mlp\.up_proj": 16},
        "alpha_pattern": {"o_proj": 1, "layers.3.self_attn.k_proj": 8},
    },
    "bias": {"r": 4, "lora_alpha": 4, "target_modules": ["patch_dense", "q_proj"], "bias": "all"},
    "lora-only bias": {"r": 4, "lora_alpha": 4, "target_modules": ["patch_dense", "up_proj"], "bias": "lora_only"},
    "embedding": {"r": 4, "lora_alpha": 4, "target_modules": ["embed_tokens", "down_proj"]},
    "modules": {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "embedding saved": {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_with_the_adapter(tmp_path: Path, checkpoint: Path, name: str) -> None:
    torch.manual_seed(len(name))
    reference = Reference(checkpoint)
    adapted: Any = get_peft_model(reference.model, LoraConfig(init_lora_weights=False, **ADAPTERS[name]))
    with torch.no_grad():
        for key, value in adapted.named_parameters():
            if value.requires_grad and "lora_" not in key:  # biases and whole modules: as if they had been trained
                value += 0.1 * torch.randn_like(value) * value.std()
    adapted.save_pretrained(tmp_path / "adapter")
    done = convert(checkpoint, tmp_path / "out.gguf", quant="F32", lora=tmp_path / "adapter")
    assert any("is merged" in note for note in done.plan.notes)
    with Gemma4(tmp_path / "out.gguf", threads=1, kv_type="f32", flash_attention="off") as model:
        for case in CASES:
            pictures = [cases.picture(image) for image in case.images]
            clips = [(cases.clip(clip), cases.RATE) for clip in case.audio]
            prepared = [(p.pixels, p.positions) for p in map(patchify, pictures)]
            inputs = reference.inputs(case.prompt, prepared, [frame(clip) for clip in clips])
            theirs = reference.logits(inputs)
            ours = model.evaluate(case.prompt, raw=True, images=pictures, audio=clips)
            assert theirs.std() > 0.5
            assert np.abs(ours.logits - theirs).max() <= CLOSE, case.name
