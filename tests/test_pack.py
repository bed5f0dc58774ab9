"""`pack`: anyone's files become one bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf import Gemma4
from gemma4gguf.bundle.container import encode_pair, padded, place_tensors
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle, read_sections
from gemma4gguf.bundle.writing import Part, part_of
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import ConversionError
from gemma4gguf.tools.pack import pack
from tests.support.parts import changed, save

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


def test_anyones_files_become_the_bundle_of_the_converter(
    bundle: Path, parts: Mapping[str, Path], tmp_path: Path
) -> None:
    """The converter and pack lay out the same sections the same way, whoever wrote the parts."""
    out = tmp_path / "out.gguf"
    result = pack(parts[TEXT], out, embedder=parts[EMBEDDER], drafter=parts[DRAFTER])
    assert out.read_bytes() == bundle.read_bytes()
    assert result.sections == (TEXT, EMBEDDER, DRAFTER)
    assert result.size == out.stat().st_size
    assert result.sizes == tuple(s.size for s in Bundle.open(bundle).sections)
    assert result.notes == ()


def test_a_packed_bundle_answers_as_the_converted_one(bundle: Path, parts: Mapping[str, Path], tmp_path: Path) -> None:
    pack(parts[TEXT], tmp_path / "out.gguf", embedder=parts[EMBEDDER])
    picture = np.full((96, 96, 3), (200, 30, 90), np.uint8)
    answers = []
    for path in (bundle, tmp_path / "out.gguf"):
        with Gemma4(path, context=1024, image_tokens=70) as model:
            answers.append(model.generate("What is this?", images=[picture], **GREEDY).text)
    assert answers[0] == answers[1]


def test_a_bundle_brings_its_own_sections(bundle: Path, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "same.gguf")
    assert (tmp_path / "same.gguf").read_bytes() == bundle.read_bytes()


def test_a_given_file_replaces_a_section(bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    """Another drafter into a bundle: the rest stays, byte for byte."""
    other = make_bundle("F32", drafter_quant="Q8_0")
    section = Bundle.open(other).require(DRAFTER)
    pack(bundle, tmp_path / "out.gguf", drafter=save(tmp_path / "drafter.gguf", part_of(section)))
    assert (tmp_path / "out.gguf").read_bytes() == other.read_bytes()


def test_text_alone_is_said_loudly(parts: Mapping[str, Path], tmp_path: Path) -> None:
    result = pack(parts[TEXT], tmp_path / "out.gguf")
    assert result.sections == (TEXT,)
    assert [note for note in result.notes if "NO EMBEDDER" in note and "embedder=" in note]
    assert Bundle.open(tmp_path / "out.gguf").missing == ()


def test_a_rewritten_bundle_is_told_what_it_lost(bundle: Path, tmp_path: Path) -> None:
    text = Bundle.open(bundle).text
    (tmp_path / "lost.gguf").write_bytes(b"".join(text.copy()))
    result = pack(tmp_path / "lost.gguf", tmp_path / "out.gguf")
    assert sum("once had" in note for note in result.notes) == 2
    assert Bundle.open(tmp_path / "out.gguf").missing == ()


def test_what_a_split_leaves_in_the_keys_goes(bundle: Path, parts: Mapping[str, Path], tmp_path: Path) -> None:
    text = read_sections(parts[TEXT])[0]
    keys = {"split.count": encode_pair("split.count", V.UINT16, 1), "split.no": encode_pair("split.no", V.UINT16, 0)}
    merged = save(tmp_path / "merged.gguf", changed(text, keys))
    pack(merged, tmp_path / "out.gguf", embedder=parts[EMBEDDER], drafter=parts[DRAFTER])
    assert (tmp_path / "out.gguf").read_bytes() == bundle.read_bytes()


def test_query_key_and_value_may_be_one_tensor(parts: Mapping[str, Path], tmp_path: Path) -> None:
    """llama.cpp reads either form, so both are whole models."""
    text = read_sections(parts[TEXT])[0]
    apart = [f"blk.0.attn_{name}.weight" for name in "qkv"]
    raws = {name: text.raw(name).tobytes() for name in text.tensors if name not in apart}
    raws["blk.0.attn_qkv.weight"] = b"".join(text.raw(name).tobytes() for name in apart)
    rows = sum(text.tensors[name].shape[0] for name in apart)
    shapes = {name: info.shape for name, info in text.tensors.items()} | {"blk.0.attn_qkv.weight": (rows, 256)}
    table = place_tensors([(name, shapes[name], T.F32) for name in raws])
    fused = Part(
        TEXT, part_of(text).pairs, table, lambda: [raw + bytes(padded(len(raw)) - len(raw)) for raw in raws.values()]
    )
    pack(save(tmp_path / "fused.gguf", fused), tmp_path / "out.gguf", embedder=parts[EMBEDDER], drafter=parts[DRAFTER])
    assert "blk.0.attn_qkv.weight" in Bundle.open(tmp_path / "out.gguf").text.tensors


def test_its_own_source_can_be_replaced(bundle: Path, parts: Mapping[str, Path], tmp_path: Path) -> None:
    """The new file takes the name only when it is whole, so the source may be the output."""
    own = shutil.copy(parts[TEXT], tmp_path / "own.gguf")
    pack(own, own, embedder=parts[EMBEDDER], drafter=parts[DRAFTER], force=True)
    assert Path(own).read_bytes() == bundle.read_bytes()


def test_an_output_that_exists_stays(parts: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(ConversionError, match="exists already"):
        pack(parts[TEXT], tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_command(bundle: Path, parts: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    line = ["pack", str(parts[TEXT]), "--embedder", str(parts[EMBEDDER]), "--drafter", str(parts[DRAFTER]), str(out)]
    assert run(cli, [*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sections"] == [TEXT, EMBEDDER, DRAFTER]
    assert out.read_bytes() == bundle.read_bytes()
    assert run(cli, line) == 1
    shown = capsys.readouterr()
    assert "exists already" in shown.err
    assert shown.out == ""
    assert run(cli, [*line, "--force"]) == 0
    assert "MTP drafter" in capsys.readouterr().out
    assert run(cli, ["pack", str(parts[TEXT]), str(tmp_path / "text.gguf")]) == 0
    warned = capsys.readouterr().err
    assert "NO EMBEDDER" in warned
    assert "give one with --embedder" in warned
