"""Checkpoints of quantisation-aware training: recognised by their weights, and stored on their grid without loss."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from converters import Conversion, convert
from converters.checkpoint import read_checkpoint
from converters.gemma4 import MappedTensor
from converters.origin import locate
from converters.recovery import look
from converters.safetensors import StoredTensor
from gemma4gguf.bundle.reading import DRAFTER, NAMES, Section, read_sections
from gemma4gguf.bundle.settings import GRID_TENSORS
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.weights import Weights
from gemma4gguf.proof.tensors import compare
from tests.support.qat import Steps, clipped, dequantised, extremum, learned, learned_float32, put_on_grids, rounded
from tests.support.quantise_peer import llama_quantize


@pytest.fixture(scope="module")
def qat(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in on grids of every kind. Its name says nothing of it."""
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("grids") / "model"))
    put_on_grids(folder)
    return folder


@pytest.fixture(scope="module")
def done(qat: Path) -> Conversion:
    return convert(qat, qat.parent / "grid.gguf")


def text_of(path: Path) -> Section:
    return read_sections(path)[0]


def test_it_is_the_default_and_says_so(done: Conversion) -> None:
    assert done.path is not None
    section = text_of(done.path)
    matrices = [n for n, t in section.tensors.items() if t.type is not T.F32]
    assert {section.tensors[n].type for n in matrices} == {T.Q4_0}  # the embedding and head too
    assert section.metadata[GRID_TENSORS][:] == matrices
    assert any(f"{len(matrices)} matrices lie on a grid" in note for note in done.plan.notes)


def test_every_block_is_exact_or_counted(done: Conversion) -> None:
    counts = done.grids.values()
    blocks, rounded_steps = sum(c.blocks for c in counts), sum(c.rounded for c in counts)
    assert sum(c.exact for c in counts) >= 0.999 * (blocks - rounded_steps)
    assert 0 < rounded_steps < 0.02 * blocks  # of the float32 steps, a quarter of the tensors
    assert sum(c.off for c in counts) == 0
    assert max(c.error for c in counts if c.rounded == 0) == 0


def logits(path: Path) -> np.ndarray:
    with Weights(path) as model:
        options = ContextOptions(64, outputs=32, threads=1, kv_type="f32", flash_attention="off")
        with Context(model, options) as context:
            context.decode(np.arange(3, 35, dtype=np.int32), start=0, outputs=32)
            return np.array([context.logits(i) for i in range(32)])


