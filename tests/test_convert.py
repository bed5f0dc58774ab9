"""Conversion end to end on the stand-in: every tensor and every key that is in the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType

from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle, Section, digest
from tests.support import standin, standin_tokenizer

FloatArray = npt.NDArray[np.float32]


def read_plainly(path: Path) -> dict[str, FloatArray]:
    """The slow twin: a whole safetensors file as float32 arrays."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        halves = np.frombuffer(raw[start + begin : start + end], np.uint16)
        values = (halves.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = values.reshape(entry["shape"])
    return arrays


@pytest.fixture(scope="module")
def values(checkpoint: Path) -> dict[str, FloatArray]:
    return read_plainly(checkpoint / "model.safetensors")


@pytest.fixture(scope="module")
def sections(bundle: Path) -> dict[str, Section]:
    return {s.architecture: s for s in Bundle.open(bundle).sections}


def test_sections_and_digests(sections: dict[str, Section]) -> None:
    assert list(sections) == [TEXT, EMBEDDER, DRAFTER]
    text = sections[TEXT].metadata
    assert text["gemma4gguf.bundle.sha256"] == [digest(s) for s in sections.values()]
    assert text["gemma4gguf.bundle.sizes"] == [s.size for s in sections.values()]


TEXT_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def test_text_tensors_hold_the_checkpoint_s_values(sections: dict[str, Section], values: dict[str, FloatArray]) -> None:
    text, seen = sections[TEXT], {"rope_freqs.weight"}
    prefix = "model.language_model."
    expected = {
        "token_embd.weight": values[f"{prefix}embed_tokens.weight"],
        "output_norm.weight": values[f"{prefix}norm.weight"],
    }
    for i in range(standin.SMALL.layers):
        for ours, theirs in TEXT_NAMES.items():
            if ours != "attn_v" or i % 6 != 5:
                expected[f"blk.{i}.{ours}.weight"] = values[f"{prefix}layers.{i}.{theirs}.weight"]
        expected[f"blk.{i}.layer_output_scale.weight"] = values[f"{prefix}layers.{i}.layer_scalar"]
    for name, array in expected.items():
        np.testing.assert_array_equal(text.array(name), array, err_msg=name)
        seen.add(name)
    assert set(text.tensors) == seen


def test_rotary_factors_turn_a_quarter_of_a_full_layer_s_head(sections: dict[str, Section]) -> None:
    turning = standin.SMALL.global_head // 2 // 4
    expected = [1.0] * turning + [1e30] * (standin.SMALL.global_head // 2 - turning)
    for architecture in (TEXT, DRAFTER):
        np.testing.assert_array_equal(sections[architecture].array("rope_freqs.weight"), np.array(expected, np.float32))


def test_embedder_patches_are_stored_plane_by_plane(
    sections: dict[str, Section], values: dict[str, FloatArray]
) -> None:
    """One bright value in one colour of one pixel meets the same weights before and after."""
    embedder = sections[EMBEDDER]
    stored, given = embedder.array("v.patch_embd.weight"), values["model.vision_embedder.patch_dense.weight"]
    for row, column, colour in ((0, 0, 0), (0, 1, 2), (47, 3, 1), (20, 47, 2)):
        plane, pixel = colour * 48 * 48 + row * 48 + column, (row * 48 + column) * 3 + colour
        np.testing.assert_array_equal(stored[:, plane], given[:, pixel])
        for part in ("weight", "bias"):
            norm = values[f"model.vision_embedder.patch_ln1.{part}"]
            assert embedder.array(f"v.patch_norm.1.{part}")[plane] == norm[pixel]


def test_embedder_s_other_tensors(sections: dict[str, Section], values: dict[str, FloatArray]) -> None:
    embedder = sections[EMBEDDER]
    assert {t.type for t in embedder.tensors.values()} == {GGMLQuantizationType.F32}
    positions = values["model.vision_embedder.pos_embedding"]
    np.testing.assert_array_equal(embedder.array("v.position_embd.weight")[0], positions[:, 0])
    np.testing.assert_array_equal(embedder.array("v.position_embd.weight")[1], positions[:, 1])
    for name, source in {
        "v.patch_embd.bias": "vision_embedder.patch_dense.bias",
        "v.patch_norm.2.weight": "vision_embedder.patch_ln2.weight",
        "v.patch_norm.2.bias": "vision_embedder.patch_ln2.bias",
        "v.patch_norm.3.weight": "vision_embedder.pos_norm.weight",
        "v.patch_norm.3.bias": "vision_embedder.pos_norm.bias",
        "mm.input_projection.weight": "embed_vision.embedding_projection.weight",
        "mm.a.input_projection.weight": "embed_audio.embedding_projection.weight",
    }.items():
        np.testing.assert_array_equal(embedder.array(name), values[f"model.{source}"], err_msg=name)
    assert len(embedder.tensors) == 11


def test_text_keys(sections: dict[str, Section]) -> None:
    found = sections[TEXT].metadata
    full = [i % 6 == 5 for i in range(standin.SMALL.layers)]
    expected = {
        "general.architecture": "gemma4",
        "general.type": "model",
        "general.name": "Standin",
        "general.sampling.top_k": 64,
        "general.file_type": 0,
        "general.quantization_version": 2,
        "gemma4.block_count": standin.SMALL.layers,
        "gemma4.context_length": standin.SMALL.context,
        "gemma4.embedding_length": standin.SMALL.hidden,
        "gemma4.feed_forward_length": standin.SMALL.ffn,
        "gemma4.attention.head_count": standin.SMALL.heads,
        "gemma4.attention.head_count_kv": [1 if f else 2 for f in full],
        "gemma4.attention.key_length": standin.SMALL.global_head,
        "gemma4.attention.value_length": standin.SMALL.global_head,
        "gemma4.attention.key_length_swa": standin.SMALL.head,
        "gemma4.attention.value_length_swa": standin.SMALL.head,
        "gemma4.attention.sliding_window": standin.SMALL.window,
        "gemma4.attention.sliding_window_pattern": [not f for f in full],
        "gemma4.attention.shared_kv_layers": 0,
        "gemma4.embedding_length_per_layer_input": 0,
        "gemma4.rope.freq_base": 1e6,
        "gemma4.rope.freq_base_swa": 1e4,
        "gemma4.rope.dimension_count": standin.SMALL.global_head,
        "gemma4.rope.dimension_count_swa": standin.SMALL.head,
        "gemma4.final_logit_softcapping": standin.SOFTCAP,
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.suppress_tokens": [standin.SMALL.table.eoa, standin.SMALL.table.eoi],
        "gemma4gguf.eos_token_ids": [1, 106, 50],
    }
    assert {k: found.get(k) for k in expected} == expected
    assert found["gemma4.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert "tokenizer.ggml.pre" not in found
    assert "gemma4gguf.image.max_soft_tokens" not in found  # 280 goes without saying


def test_tokenizer_arrays(sections: dict[str, Section]) -> None:
    found = sections[TEXT].metadata
    tokens, types = list(found["tokenizer.ggml.tokens"]), found["tokenizer.ggml.token_type"]
    names, merges = standin_tokenizer.vocabulary()
    assert tokens == sorted(names, key=lambda n: names[n])
    assert set(found["tokenizer.ggml.scores"]) == {-1000.0}
    kinds = {
        text: types[names[text]] for text in ("<bos>", "<|channel>", "<tool_call|>", "<0x41>", "</s>", "A", "<unused5>")
    }
    assert kinds == {"<bos>": 3, "<|channel>": 4, "<tool_call|>": 4, "<0x41>": 6, "</s>": 1, "A": 1, "<unused5>": 1}
    assert list(found["tokenizer.ggml.merges"]) == [f"{a} {b}" for a, b in merges]


def test_embedder_keys(sections: dict[str, Section]) -> None:
    found = sections[EMBEDDER].metadata
    expected = {
        "general.type": "mmproj",
        "general.file_type": 0,
        "clip.has_vision_encoder": True,
        "clip.has_audio_encoder": True,
        "clip.vision.projector_type": "gemma4uv",
        "clip.audio.projector_type": "gemma4ua",
        "clip.vision.patch_size": 16,
        "clip.vision.projection_dim": standin.SMALL.hidden,
        "clip.vision.image_mean": [0.0, 0.0, 0.0],
        "clip.vision.image_std": [1.0, 1.0, 1.0],
        "clip.audio.embedding_length": standin.FRAME,
    }
    assert {k: found.get(k) for k in expected} == expected
    assert "clip.projector_type" not in found
    for part in ("vision", "audio"):
        assert found[f"clip.{part}.attention.layer_norm_epsilon"] == pytest.approx(1e-6)


def test_drafter(sections: dict[str, Section], drafter: Path) -> None:
    values, section = read_plainly(drafter / "model.safetensors"), sections[DRAFTER]
    found = section.metadata
    assert found["gemma4-assistant.embedding_length_out"] == standin.SMALL.hidden
    assert found["gemma4-assistant.nextn_predict_layers"] == standin.DRAFTER_LAYERS
    assert found["gemma4-assistant.attention.shared_kv_layers"] == standin.DRAFTER_LAYERS
    assert "gemma4-assistant.final_logit_softcapping" not in found
    assert "tokenizer.ggml.suppress_tokens" not in found
    assert len(section.tensors) == 49
    for name, source in {
        "token_embd.weight": "model.embed_tokens.weight",
        "nextn.pre_projection.weight": "pre_projection.weight",
        "nextn.post_projection.weight": "post_projection.weight",
        "blk.3.attn_q.weight": "model.layers.3.self_attn.q_proj.weight",
        "blk.0.layer_output_scale.weight": "model.layers.0.layer_scalar",
    }.items():
        np.testing.assert_array_equal(section.array(name), values[source])
