"""`verify --against`: what is right passes; each thing that is wrong is found, and named by tensor, key or layer.

An engine cannot be made wrong here. So the reference is, in one function at a time: they disagree all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from converters import convert
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle
from gemma4gguf.cli import cli, run
from gemma4gguf.native.quantizer import quantize_rows
from gemma4gguf.proof import layers
from gemma4gguf.proof.report import prove
from gemma4gguf.reference import arithmetic
from gemma4gguf.reference import model as reference
from gemma4gguf.reference.weights import Checkpoint
from tests.conftest import MODELS
from tests.support.rewrite import Piece, copied, pieces, write

TINY, ASSISTANT = MODELS / "tiny", MODELS / "tiny-assistant"
FULL = "layer 2 (full)"  # tiny's first


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny with its drafter, in types of 4 to 32 bits."""
    out = tmp_path_factory.mktemp("made") / "tiny.gguf"
    convert(TINY, out, quant="Q4_K_M", drafter=ASSISTANT)
    return out


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny in float32: one position too many in a window is less than what rounding to 8 bits may cost."""
    out = tmp_path_factory.mktemp("exact") / "tiny.gguf"
    convert(TINY, out, quant="F32")
    return out


@pytest.fixture(scope="module")
def held(made: Path) -> dict[str, Piece]:
    return pieces(made)


def test_what_a_checkpoint_makes_is_sound(made: Path) -> None:
    stages: list[str] = []
    report = prove(made, TINY, drafter=ASSISTANT, threads=1, progress=lambda done, total, stage: stages.append(stage))
    assert report.faults == []
    assert all(t.equal for t in report.tensors)
    assert len(report.tensors) == 178
    assert report.left_out == ()
    assert report.facts["tensors"] == 150
    assert report.facts["parameters"] == 9_317_002
    seen = {p.modality for p in report.places}
    assert (
        seen
        == {"text", "long text", "picture", "two pictures", "sound", "mixed"}
        == {a.modality for a in report.logits}
    )
    assert {p.where for p in report.places} >= {"embedder", "layer 0 (sliding)", FULL, "layer 9 (full)", "logits"}
    assert all(a.kl < 0.2 for a in report.logits)
    assert [*dict.fromkeys(stages)] == ["tensors", "engine", "layers", "source"]
    assert "178 of 178 tensors byte for byte" in report.verdict


def test_in_float32_the_engine_is_the_reference(exact: Path) -> None:
    report = prove(exact, TINY, threads=1)
    assert report.sound
    assert all(a.largest < 0.03 and a.same_top == 1 for a in report.logits)
    assert max(p.off for p in report.places) < 0.001


# ── an engine that computes something else ───────────────────────────────────────────────────────────────────────


def everywhere(queries: Any, keys: Any, pictures: Any, window: int | None) -> Any:
    """Pictures see themselves both ways on full layers too, as in transformers' default path."""
    return arithmetic.visible(queries, keys, pictures, window or 1 << 30)


def one_more(queries: Any, keys: Any, pictures: Any, window: int | None) -> Any:
    return arithmetic.visible(queries, keys, pictures, window and window + 1)


def whole_head(head: int, theta: float, fraction: float = 1.0) -> Any:
    return arithmetic.frequencies(head, theta)


