"""Conversion end to end on the stand-in: what is in the file, and that nothing but the checkpoint decides it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType

from converters import MIXTURES, convert
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


# ── nothing but the checkpoint decides ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("quant", ["F32", "Q4_K_M"])
def test_dialects_names_shards_and_threads_change_nothing(tmp_path: Path, quant: str) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"dialect": "resaved"},
        {"vision_names": "module"},
        {"dialect": "resaved", "vision_names": "module", "shards": 3},
    ]
    written = set()
    for i, way in enumerate(ways):
        folder, helper = tmp_path / str(i) / "model", tmp_path / str(i) / "helper"
        standin.write_checkpoint(folder, **way)
        standin.write_drafter(helper, dialect=way.get("dialect", "hub"), shards=way.get("shards", 1))
        out = tmp_path / f"{i}.gguf"
        convert(folder, out, quant=quant, drafter=helper, threads=1 + i)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_two_runs_and_force(tmp_path: Path, checkpoint: Path) -> None:
    first = convert(checkpoint, tmp_path / "a.gguf", quant="Q4_0").path
    assert first is not None
    before = first.read_bytes()
    convert(checkpoint, first, quant="Q4_0", force=True)
    assert first.read_bytes() == before


def test_dry_run_tells_what_happens_and_writes_nothing(tmp_path: Path, checkpoint: Path, drafter: Path) -> None:
    planned = convert(checkpoint, tmp_path, quant="Q4_K_M", drafter=drafter, dry_run=True)
    assert planned.path is None
    assert list(tmp_path.iterdir()) == []
    seen: list[tuple[int, int, str]] = []
    done = convert(checkpoint, tmp_path, quant="Q4_K_M", drafter=drafter, progress=lambda *now: seen.append(now))
    assert done.path == tmp_path / f"{checkpoint.name}-Q4_K_M.gguf"
    assert done.path.stat().st_size == planned.size == planned.plan.total == done.size
    assert done.plan == planned.plan or done.plan.free != planned.plan.free
    assert [n for n, _, _ in seen] == sorted({n for n, _, _ in seen})
    assert {(total, stage) for _, total, stage in seen} == {(done.size, "convert")}
    for plan, section in zip(planned.plan.sections, Bundle.open(done.path).sections, strict=True):
        assert (plan.architecture, plan.size) == (section.architecture, section.size)
        assert {t.name: (t.type, t.nbytes) for t in plan.tensors} == {
            t.name: (t.type.name, t.nbytes) for t in section.tensors.values()
        }


def test_a_picture_budget_other_than_the_usual_is_kept(tmp_path: Path) -> None:
    folder = standin.write_checkpoint(tmp_path / "model")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"]["max_soft_tokens"] = 560
    (folder / "processor_config.json").write_text(json.dumps(settings))
    convert(folder, tmp_path / "out.gguf", quant="F16")
    assert Bundle.open(tmp_path / "out.gguf").text.metadata["gemma4gguf.image.max_soft_tokens"] == 560


# ── text-only ────────────────────────────────────────────────────────────────────────────────────────────────────


def text_section(path: Path) -> bytes:
    """The tensor data of the text section."""
    section = Bundle.open(path).text
    raw = path.read_bytes()
    return raw[section.header.data_start : section.header.end]


def test_text_only_by_option(tmp_path: Path, checkpoint: Path, bundle: Path) -> None:
    done = convert(checkpoint, tmp_path / "out.gguf", quant="F32", text_only=True)
    assert [s.architecture for s in done.plan.sections] == [TEXT]
    assert any("NO EMBEDDER" in note for note in done.plan.notes)
    assert text_section(tmp_path / "out.gguf") == text_section(bundle)


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model.", "language_model.", ""])
@pytest.mark.parametrize("name", ["Gemma4UnifiedForCausalLM", "Gemma4ForCausalLM"])
def test_text_only_fine_tunes(tmp_path: Path, bundle: Path, prefix: str, name: str) -> None:
    folder = standin.write_checkpoint(tmp_path / "tuned", text_only=True, prefix=prefix)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [name]}
    (folder / "config.json").write_text(json.dumps(config))
    done = convert(folder, tmp_path / "out.gguf", quant="F32")
    assert any("NO EMBEDDER" in note for note in done.plan.notes)
    assert text_section(tmp_path / "out.gguf") == text_section(bundle)


def test_a_language_model_s_class_with_its_eyes_keeps_them(tmp_path: Path, bundle: Path) -> None:
    folder = standin.write_checkpoint(tmp_path / "standin")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["Gemma4UnifiedForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    done = convert(folder, tmp_path / "out.gguf", quant="F32")
    assert [s.architecture for s in done.plan.sections] == [TEXT, EMBEDDER]


# ── choices ──────────────────────────────────────────────────────────────────────────────────────────────────────


CARD = """---
version: 1.0
author: 2024
name: 12
tags: [2024, text]
language: [en, no]
license_link: 2020-01-01
---
"""


def test_a_model_card_is_prose(tmp_path: Path) -> None:
    """What YAML takes for numbers, dates and No is what somebody wrote."""
    folder = standin.write_checkpoint(tmp_path / "card")
    (folder / "README.md").write_text(CARD)
    general = Bundle.open(convert(folder, tmp_path / "a.gguf", quant="Q8_0").path).text.metadata  # type: ignore[arg-type]
    assert [general[f"general.{key}"] for key in ("version", "author", "license.link")] == ["1.0", "2024", "2020-01-01"]
    assert [list(general[f"general.{key}"]) for key in ("tags", "languages")] == [["2024", "text"], ["en", "no"]]


def test_a_folder_s_name_may_be_any_bytes(tmp_path: Path) -> None:
    folder = standin.write_checkpoint(tmp_path / os.fsdecode(b"caf\xe9"))
    done = convert(folder, tmp_path / "a.gguf", quant="Q8_0")
    assert done.path is not None
    assert "caf" in Bundle.open(done.path).text.metadata["general.name"].lower()


def test_a_missing_template_is_told(tmp_path: Path) -> None:
    folder = standin.write_checkpoint(tmp_path / "mute")
    (folder / "chat_template.jinja").unlink()
    assert any("NO CHAT TEMPLATE" in note for note in convert(folder, tmp_path / "a.gguf", dry_run=True).plan.notes)


def test_text_only_leaves_a_gguf_its_drafter_and_what_is_lost_is_told(
    tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    whole = make_bundle("BF16")
    done = convert(whole, tmp_path / "text.gguf", quant="Q8_0", text_only=True)
    assert [section.architecture for section in done.plan.sections] == [TEXT, DRAFTER]
    stripped = tmp_path / "stripped.gguf"
    stripped.write_bytes(whole.read_bytes()[: Bundle.open(whole).text.size])
    notes = convert(stripped, tmp_path / "again.gguf", quant="Q8_0", dry_run=True).plan.notes
    assert any("NO EMBEDDER" in note for note in notes)
    assert any("the MTP drafter that this file once had is gone" in note for note in notes)


def test_quantisation_aware_checkpoints_default_to_their_type(tmp_path: Path) -> None:
    folder = standin.write_checkpoint(tmp_path / "gemma-4-12B-it-qat-q4_0-unquantized")
    done = convert(folder, tmp_path / "out.gguf", dry_run=True)
    assert done.plan.quant == "Q4_0"
    assert any("quantisation-aware" in note for note in done.plan.notes)
    asked = convert(folder, tmp_path / "out.gguf", quant="Q6_K", dry_run=True)
    assert asked.plan.quant == "Q6_K"
    assert asked.plan.notes == ()


def test_the_usual_default(tmp_path: Path, checkpoint: Path) -> None:
    plan = convert(checkpoint, tmp_path / "out.gguf", dry_run=True).plan
    assert (plan.quant, plan.notes) == ("Q4_K_M", ())


@pytest.mark.parametrize("quant", MIXTURES)
def test_fewer_than_four_bits_are_warned_of(tmp_path: Path, checkpoint: Path, quant: str) -> None:
    plan = convert(checkpoint, tmp_path / "out.gguf", quant=quant, dry_run=True).plan
    assert any("fewer than 4 bits" in note for note in plan.notes) == (quant in ("Q3_K_M", "Q3_K_S", "Q2_K"))


def test_a_gguf_source_carries_its_other_sections(
    tmp_path: Path, make_bundle: Callable[..., Path], drafter: Path
) -> None:
    source = make_bundle("BF16")
    convert(source, tmp_path / "out.gguf", quant="Q4_0")
    before, after = Bundle.open(source), Bundle.open(tmp_path / "out.gguf")
    for old, new in zip(before.sections[1:], after.sections[1:], strict=True):
        assert b"".join(old.copy()) == b"".join(new.copy())
    changed = convert(source, tmp_path / "other.gguf", quant="Q4_0", drafter=drafter, drafter_quant="Q4_0")
    assert [s.quant for s in changed.plan.sections] == ["Q4_0", "as in the source", "Q4_0"]
    bare = convert(source, tmp_path / "bare.gguf", quant="Q4_0", text_only=True)
    assert [s.architecture for s in bare.plan.sections] == [TEXT, DRAFTER]


def test_a_drafter_inside_a_bundle(tmp_path: Path, checkpoint: Path, make_bundle: Callable[..., Path]) -> None:
    out = convert(checkpoint, tmp_path / "out.gguf", quant="Q4_0", drafter=make_bundle("F32"), drafter_quant="F32")
    assert out.path is not None
    ours, theirs = Bundle.open(out.path).require(DRAFTER), Bundle.open(make_bundle("F32")).require(DRAFTER)
    assert b"".join(ours.copy()) == b"".join(theirs.copy())


def test_an_untied_output_matrix(tmp_path: Path) -> None:
    """A fine-tune that gave the logits a matrix of their own."""
    folder = standin.write_checkpoint(tmp_path / "model", text_only=True)
    add_tensor(folder, "lm_head.weight", "model.embed_tokens.weight")
    tied = convert(folder, tmp_path / "tied.gguf", quant="Q4_0")
    assert "output.weight" not in {t.name for t in tied.plan.sections[0].tensors}
    assert any("lm_head.weight was left out" in note for note in tied.plan.notes)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    untied = convert(folder, tmp_path / "untied.gguf", quant="Q4_0")
    kinds = {t.name: t.type for t in untied.plan.sections[0].tensors}
    assert (kinds["output.weight"], kinds["token_embd.weight"]) == ("Q6_K", "Q4_0")


def add_tensor(folder: Path, name: str, like: str) -> None:
    """Add a tensor to a checkpoint's only file, with the bytes of another."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header[name] = header[like]
    blob = json.dumps(header).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + raw[start:])
