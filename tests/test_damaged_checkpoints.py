"""Checkpoints whose files are missing, damaged or odd: one line that names the file, and nothing written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from gemma4gguf.errors import Gemma4Error
from tests.support import standin
from tests.support.broken import edit_json, edit_weights, fails

# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "no such folder or file")
    fails("no/such/folder", "no such folder or file", there=tmp_path / "x")
    fails("parts/nope.gguf", "no such folder or file", there=tmp_path / "x")  # and the network is not asked
    (tmp_path / "notes.txt").write_text("hello")
    fails(tmp_path / "notes.txt", "no GGUF")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "no config.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "processor_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": ' * 100_000, "\xff\xfe"])
def test_damaged_json(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="latin-1")
    fails(folder, name)


def test_a_missing_shard_is_named_with_its_tensors(tmp_path: Path) -> None:
    folder = standin.write_checkpoint(tmp_path / "model", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = fails(folder, "shard model-00002-of-00003.safetensors missing", "more")
    assert re.search(r"model\.language_model\.layers\.\d+\.", message)


def test_a_shard_without_a_tensor_it_promises(tmp_path: Path) -> None:
    folder = standin.write_checkpoint(tmp_path / "model", shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.ghost"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    fails(folder, "promises model.ghost")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.bin"])
def test_a_shard_s_name_stays_in_the_folder(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()  # else no index is looked at
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    fails(folder, repr(name))


def test_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    fails(folder, "safetensors")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, 0.999])
def test_a_truncated_file(folder: Path, keep: float) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: keep if isinstance(keep, int) else int(len(raw) * keep)])
    fails(folder, str(path), "damaged or incomplete")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [256], "data_offsets": [0, 1 << 60]},
        {"dtype": "BF16", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 512]},
        {"dtype": "BF16", "shape": [-256], "data_offsets": [0, 512]},
        {"dtype": "BF16", "shape": [256], "data_offsets": [512, 0]},
        {"dtype": "BF16", "shape": 256, "data_offsets": [0, 512]},
        {"dtype": "BF16", "shape": [256.0], "data_offsets": [0, 512]},
        {"dtype": ["BF16"], "shape": [256], "data_offsets": [0, 512]},
        {"shape": [256]},
        None,
    ],
)
def test_a_lying_header(folder: Path, entry: Any) -> None:
    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        return header | {"model.language_model.norm.weight": entry}, data

    edit_weights(folder, edit)
    fails(folder, "model.safetensors")


def test_weights_that_were_quantised_already(folder: Path) -> None:
    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        header["model.language_model.norm.weight"]["dtype"] = "F8_E4M3"
        return header, data

    edit_weights(folder, edit)
    fails(folder, "F8_E4M3", "not quantised")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": "256"}, "hidden_size"),
        ({"num_hidden_layers": 1 << 40}, "num_hidden_layers"),
        ({"layer_types": ["sliding_attention"]}, "layer_types"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_parameters": []}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type"),
        ({"sliding_window": None}, "sliding_window"),
        ({"num_kv_shared_layers": 99}, "num_kv_shared_layers"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_numbers_that_cannot_be(folder: Path, changes: dict[str, Any], word: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", text_config=config["text_config"] | changes)
    fails(folder, word, "config.json")


# ── tokenizer ────────────────────────────────────────────────────────────────────────────────────────────────────


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    change(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d["model"].update(type="Unigram"), "Unigram"),
        (lambda d: d["model"].update(byte_fallback=False), "byte fallback"),
        (lambda d: d["model"].update(merges=[]), "merges"),
        (lambda d: d["model"].update(merges=[["a"]]), "merges"),
        (lambda d: d["model"].update(vocab=[]), "vocab"),
        (lambda d: d["model"]["vocab"].pop("A"), "no token for the ids"),
        (lambda d: d["model"]["vocab"].update(A=5), "ids"),
        (lambda d: d["model"]["vocab"].update(new=1024), "different models"),
        (lambda d: d.update(added_tokens=[{"id": "2"}]), "added_tokens"),
    ],
)
def test_tokenizers_that_do_not_fit(folder: Path, change: Callable[[dict[str, Any]], object], word: str) -> None:
    edit_tokenizer(folder, change)
    fails(folder, word)


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────


ODD: tuple[object, ...] = (
    None,
    -1,
    0,
    1,
    2**70,
    10**400,
    1.5,
    float("nan"),
    "",
    "x",
    "\n",
    "\ud800",
    [],
    {},
    [1],
    [[]],
    {"a": 1},
    True,
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner)[:200]:
        yield from places(item, (*place, key))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json"])
def test_an_odd_value_anywhere_is_fine_or_one_line(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_text()
    spots, rng = list(places(json.loads(whole))), np.random.default_rng(len(name))
    for _ in range(40):
        data = json.loads(whole)
        *way, last = spots[rng.integers(len(spots))]
        at = data
        for key in way:
            at = at[key]
        at[last] = ODD[rng.integers(len(ODD))]
        path.write_text(json.dumps(data))
        said = ""
        try:
            convert(folder, folder.parent / "out.gguf", dry_run=True)
        except Gemma4Error as error:
            said = str(error)
        assert said.isprintable()