WRONG: dict[str, tuple[object, str, object, str, str]] = {
    "a picture both ways on full layers": (reference, "visible", everywhere, "picture", FULL),
    "the whole head turns on full layers": (reference, "frequencies", whole_head, "long text", FULL),
    "values without a norm": (reference.Layer, "values", lambda layer, x: x, "sound", "layer 0 (sliding)"),
    "one position too many in the window": (reference, "visible", one_more, "long text", "layer 0 (sliding)"),
    "no layer scalar": (
        layers.FileNorms,
        "whole",
        lambda weights, name: np.ones(1, np.float32) if name.endswith("scalar") else weights._file.whole(name),
        "text",
        "layer 0 (sliding)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arithmetic_is_named(made: Path, exact: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    owner, attribute, instead, modality, where = WRONG[name]
    monkeypatch.setattr(owner, attribute, instead)
    bundle = Bundle.open(exact if modality == "long text" else made)
    seen = layers.observe(bundle, threads=1, short=modality != "long text")
    places = list(layers.compare(bundle, seen, Checkpoint(TINY), [0, 2]))
    wrong = [(p.modality, p.where) for p in places if not p.right]
    assert (modality, where) in wrong
    if name.startswith("a picture"):
        assert set(wrong) == {("picture", FULL)}


# ── a file that says something else ──────────────────────────────────────────────────────────────────────────────


def tensor(piece: Piece, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a tensor's bytes as they are stored."""
    kind, shape, raw = piece.tensors[name]
    new = change(np.frombuffer(raw, np.uint8).copy())
    piece.tensors[name] = kind, shape, np.ascontiguousarray(new).view(np.uint8).tobytes()


def ones(raw: np.ndarray) -> np.ndarray:
    return np.ones_like(raw.view(np.float32))


def in_pixel_order(raw: np.ndarray) -> np.ndarray:
    """The patch matrix as the checkpoint has it, not in planes."""
    return np.moveaxis(raw.view(np.float32).reshape(-1, 3, 48, 48), 1, 3)


def flipped(raw: np.ndarray) -> np.ndarray:
    """The sign of one block's scale."""
    raw[1] ^= 0x80
    return raw


def swapped(held: dict[str, Piece]) -> None:
    text = held[TEXT].tensors
    text["blk.3.attn_q.weight"] = text["blk.4.attn_q.weight"]


def template(held: dict[str, Piece]) -> None:
    held[TEXT].put("tokenizer.chat_template", V.STRING, "{{ bos_token }}{{ messages[0]['content'] }}")


def words(held: dict[str, Piece]) -> None:
    tokens = list(held[TEXT].values["tokenizer.ggml.tokens"])
    tokens[700], tokens[701] = tokens[701], tokens[700]
    for name in (TEXT, DRAFTER):
        held[name].put("tokenizer.ggml.tokens", V.STRING, tokens)


FILES: dict[str, tuple[Callable[[dict[str, Piece]], object], tuple[str, ...]]] = {
    "another layer's matrix": (swapped, ("text model: blk.3.attn_q.weight: is not the source's",)),
    "one scale flipped": (
        lambda h: tensor(h[TEXT], "blk.0.ffn_gate.weight", flipped),
        ("text model: blk.0.ffn_gate.weight: 1 of its 512 blocks",),
    ),
    "one scale flipped in the drafter": (
        lambda h: tensor(h[DRAFTER], "blk.1.ffn_up.weight", flipped),
        ("MTP drafter: blk.1.ffn_up.weight: is not the source's",),
    ),
    "a norm that counts from 1": (
        lambda h: tensor(h[TEXT], "blk.0.post_ffw_norm.weight", lambda raw: raw.view(np.float32) + 1),
        ("text model: blk.0.post_ffw_norm.weight: is not the source's", "text: layer 0 (sliding)"),
    ),
    "no layer scalar": (
        lambda h: tensor(h[TEXT], "blk.2.layer_output_scale.weight", ones),
        ("text model: blk.2.layer_output_scale.weight: is not", f"text: {FULL}", f"sound: {FULL}"),
    ),
    "patches in the other order": (
        lambda h: tensor(h[EMBEDDER], "v.patch_embd.weight", in_pixel_order),
        ("multimodal embedder: v.patch_embd.weight: is not the source's", "picture: embedder"),
    ),
    "a wrong rotation": (
        lambda h: h[TEXT].put("rope.freq_base_swa", V.FLOAT32, 500.0),
        ("gemma4.rope.freq_base_swa is 500.0, the source says 10000.0", "text: layer 0 (sliding)"),
    ),
    "another model's template": (template, ("text model: the chat template is another one: SHA-256",)),
    "two words in each other's place": (words, ("tokenizer.ggml.tokens differs in 2 of 2,048 entries, first 700",)),
    "an end token less": (
        lambda h: h[TEXT].put("tokenizer.ggml.eos_token_id", V.UINT32, 3),
        ("text model: tokenizer.ggml.eos_token_id is 3, the source says 1",),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_named(held: dict[str, Piece], tmp_path: Path, name: str) -> None:
    change, expected = FILES[name]
    own = copied(held)
    change(own)
    report = prove(write(own, tmp_path / "a.gguf"), TINY, drafter=ASSISTANT, quick=change is not swapped, threads=1)
    for text in expected:
        assert any(text in fault for fault in report.faults), report.faults
    assert "NOT what" in report.verdict
    others = [fault for fault in report.faults if not any(text in fault for text in expected)]
    assert not [fault for fault in others if "model:" in fault or ("embedder:" in fault and "picture" not in fault)]


def test_somebody_elses_quantiser_passes(held: dict[str, Piece], tmp_path: Path) -> None:
    """With importance values most blocks differ, and none is worse than the type's cost allows."""
    own = copied(held)
    values = Checkpoint(TINY).whole("layers.0.mlp.up_proj.weight")
    weights = np.linspace(0.5, 2.0, values.shape[1], dtype=np.float32)
    kind, shape, raw = own[TEXT].tensors["blk.0.ffn_up.weight"]
    other = quantize_rows(np.ascontiguousarray(values), kind, weights).tobytes()
    assert kind is T.Q4_K
    assert other != raw
    own[TEXT].tensors["blk.0.ffn_up.weight"] = kind, shape, other
    report = prove(write(own, tmp_path / "a.gguf"), TINY, quick=True, threads=1)
    assert report.faults == []
    (finding,) = (t for t in report.tensors if not t.equal)
    assert finding.error == pytest.approx(finding.cost, rel=0.2)
    assert any("MTP drafter" in line for line in report.left_out)


def test_a_gguf_as_the_source(made: Path, tmp_path: Path) -> None:
    convert(TINY, tmp_path / "base.gguf", quant="BF16", drafter=ASSISTANT)
    report = prove(made, tmp_path / "base.gguf", quick=True, threads=1)
    assert not [fault for fault in report.faults if "drafter" not in fault.lower()], report.faults


def test_command(made: Path, held: dict[str, Piece], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--against", str(TINY), "--quick", "--threads", "1"]
    assert run(cli, ["verify", str(made), *asked]) == 0
    assert "tiny.gguf is what" in capsys.readouterr().out
    own = copied(held)
    template(own)
    bad = write(own, tmp_path / "bad.gguf")
    assert run(cli, ["verify", str(bad), *asked, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert any("chat template" in fault for fault in told["faults"])
    assert told["against"]["sound"] is False
    assert set(told["against"]["versions"]) == {"gemma4gguf", "llama.cpp", "numpy"}
    assert run(cli, ["verify", str(made), "--quick"]) == 2
