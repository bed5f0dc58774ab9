"""What stops a conversion: one line that says what, where and what to do, and nothing left under the output's name."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType

from converters import convert
from gemma4gguf.bundle.container import encode_header, encode_pair, padded
from gemma4gguf.bundle.reading import KEY, Bundle, Section
from gemma4gguf.errors import ConversionError, Gemma4Error
from tests.support import standin
from tests.support.quantise_peer import importance_of, write_imatrix_gguf, write_imatrix_legacy

Edit = Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    """A checkpoint of the test's own, to be broken."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def fails(source: Path | str, *words: str, **how: Any) -> str:
    """Convert, expect a one-line error with these words, and nothing written. Returns the message."""
    there = Path(how.pop("there", source)).parent
    before = sorted(there.rglob("*"))
    with pytest.raises(Gemma4Error) as caught:
        convert(source, there / "out.gguf", **{"quant": "Q4_0"} | how)
    assert sorted(there.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, edit: Edit) -> None:
    """Rewrite a checkpoint's only file after a change of its header or data."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = edit(json.loads(raw[8:start]), raw[start:])
    blob = json.dumps(header).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + data)


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
        return header, data[:at] + standin.bfloat16(np.float32([bad])) + data[at + 2 :]

    edit_weights(folder, edit)
    fails(folder, repr(name), "blk.7.ffn_up.weight", "not finite", quant=quant)


def test_values_too_large_for_the_type(folder: Path) -> None:
    name = "model.language_model.layers.2.mlp.up_proj.weight"

    def edit(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        at = header[name]["data_offsets"][0]
        return header, data[:at] + standin.bfloat16(np.float32([1e30])) + data[at + 2 :]

    edit_weights(folder, edit)
    fails(folder, "blk.2.ffn_up.weight", "F16", "too large", "--type", quant="F16")


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
    fails(drafter, "is the MTP drafter", "--drafter")
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
    fails(folder, "no multimodal embedder", "--text-only")
    done = convert(folder, folder.parent / "out.gguf", quant="Q4_0", text_only=True)
    assert [s.architecture for s in done.plan.sections] == ["gemma4"]


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


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unknown_types_list_the_known(folder: Path) -> None:
    fails(folder, "'Q4_K_XL'", "Q4_K_M", "IQ4_XS", quant="Q4_K_XL")
    fails(folder, "unknown type", drafter_quant="int4")
    fails(folder, "ffn_down=Q9", "Q6_K", types=["ffn_down=Q9"])


@pytest.mark.parametrize("override", ["ffn_down", "=Q6_K", "", "ffn_(=Q6_K"])
def test_overrides_that_cannot_be_read(folder: Path, override: str) -> None:
    fails(folder, "--type", types=[override])


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


def test_a_gguf_is_never_written_over_itself(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(make_bundle("BF16").read_bytes())
    with pytest.raises(Gemma4Error, match="is the source itself"):
        convert(path, path, quant="Q4_0", force=True)
    assert path.read_bytes() == make_bundle("BF16").read_bytes()


@pytest.mark.parametrize(
    ("source", "quant"), [("Q4_0", "Q8_0"), ("Q4_K_M", "Q4_0"), ("Q8_0", "BF16"), ("Q6_K", "Q4_K_M"), ("Q5_0", "Q5_1")]
)
def test_a_source_below_the_asked_type(
    make_bundle: Callable[..., Path], tmp_path: Path, source: str, quant: str
) -> None:
    with pytest.raises(ConversionError, match=r"cannot become .*start from the checkpoint"):
        convert(make_bundle(source), tmp_path / "out.gguf", quant=quant)
    assert list(tmp_path.iterdir()) == []


def test_ggufs_of_something_else(make_bundle: Callable[..., Path], tmp_path: Path, folder: Path) -> None:
    for section in Bundle.open(make_bundle("BF16")).sections[1:]:
        path = tmp_path / f"{section.architecture}.gguf"
        path.write_bytes(b"".join(section.copy()))
        fails(path, "expected a Gemma 4 text model")
    fails(folder, "holds no MTP drafter", drafter=tmp_path / "clip.gguf")
    (tmp_path / "broken.gguf").write_bytes(make_bundle("BF16").read_bytes()[:5000])
    fails(tmp_path / "broken.gguf", "broken.gguf")


# ── importance matrices ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def sums(make_bundle: Callable[..., Path]) -> dict[str, Any]:
    return importance_of(Bundle.open(make_bundle("BF16")).text)


def test_an_importance_matrix_of_another_model(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    for i, change in enumerate(
        [
            {"blk.12.ffn_up.weight": np.ones(256, np.float32)},
            {"blk.0.ffn_up.weight": np.ones(512, np.float32)},
        ]
    ):
        write_imatrix_gguf(tmp_path / f"{i}.gguf", sums | change, 4)
        fails(folder, "belongs to another model", next(iter(change)), imatrix=tmp_path / f"{i}.gguf")
        write_imatrix_legacy(tmp_path / f"{i}.dat", sums | change, 4)
        fails(folder, "belongs to another model", next(iter(change)), imatrix=tmp_path / f"{i}.dat")


def test_importance_values_that_are_not_numbers(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    bad = sums | {"blk.0.ffn_up.weight": np.full(256, np.nan, np.float32)}
    write_imatrix_gguf(tmp_path / "imatrix.gguf", bad, 4)
    fails(folder, "blk.0.ffn_up.weight", "not finite", imatrix=tmp_path / "imatrix.gguf")


def test_an_importance_matrix_with_gaps_is_used_and_said(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    some = {n: v for n, v in sums.items() if not n.startswith("blk.3.ffn")}
    write_imatrix_gguf(tmp_path / "imatrix.gguf", some, 4)
    done = convert(folder, tmp_path / "out.gguf", quant="Q4_0", imatrix=tmp_path / "imatrix.gguf")
    assert any("says nothing about blk.3.ffn_gate.weight" in note for note in done.plan.notes)


def test_what_is_no_importance_matrix(folder: Path, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    fails(folder, "no such file", imatrix=tmp_path / "none.dat")
    fails(folder, "no importance matrix", imatrix=make_bundle("BF16"))
    (tmp_path / "empty.dat").write_bytes(b"")
    fails(folder, "empty.dat", imatrix=tmp_path / "empty.dat")


def test_damaged_importance_matrices(folder: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    """Cut anywhere, or with a byte changed: an error or a conversion, never another kind of exception."""
    write_imatrix_legacy(tmp_path / "whole.dat", sums, 4)
    write_imatrix_gguf(tmp_path / "whole.gguf", sums, 4)
    rng = np.random.default_rng(4)
    for name in ("whole.dat", "whole.gguf"):
        raw = (tmp_path / name).read_bytes()
        for _ in range(40):
            damaged = bytearray(raw[: rng.integers(0, len(raw))])
            if damaged:
                damaged[rng.integers(0, min(len(damaged), 4000))] ^= int(rng.integers(1, 256))
            (tmp_path / "damaged").write_bytes(damaged)
            with pytest.raises(Gemma4Error) as caught:
                convert(folder, tmp_path / "out.gguf", imatrix=tmp_path / "damaged", dry_run=True)
            assert "\n" not in str(caught.value)


# ── interruption and full disks ──────────────────────────────────────────────────────────────────────────────────

STOP_ITSELF = """
import os, signal, sys
from converters import convert
source, out, number, part = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
def progress(done, total, stage):
    if done >= part * total:
        os.kill(os.getpid(), number)
