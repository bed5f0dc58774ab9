"""LoRA adapters merged while converting, against W + scale * B A in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters import convert
from converters.gemma4 import plane_order
from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import ConversionError, InputError
from tests.support import variants

TINY = variants.TINY
LAYER = "model.language_model.layers.0."
GGUF = {
    f"{LAYER}self_attn.q_proj": "blk.0.attn_q.weight",
    f"{LAYER}self_attn.k_proj": "blk.0.attn_k.weight",
    f"{LAYER}self_attn.o_proj": "blk.0.attn_output.weight",
    f"{LAYER}mlp.down_proj": "blk.0.ffn_down.weight",
    f"{LAYER}mlp.up_proj": "blk.0.ffn_up.weight",
    "model.language_model.layers.5.self_attn.k_proj": "blk.5.attn_k.weight",
}
FloatArray = NDArray[np.float32]


@pytest.fixture(scope="module")
def base() -> dict[str, FloatArray]:
    return {name: variants.values(t) for name, t in variants.load(TINY / "model.safetensors").items()}


def drawn(shape: tuple[int, ...], seed: int) -> FloatArray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 0.05, np.float32)


def pair(shape: tuple[int, ...], rank: int, seed: int) -> tuple[FloatArray, FloatArray]:
    return drawn((rank, shape[1]), seed), drawn((shape[0], rank), seed + 1)


def write(folder: Path, tensors: Mapping[str, FloatArray], **config: Any) -> Path:
    """An adapter's folder; names without PEFT's `base_model.model.`."""
    folder.mkdir()
    given = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "someone/tiny", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(given | config))
    stored = {f"base_model.model.{name}": variants.float32(values) for name, values in tensors.items()}
    variants.save(folder / "adapter_model.safetensors", stored)
    return folder


def matrices(modules: Mapping[str, tuple[FloatArray, FloatArray]]) -> dict[str, FloatArray]:
    return {f"{m}.lora_{x}.weight": v for m, ab in modules.items() for x, v in zip("AB", ab, strict=True)}


def merged(lora: Path, out: Path, **how: Any) -> Callable[[str], FloatArray]:
    """Convert with the adapter; a function from a tensor's GGUF name to its values, of any section."""
    convert(TINY, out, quant="F32", lora=lora, **how)
    sections = Bundle.open(out).sections
    return lambda name: next(s.array(name) for s in sections if name in s.tensors)


def close(ours: FloatArray, theirs: FloatArray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-7 * max(1.0, float(np.abs(theirs).max())))


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 8 / 4),
        ({"lora_alpha": 1}, 1 / 4),
        ({"use_rslora": True}, 8 / sqrt(4)),
        ({"lora_alpha": 2.5, "use_rslora": True}, 2.5 / 2),
        ({"init_lora_weights": "gaussian", "lora_dropout": 0.1, "some_future_key": None}, 2),
    ],
)
def test_every_changed_matrix(
    tmp_path: Path, base: Mapping[str, FloatArray], config: dict[str, Any], scale: float
) -> None:
    modules = {m: pair(base[f"{m}.weight"].shape, 4, 10 * i) for i, m in enumerate(GGUF)}
    found = merged(write(tmp_path / "lora", matrices(modules), **config), tmp_path / "out.gguf")
    for module, (a, b) in modules.items():
        close(found(GGUF[module]), base[f"{module}.weight"] + np.float32(scale) * (b @ a))
    np.testing.assert_array_equal(
        found("blk.1.attn_q.weight"), base["model.language_model.layers.1.self_attn.q_proj.weight"]
    )


@pytest.mark.parametrize("pattern", ["q_proj", r"layers\.0\.self_attn\.q_proj", f"{LAYER}self_attn.q_proj", ".*q_proj"])
def test_rank_and_alpha_patterns(tmp_path: Path, base: Mapping[str, FloatArray], pattern: str) -> None:
    q, k = (f"{LAYER}self_attn.{n}_proj" for n in "qk")
    modules = {q: pair(base[f"{q}.weight"].shape, 2, 1), k: pair(base[f"{k}.weight"].shape, 4, 3)}
    config = {"rank_pattern": {pattern: 2}, "alpha_pattern": {pattern: 32}}
    found = merged(write(tmp_path / "lora", matrices(modules), **config), tmp_path / "out.gguf")
    for module, scale in ((q, 32 / 2), (k, 8 / 4)):
        a, b = modules[module]
        close(found(GGUF[module]), base[f"{module}.weight"] + np.float32(scale) * (b @ a))


