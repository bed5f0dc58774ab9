"""Nothing but the checkpoint and the options decides what is in the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters import MIXTURES, convert
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle
from tests.support import standin

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