@pytest.mark.parametrize(
    ("kinds", "apart"),
    [
        ((extremum, learned, clipped), 0.02),
        ((learned_float32,), 0.2),  # steps that half precision has to round, in every matrix of twelve random layers
    ],
)
def test_the_logits_are_the_checkpoints(
    checkpoint: Path, tmp_path: Path, kinds: tuple[Steps, ...], apart: float
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    put_on_grids(folder, kinds)
    plain = tmp_path / "f32.gguf"
    convert(folder, plain, quant="F32", text_only=True)
    convert(folder, tmp_path / "ours.gguf", text_only=True)
    convert(folder, tmp_path / "theirs.gguf", exact_llama=True, text_only=True)
    wanted = logits(plain)
    ours, theirs = (
        np.abs(logits(dequantised(tmp_path / f"{name}.gguf", plain, tmp_path / f"{name}-f32.gguf")) - wanted).max()
        for name in ("ours", "theirs")
    )
    assert ours < apart
    assert theirs > 1  # what is gained


def test_exact_llama_gives_its_bytes(qat: Path, tmp_path: Path) -> None:
    convert(qat, tmp_path / "bf16.gguf", quant="BF16", text_only=True)
    convert(qat, tmp_path / "ours.gguf", exact_llama=True, text_only=True)
    llama_quantize(tmp_path / "bf16.gguf", tmp_path / "theirs.gguf", 2)
    ours, theirs = text_of(tmp_path / "ours.gguf"), text_of(tmp_path / "theirs.gguf")
    assert GRID_TENSORS not in ours.metadata
    assert [n for n in ours.tensors if not np.array_equal(ours.raw(n), theirs.raw(n))] == []


def test_tensors_on_no_grid_keep_llama_cpps_bytes(checkpoint: Path, tmp_path: Path) -> None:
    """Only the first of two shards is on a grid."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    chosen = put_on_grids(folder, (learned,), only="mlp.down_proj")
    convert(folder, tmp_path / "bf16.gguf", quant="BF16", text_only=True)
    convert(folder, tmp_path / "ours.gguf", quant="Q4_0", text_only=True)
    llama_quantize(tmp_path / "bf16.gguf", tmp_path / "theirs.gguf", 2)
    ours, theirs = text_of(tmp_path / "ours.gguf"), text_of(tmp_path / "theirs.gguf")
    assert [n for n in ours.tensors if not np.array_equal(ours.raw(n), theirs.raw(n))] == ours.metadata[GRID_TENSORS][:]
    assert len(chosen) == len(ours.metadata[GRID_TENSORS])


def test_a_plain_checkpoint_is_not_taken_for_one(checkpoint: Path) -> None:
    contents = read_checkpoint(locate(checkpoint, lambda done, total: None), text_only=True)
    found = look(contents.sections[0].tensors, (T.Q4_0, T.Q4_1, T.Q8_0))
    assert (found.lattices, found.by_channel, found.share) == ({}, (), 0)


@pytest.mark.parametrize(
    ("quant", "note"), [("Q4_K_M", "is smaller than Q4_K_M and stores them without loss"), ("BF16", "")]
)
def test_another_type_is_made_as_asked(qat: Path, tmp_path: Path, quant: str, note: str) -> None:
    made = convert(qat, tmp_path / "out.gguf", quant=quant, text_only=True)
    assert made.path is not None
    assert GRID_TENSORS not in text_of(made.path).metadata
    assert any(note in each for each in made.plan.notes) if note else not any("grid" in n for n in made.plan.notes)


def test_a_gguf_of_such_a_checkpoint_is_one_too(qat: Path, done: Conversion, tmp_path: Path) -> None:
    assert done.path is not None
    convert(qat, tmp_path / "bf16.gguf", quant="BF16")
    convert(tmp_path / "bf16.gguf", tmp_path / "ours.gguf")
    ours, direct = text_of(tmp_path / "ours.gguf"), text_of(done.path)
    assert [n for n in direct.tensors if not np.array_equal(ours.raw(n), direct.raw(n))] == []


def test_threads_do_not_change_the_bytes(qat: Path, done: Conversion, tmp_path: Path) -> None:
    assert done.path is not None
    convert(qat, tmp_path / "one.gguf", threads=1)
    assert (tmp_path / "one.gguf").read_bytes() == done.path.read_bytes()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_grid_for_each_channel_is_named_and_not_held(tmp_path: Path, axis: int) -> None:
    """8 bits with a step for each row, 4 bits with a step for each column."""
    values = np.random.default_rng(7).normal(size=(128, 256)).astype(np.float32)
    top = (127, 7)[axis]
    step = rounded(np.abs(values).max(1 - axis, keepdims=True) / np.float32(top))
    grid = rounded(np.clip(np.rint(values / step), -top, top) * step)
    (tmp_path / "raw").write_bytes((grid.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes())
    stored = StoredTensor("w", grid.shape, T.BF16, tmp_path / "raw", 0)
    found = look([MappedTensor("blk.0.ffn_up.weight", grid.shape, stored)], (T.Q4_0, T.Q4_1, T.Q8_0))
    assert (found.lattices, found.by_channel) == ({}, ("blk.0.ffn_up.weight",))


def test_the_drafter_lies_on_a_grid_too(qat: Path, drafter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(drafter, tmp_path / "assistant"))
    put_on_grids(folder, (learned,))
    done = convert(qat, tmp_path / "out.gguf", drafter=folder, text_only=True)
    assert done.path is not None
    section = read_sections(done.path)[-1]
    matrices = [n for n, t in section.tensors.items() if t.type is not T.F32]
    assert section.architecture == DRAFTER
    assert {section.tensors[n].type for n in matrices} == {T.Q4_0}
    assert section.metadata[GRID_TENSORS][:] == matrices
    assert all(
        done.grids[f"{NAMES[DRAFTER]}: {n}"].exact == done.grids[f"{NAMES[DRAFTER]}: {n}"].blocks for n in matrices
    )
    source = read_checkpoint(locate(folder, lambda done, total: None), drafter=True).sections[0].tensors
    assert [str(f) for f in compare(section, source, (), 1, lambda size: None) if not f.equal] == []
    convert(qat, tmp_path / "same.gguf", drafter=folder, drafter_quant="Q8_0", text_only=True)
    kinds = {t.type for t in read_sections(tmp_path / "same.gguf")[-1].tensors.values()}
    assert kinds == {T.F32, T.Q8_0}  # what is asked for


def test_a_target_takes_the_grids_type_where_it_fits(qat: Path, tmp_path: Path) -> None:
    """It loses nothing and is small, so nothing dearer is any use."""
    made = convert(qat, tmp_path / "whole.gguf", target_bpw=6, text_only=True)
    assert made.path is not None
    section = text_of(made.path)
    assert {t.type for t in section.tensors.values()} == {T.F32, T.Q4_0}
    assert all(c.off == 0 for c in made.grids.values())
    less = convert(qat, tmp_path / "less.gguf", target_bpw=4, text_only=True)
    assert less.path is not None
    kinds = {t.type for t in text_of(less.path).tensors.values()}
    assert {T.Q4_0} < kinds - {T.F32}
    assert len(less.grids) < len(made.grids)


def test_verify_against_makes_the_grid_again(qat: Path, done: Conversion) -> None:
    assert done.path is not None
    source = read_checkpoint(locate(qat, lambda done, total: None), text_only=True).sections[0].tensors
    findings = list(compare(text_of(done.path), source, (), 1, lambda size: None))
    assert len(findings) == len(text_of(done.path).tensors)
    assert [str(f) for f in findings if not f.equal] == []