def test_the_embedder_s_matrices_in_their_order(tmp_path: Path, base: Mapping[str, FloatArray]) -> None:
    """Trained under transformers' own names of them; the patch matrix is stored plane by plane."""
    w = base["model.vision_embedder.patch_dense.weight"]
    a, b = pair(w.shape, 4, 5)
    bias = drawn((w.shape[0],), 8)
    tensors = matrices({"model.embed_vision.patch_dense": (a, b)}) | {"model.embed_vision.patch_dense.bias": bias}
    found = merged(write(tmp_path / "lora", tensors, bias="all"), tmp_path / "out.gguf")
    close(found("v.patch_embd.weight"), (w + np.float32(2) * (b @ a))[:, plane_order(48)])
    np.testing.assert_array_equal(found("v.patch_embd.bias"), bias)
    lora = tmp_path / "lora"
    convert(TINY, tmp_path / "text.gguf", quant="Q8_0", lora=lora, text_only=True)  # they are simply not written


def test_an_embedding_that_changes_leaves_the_output_as_it_was(tmp_path: Path, base: Mapping[str, FloatArray]) -> None:
    """PEFT changes the embedding alone, though the base model ties it to its output."""
    name = "model.language_model.embed_tokens"
    rows, width = base[f"{name}.weight"].shape
    a, b = drawn((4, rows), 1), drawn((width, 4), 2)
    lora = write(tmp_path / "lora", {f"{name}.lora_embedding_A": a, f"{name}.lora_embedding_B": b})
    found = merged(lora, tmp_path / "out.gguf")
    close(found("token_embd.weight"), base[f"{name}.weight"] + np.float32(2) * (b @ a).T)
    np.testing.assert_array_equal(found("output.weight"), base[f"{name}.weight"])
    tied = write(
        tmp_path / "tied", {f"{name}.lora_embedding_A": a, f"{name}.lora_embedding_B": b}, ensure_weight_tying=True
    )
    convert(TINY, tmp_path / "tied.gguf", quant="F32", lora=tied)
    assert "output.weight" not in Bundle.open(tmp_path / "tied.gguf").text.tensors


def test_modules_saved_whole(tmp_path: Path, base: Mapping[str, FloatArray]) -> None:
    head = drawn(base["model.language_model.embed_tokens.weight"].shape, 3)
    norm = drawn((256,), 4)
    tensors = {"lm_head.weight": head, f"{LAYER}input_layernorm.weight": norm}
    q = f"{LAYER}self_attn.q_proj"
    a, b = pair(base[f"{q}.weight"].shape, 4, 7)
    lora = write(tmp_path / "lora", tensors | matrices({q: (a, b)}), modules_to_save=["lm_head", "input_layernorm"])
    found = merged(lora, tmp_path / "out.gguf")
    np.testing.assert_array_equal(found("output.weight"), head)
    np.testing.assert_array_equal(found("token_embd.weight"), base["model.language_model.embed_tokens.weight"])
    np.testing.assert_array_equal(found("blk.0.attn_norm.weight"), norm)
    close(found("blk.0.attn_q.weight"), base[f"{q}.weight"] + np.float32(2) * (b @ a))


@pytest.mark.parametrize("prefix", ["model.", "language_model.model.", "model.language_model."])
def test_an_adapter_of_the_language_model_s_own_class(
    tmp_path: Path, base: Mapping[str, FloatArray], prefix: str
) -> None:
    a, b = pair(base[f"{LAYER}mlp.up_proj.weight"].shape, 4, 1)
    lora = write(tmp_path / "lora", matrices({f"{prefix}layers.0.mlp.up_proj": (a, b)}))
    found = merged(lora, tmp_path / "out.gguf")
    close(found("blk.0.ffn_up.weight"), base[f"{LAYER}mlp.up_proj.weight"] + np.float32(2) * (b @ a))


def test_threads_and_slabs_change_nothing_and_the_bundle_runs(tmp_path: Path, base: Mapping[str, FloatArray]) -> None:
    modules = {m: pair(base[f"{m}.weight"].shape, 4, 10 * i) for i, m in enumerate(GGUF)}
    lora = write(tmp_path / "lora", matrices(modules), lora_alpha=0.01)
    done = [convert(TINY, tmp_path / f"{n}.gguf", quant="Q4_K_M", lora=lora, threads=n) for n in (1, 3)]
    first, second = ((tmp_path / f"{n}.gguf").read_bytes() for n in (1, 3))
    assert first == second
    (note,) = [note for note in done[0].plan.notes if "adapter" in note]
    assert "6 matrices changed" in note
    assert "made for" not in note
    with Gemma4(tmp_path / "1.gguf", threads=1) as model:
        assert model.generate("What is 3 + 4?", temperature=0).text == "3 + 4 = 7"


# ── what is refused, and what is said ────────────────────────────────────────────────────────────────────────────