convert(source, out, quant="Q4_K_M", threads=2, progress=progress)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_at_ten_points(tmp_path: Path, checkpoint: Path, number: signal.Signals) -> None:
    for step in range(10):
        out = tmp_path / "out.gguf"
        ended = run(STOP_ITSELF, checkpoint, out, int(number), step / 10)
        assert ended.returncode in (-number, 130, 1), ended.stderr
        assert not out.exists()
        if number == signal.SIGINT:
            assert list(tmp_path.iterdir()) == []
    convert(checkpoint, tmp_path / "out.gguf", quant="Q4_K_M")  # what a kill left behind is in nobody's way
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


FILL_THE_DISK = """
import resource, signal, sys
from converters import convert
from gemma4gguf.errors import ConversionError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    convert(sys.argv[1], sys.argv[2], quant="Q4_K_M")
except ConversionError as error:
    print(error)
"""


def test_a_disk_that_fills_up_half_way(tmp_path: Path, checkpoint: Path) -> None:
    """The system refuses to write beyond half of the file, as a full disk does."""
    size = convert(checkpoint, tmp_path / "out.gguf", quant="Q4_K_M", dry_run=True).size
    ended = run(FILL_THE_DISK, checkpoint, tmp_path / "out.gguf", size // 2)
    assert ended.stderr == ""
    assert "writing failed" in ended.stdout
    assert "nothing was left behind" in ended.stdout
    assert ended.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────

ODD = (None, -1, 0, 1, 2**70, 10**400, 1.5, float("nan"), "", "x", "\n", "\ud800", [], {}, [1], [[]], {"a": 1}, True)


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


# ── odd GGUF sources ─────────────────────────────────────────────────────────────────────────────────────────────


def rewrite(section: Section, out: Path, extra: dict[str, bytes], alignment: int = 32) -> Path:
    """The section as a GGUF of its own, with further keys and another alignment of its tensors."""
    pairs = {k: v for k, v in section.header.pairs.items() if not k.startswith(KEY)} | extra
    tensors, data = [], b""
    for info in section.tensors.values():
        data += bytes(padded(len(data), alignment) - len(data))
        tensors.append(replace(info, offset=len(data)))
        data += section.raw(info.name).tobytes()
    out.write_bytes(
        encode_header(pairs.values(), tensors, alignment) + data + bytes(padded(len(data), alignment) - len(data))
    )
    return out


def number(key: str, value: int) -> dict[str, bytes]:
    return {key: encode_pair(key, GGUFValueType.UINT32, value)}


def test_ggufs_of_relatives_and_parts_of_split_files(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    text = Bundle.open(make_bundle("BF16")).text
    for extra, word in (
        (number("gemma4.embedding_length_per_layer_input", 256), "E2B"),
        (number("gemma4.expert_count", 128), "26B-A4B"),
        (number("split.count", 3), "llama-gguf-split --merge"),
        (number("gemma4.block_count", 0), "gemma4.block_count is 0"),
    ):
        fails(rewrite(text, tmp_path / "odd.gguf", extra), word)


def test_a_source_with_another_alignment(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    text = Bundle.open(make_bundle("BF16")).text
    wide = rewrite(text, tmp_path / "wide.gguf", number("general.alignment", 4096), 4096)
    convert(wide, tmp_path / "a.gguf", quant="Q4_0")
    convert(rewrite(text, tmp_path / "plain.gguf", {}), tmp_path / "b.gguf", quant="Q4_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_source_that_lost_its_embedder_says_so(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = make_bundle("BF16")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source.read_bytes()[: Bundle.open(source).text.size])  # what a rewriting tool leaves
    done = convert(cut, tmp_path / "out.gguf", quant="Q4_0")
    assert any("NO EMBEDDER" in note and "another tool rewrote" in note for note in done.plan.notes)
