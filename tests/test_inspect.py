"""`inspect`: everything that a file says of itself."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader

from converters.checkpoint import read_checkpoint
from converters.origin import Origin
from gemma4gguf import __version__
from gemma4gguf.bundle.container import encode_header
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle
from gemma4gguf.bundle.writing import write_bundle
from gemma4gguf.cli import cli, run
from gemma4gguf.tools.inspect import summary
from tests.support.bundles import keys, poke, string

NAN = float("nan")


def test_a_summary_agrees_with_the_reference_reader(mixed: Path, tmp_path: Path) -> None:
    """Counts, types and sizes of each section, against gguf-py's of the section as a file of its own."""
    bundle = Bundle.open(mixed)
    report = summary(bundle)
    assert report["size"] == mixed.stat().st_size
    assert [s["architecture"] for s in report["sections"]] == [TEXT, EMBEDDER, DRAFTER]
    for section, told in zip(bundle.sections, report["sections"], strict=True):
        path = tmp_path / "section.gguf"
        path.write_bytes(b"".join(section.copy()))
        reader = GGUFReader(path)
        parameters = sum(int(t.n_elements) for t in reader.tensors)
        assert told["tensors"] == len(reader.tensors)
        assert told["parameters"] == parameters
        assert told["bits_per_weight"] == round(8 * sum(int(t.n_bytes) for t in reader.tensors) / parameters, 2)
        for kind, count in told["types"].items():
            assert count == sum(t.tensor_type == T[kind] for t in reader.tensors)
        assert told["size"] == path.stat().st_size
        assert told["header"] == min(int(t.data_offset) for t in reader.tensors)
    assert [s["file_type"] for s in report["sections"]] == ["Q4_K_M", "F32", "Q8_0"]


def test_a_summary_names_defaults_and_origin(mixed: Path) -> None:
    report = summary(Bundle.open(mixed))
    meta = Bundle.open(mixed).text.metadata
    assert report["model"] == {"layers": 12, "hidden": 256, "context": 8192, "sliding_window": 64}
    assert report["sampling"] == {"temp": 1.0, "top_k": 64, "top_p": 0.95, "min_p": None, "penalty_repeat": None}
    assert report["end_tokens"] == ["<eos>", "<turn|>", "<|tool_response>"]
    assert report["vocabulary"] == 1024
    assert report["chat_template_sha256"] == hashlib.sha256(meta["tokenizer.chat_template"].encode()).hexdigest()
    assert report["provenance"]["name"] == meta["general.name"]
    assert not {"architecture", "type", "file_type", "sampling.temp"} & set(report["provenance"])
    assert json.loads(json.dumps(report)) == report


CARD = """---
license: apache-2.0
base_model: google/gemma-4-12B
tags: [vision]
---
# A model card
"""


def test_where_a_model_comes_from_is_read_off_its_card(checkpoint: Path, tmp_path: Path) -> None:
    """Name, licence, base model, repository, and who quantised it: the keys that the Hub's pages show."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "gemma-4-12B-it"))
    (folder / "README.md").write_text(CARD)
    material = read_checkpoint(Origin(folder, "gemma-4-12B-it", repo="google/gemma-4-12B-it")).sections[0]
    path = tmp_path / "keys.gguf"
    path.write_bytes(encode_header(material.pairs(0).values(), []))
    found = summary(Bundle.open(path))["provenance"]
    assert found["name"] == "Gemma 4 12B It"
    assert found["license"] == "apache-2.0"
    assert found["base_model.0.name"] == "Gemma 4 12B"
    assert found["base_model.0.repo_url"] == "https://huggingface.co/google/gemma-4-12B"
    assert found["source.repo_url"] == "https://huggingface.co/google/gemma-4-12B-it"
    assert found["quantized_by"] == f"gemma4gguf {__version__}"
    assert found["tags"] == ["vision"]


def test_a_person_reads_it_too(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["inspect", str(mixed)]) == 0
    shown = capsys.readouterr()
    for wanted in ("Q4_K_M: ", "multimodal embedder", "MTP drafter", "top p", "0.95", "<turn|>", "8,192", "SHA-256"):
        assert wanted in shown.out
    assert shown.err == ""


def test_a_file_cannot_write_on_the_terminal(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and line ends in names from a file are shown as replacement characters."""
    evil = "\x1b]0;pwned\x07\x1b[2J\nfault: none\u202e"
    part = keys(Bundle.open(bundle).text, string("general.name", evil) | string(evil, evil))
    renamed = [replace(t, name=evil) if t.name == "output_norm.weight" else t for t in part.tensors]
    path = tmp_path / "evil.gguf"
    write_bundle(path, [replace(part, tensors=renamed)])
    poke(path, TEXT, evil, b"\xff" * 8)
    for command in (
        ["inspect"],
        ["verify"],
        ["export", "--for", "lmstudio", str(tmp_path / "out")],
        ["pack", str(tmp_path / "o")],
    ):
        run(cli, [command[0], str(path), *command[1:]])
        shown = capsys.readouterr()
        assert "pwned" in shown.out or command[0] not in ("inspect", "verify")
        assert not set("\x1b\x07\u202e") & set(shown.out + shown.err)
        assert not [line for line in shown.out.splitlines() if line.startswith("fault: none")]


def test_lost_sections_show(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lost.gguf"
    path.write_bytes(b"".join(Bundle.open(mixed).text.copy()))
    assert run(cli, ["inspect", str(path)]) == 0
    assert capsys.readouterr().err.count("gemma4gguf pack") == 2
    assert run(cli, ["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == [EMBEDDER, DRAFTER]


@pytest.mark.parametrize("value", [7, -1, "x", [True], [0.5], True, NAN], ids=repr)
def test_keys_of_another_type_stop_no_summary(mixed: Path, value: object) -> None:
    bundle = Bundle.open(mixed)
    text = bundle.text
    for key in text.metadata:
        header = replace(text.header, metadata={**text.metadata, key: value})
        assert summary(replace(bundle, sections=(replace(text, header=header), *bundle.sections[1:])))["sections"]
