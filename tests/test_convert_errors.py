"""What stops a conversion: one line that says what, where and what to do, and nothing left under the output's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from gemma4gguf.errors import ConversionError, Gemma4Error
from tests.support import standin
from tests.support.broken import edit_json, edit_weights, fails

# ── tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unknown_missing_and_misshapen_tensors_are_all_told_at_once(folder: Path) -> None:
    layer = "model.language_model.layers.3."

    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        header["model.language_model.layers.12.mlp.up_proj.weight"] = header.pop(f"{layer}mlp.up_proj.weight")
        header[f"{layer}mlp.down_proj.weight"]["shape"].reverse()
        header["model.vision_embedder.extra"] = header.pop("model.vision_embedder.pos_embedding")
        return header, data

    edit_weights(folder, edit)
    fails(
        folder,
        f"missing {layer}mlp.up_proj.weight",
        f"{layer}mlp.down_proj.weight is [512, 256], expected [256, 512]",
        "missing model.vision_embedder.pos_embedding",
        "no place for model.language_model.layers.12.mlp.up_proj.weight, model.vision_embedder.extra",
    )


def test_a_value_projection_on_a_full_layer_has_no_place(folder: Path) -> None:
    layer = "model.language_model.layers.5.self_attn."

    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        header[f"{layer}v_proj.weight"] = header[f"{layer}k_proj.weight"]
        return header, data

    edit_weights(folder, edit)
    fails(folder, f"no place for {layer}v_proj.weight")


def test_the_weights_of_a_deeper_model_are_not_all_listed(folder: Path) -> None:
    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        first = next(value for name, value in header.items() if name != "__metadata__")
        return header | {f"model.language_model.layers.{n}.more.weight": first for n in range(100, 130)}, data

    edit_weights(folder, edit)
    assert "layers.112" not in fails(folder, "no place for model.language_model.layers.100.more.weight", "and 18 more")


def test_names_with_line_breaks_stay_on_one_line(folder: Path) -> None:
    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        header["bad\nname\x1b[2J"] = next(iter(header.values()))
        return header, data

    edit_weights(folder, lambda h, d: edit({k: v for k, v in h.items() if k != "__metadata__"}, d))
    assert "\x1b" not in fails(folder, "no place for")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quant", ["BF16", "Q4_0", "Q8_0", "Q6_K", "F32"])
def test_values_that_are_not_finite(folder: Path, bad: float, quant: str) -> None:
    name = "model.language_model.layers.7.mlp.up_proj.weight"

    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        at = header[name]["data_offsets"][0] + 2 * 1000
        return header, data[:at] + standin.bfloat16(np.array([bad], np.float32)) + data[at + 2 :]

    edit_weights(folder, edit)
    fails(folder, repr(name), "blk.7.ffn_up.weight", "not finite", quant=quant)


def test_values_too_large_for_the_type(folder: Path) -> None:
    name = "model.language_model.layers.2.mlp.up_proj.weight"

    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        at = header[name]["data_offsets"][0]
        return header, data[:at] + standin.bfloat16(np.array([1e30], np.float32)) + data[at + 2 :]

    edit_weights(folder, edit)
    fails(folder, "blk.2.ffn_up.weight", "F16", "too large", "types=", quant="F16")


# ── the wrong model ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}, ["Gemma 3", "gemma3"]),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, ["LlamaForCausalLM", "expected Gemma 4 12B"]),
        ({"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4"}, ["separate vision"]),
        ({"architectures": None, "model_type": None}, ["no architecture"]),
        ({"architectures": [], "model_type": ["odd"]}, ["no architecture"]),
    ],
)
def test_other_models_are_named(folder: Path, changes: dict[str, Any], words: list[str]) -> None:
    edit_json(folder / "config.json", **changes)
    fails(folder, str(folder), *words)


@pytest.mark.parametrize(
    ("change", "word"), [({"hidden_size_per_layer_input": 256}, "E2B"), ({"enable_moe_block": True}, "26B-A4B")]
)
def test_relatives_are_named(folder: Path, change: dict[str, Any], word: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", text_config=config["text_config"] | change)
    fails(folder, word)


def test_a_drafter_as_the_model_and_a_model_as_the_drafter(folder: Path, drafter: Path) -> None:
    fails(drafter, "is the MTP drafter", "drafter=")
    fails(folder, "not a drafter", drafter=folder)


@pytest.mark.parametrize("key", ["sliding_window", "rope_parameters"])
def test_a_drafter_that_would_draft_in_vain(folder: Path, tmp_path: Path, key: str) -> None:
    other = standin.write_drafter(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())["text_config"]
    config |= {"sliding_window": 32} if key == "sliding_window" else {}
    config["rope_parameters"]["sliding_attention"]["rope_theta"] *= 1 if key == "sliding_window" else 10
    edit_json(other / "config.json", text_config=config)
    fails(folder, "not one model", drafter=other)


def test_a_drafter_of_another_size(folder: Path, tmp_path: Path) -> None:
    other = standin.write_drafter(tmp_path / "other")
    edit_json(other / "config.json", backbone_hidden_size=512)

    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        for name, shape in {"pre_projection.weight": [128, 1024], "post_projection.weight": [512, 128]}.items():
            start = len(data)
            data += bytes(2 * shape[0] * shape[1])
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, len(data)]}
        return header, data

    edit_weights(other, edit)
    fails(folder, "width 512", "256", drafter=other)


def test_an_adapter_folder(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    fails(adapter, "LoRA adapter", "merge")


def test_adapter_weights_among_the_others(folder: Path) -> None:
    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        name = "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
        header[name] = header["model.language_model.norm.weight"]
        return header, data

    edit_weights(folder, edit)
    fails(folder, "LoRA", "merge")


def test_a_model_that_lost_its_embedder(folder: Path) -> None:
    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        return {n: e for n, e in header.items() if "vision" not in n and "audio" not in n}, data

    edit_weights(folder, edit)
    fails(folder, "no multimodal embedder", "text_only=True")
    done = convert(folder, folder.parent / "out.gguf", quant="Q4_0", text_only=True)
    assert [s.architecture for s in done.plan.sections] == ["gemma4"]


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unknown_types_list_the_known(folder: Path) -> None:
    fails(folder, "'Q4_K_XL'", "Q4_K_M", "IQ4_XS", quant="Q4_K_XL")
    fails(folder, "unknown type", drafter_quant="int4")
    fails(folder, "ffn_down=Q9", "Q6_K", types=["ffn_down=Q9"])


@pytest.mark.parametrize("override", ["ffn_down", "=Q6_K", "", "ffn_(=Q6_K"])
def test_overrides_that_cannot_be_read(folder: Path, override: str) -> None:
    fails(folder, "types: ", types=[override])


@pytest.mark.parametrize("pattern", ["no_such_tensor", "output_norm", r"blk\.99\.", "v.patch_embd"])
def test_overrides_that_match_nothing(folder: Path, pattern: str) -> None:
    fails(folder, f"{pattern}=Q6_K", "matches no tensor", types=["ffn_down=Q8_0", f"{pattern}=Q6_K"])


def test_the_output_s_place(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(ConversionError, match="exists already"):
        convert(folder, out, quant="Q4_0")
    assert out.read_bytes() == b"precious"
    with pytest.raises(ConversionError, match="no such folder"):
        convert(folder, tmp_path / "a" / "b.gguf", quant="Q4_0")
    with pytest.raises(Gemma4Error, match="threads"):
        convert(folder, tmp_path / "other.gguf", threads=0)