def plain_adapter(folder: Path, **config: Any) -> Path:
    return write(folder, matrices({f"{LAYER}self_attn.q_proj": pair((256, 256), 4, 1)}), **config)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"r": 8}, "says rank 8"),
        ({"rank_pattern": {"q_proj": 2}}, "says rank 2"),
        ({"lora_alpha": "big"}, "lora_alpha is 'big'"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern is None"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"(": 4}}, "not a regular expression"),
        ({"rank_pattern": {"(a+)+$": 4}}, "too complex"),
    ],
)
def test_configs_that_cannot_be_merged(tmp_path: Path, config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConversionError, match=word.replace("(", r"\(")):
        convert(TINY, tmp_path / "out.gguf", lora=plain_adapter(tmp_path / "lora", **config))
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (f"{LAYER}self_attn.q_proj", (256, 384)),
        (f"{LAYER}self_attn.q_proj", (512, 256)),
        (f"{LAYER}self_attn.v_projection", (256, 256)),
        ("model.language_model.layers.10.self_attn.q_proj", (256, 256)),
        ("model.language_model.layers.5.self_attn.v_proj", (128, 256)),
    ],
)
def test_another_base_is_refused(tmp_path: Path, module: str, shape: tuple[int, int]) -> None:
    lora = write(tmp_path / "lora", matrices({module: pair(shape, 4, 1)}))
    with pytest.raises(ConversionError, match=r"the adapter is of another model \(someone/tiny\)"):
        convert(TINY, tmp_path / "out.gguf", lora=lora)


def test_parts_that_do_not_fit_each_other(tmp_path: Path) -> None:
    q = f"{LAYER}self_attn.q_proj"
    a, b = pair((256, 256), 4, 1)
    for i, tensors in enumerate(
        (
            {f"{q}.lora_A.weight": a},
            {f"{q}.lora_A.weight": a, f"{q}.lora_B.weight": b[:, :3]},
            {f"{q}.lora_A.weight": a[0], f"{q}.lora_B.weight": b},
            {f"{q}.lora_A.weight": a, f"{q}.lora_B.weight": b, f"{q}.lora_magnitude_vector": b[:, 0]},
            {f"{q}.lora_A.weight": a, f"{q}.lora_B.weight": b, f"{q}.lora_B.bias": b[:, 0]},
            {},
        )
    ):
        with pytest.raises(ConversionError):
            convert(TINY, tmp_path / "out.gguf", lora=write(tmp_path / str(i), tensors))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    a, b = pair((256, 256), 4, 1)
    b[3, 2] = value
    lora = write(tmp_path / "lora", matrices({f"{LAYER}self_attn.q_proj": (a, b)}))
    with pytest.raises(ConversionError, match="not finite"):
        convert(TINY, tmp_path / "out.gguf", lora=lora)
    assert [p.name for p in tmp_path.iterdir()] == ["lora"]


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin", "optimizer.pt", None])
def test_an_adapter_beside_the_model_is_said_with_the_cure(tmp_path: Path, weights: str | None) -> None:
    folder = variants.copy(tmp_path / "tiny")
    lora = plain_adapter(tmp_path / "lora")
    (lora / "adapter_config.json").rename(folder / "adapter_config.json")
    if weights:
        (lora / "adapter_model.safetensors").rename(folder / weights)
    done = convert(folder, tmp_path / "out.gguf", quant="Q8_0")
    (note,) = [note for note in done.plan.notes if "adapter" in note]
    assert f"was left out; lora={str(folder)!r} merges it" in note
    convert(TINY, tmp_path / "plain.gguf", quant="Q8_0")
    plain, beside = (Bundle.open(tmp_path / f"{n}.gguf").text.array("blk.0.attn_q.weight") for n in ("plain", "out"))
    np.testing.assert_array_equal(plain, beside)
    if weights == "adapter_model.safetensors":
        convert(folder, tmp_path / "merged.gguf", quant="Q8_0", lora=folder)
        assert not np.array_equal(Bundle.open(tmp_path / "merged.gguf").text.array("blk.0.attn_q.weight"), plain)


def test_sources_and_folders_that_are_something_else(tmp_path: Path) -> None:
    lora = plain_adapter(tmp_path / "lora")
    with pytest.raises(ConversionError, match=r"is a LoRA adapter, not a model.*as lora"):
        convert(lora, tmp_path / "out.gguf")
    with pytest.raises(ConversionError, match=r"no adapter_config\.json"):
        convert(TINY, tmp_path / "out.gguf", lora=TINY)
    with pytest.raises(ConversionError, match=r"no adapter_config\.json"):
        convert(TINY, tmp_path / "out.gguf", lora=tmp_path / "nowhere")
    convert(TINY, tmp_path / "source.gguf", quant="BF16")
    with pytest.raises(InputError, match="lora is for a checkpoint"):
        convert(tmp_path / "source.gguf", tmp_path / "out.gguf", lora=lora)
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(ConversionError, match="save the adapter as safetensors"):
        convert(TINY, tmp_path / "out.gguf", lora=lora)


def test_a_base_of_another_name_is_said(tmp_path: Path) -> None:
    lora = plain_adapter(tmp_path / "lora", base_model_name_or_path="google/gemma-4-12B-it")
    notes = convert(TINY, tmp_path / "out.gguf", quant="Q8_0", lora=lora).plan.notes
    assert any("it was made for google/gemma-4-12B-it" in note for note in notes)
