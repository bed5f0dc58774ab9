"""Checkpoints as people have them: configs, arguments, generation configs, an output matrix of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import Conversion, convert
from converters.config import parse
from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.bundle.settings import end_tokens
from gemma4gguf.cli import run
from gemma4gguf.cli.convert import convert as command
from gemma4gguf.errors import ConversionError, InputError
from tests.support import standin, variants

TINY = variants.TINY


# ── config.json ──────────────────────────────────────────────────────────────────────────────────────────────────


def resaved(**layers: dict[str, Any]) -> dict[str, Any]:
    """The stand-in's config as transformers saves it, with changed layers."""
    config = standin.checkpoint_config(standin.SMALL, "resaved", text_only=True)
    return config | {"per_layer_config": config["per_layer_config"] | layers}


@pytest.mark.parametrize("key", ["05", "5"])
def test_every_full_layer_is_looked_up_however_its_number_is_written(key: str) -> None:
    config = resaved()
    config["per_layer_config"][key] = config["per_layer_config"].pop("05") | {"head_dim": 256}
    with pytest.raises(ConversionError, match="one head_dim for all full-attention layers"):
        parse("here", config)


@pytest.mark.parametrize("layer", ["00", "03", "10"])
def test_a_sliding_layer_has_no_sizes_of_its_own(layer: str) -> None:
    with pytest.raises(ConversionError, match=rf"per_layer_config\.{layer}\.head_dim.*sliding"):
        parse("here", resaved(**{layer: {"head_dim": 128}}))


def test_a_full_layer_that_overrides_nothing_is_like_the_others() -> None:
    assert parse("here", resaved(**{"05": {}, "11": {}})).text.full_head == standin.SMALL.head
    with pytest.raises(ConversionError, match="one head_dim"):
        parse("here", resaved(**{"05": {}}))


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"quant": "Q4_K_XL"}, "quant"),
        ({"quant": 4}, "quant"),
        ({"drafter_quant": "int4"}, "drafter_quant"),
        ({"threads": 0}, "threads"),
        ({"threads": 1025}, "threads"),
        ({"threads": 1.5}, "threads"),
        ({"types": ["ffn_down=Q9"]}, "Q9"),
        ({"types": ["no_such_tensor=Q6_K"]}, "no_such_tensor"),
    ],
)
def test_a_wrong_argument_is_the_caller_s_error(tmp_path: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        convert(TINY, tmp_path / "out.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_the_converter_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, ["--version"]) == 0
    assert capsys.readouterr().out.startswith("convert-to-gguf, version ")


# ── end tokens and sampling ──────────────────────────────────────────────────────────────────────────────────────


def generation(tmp_path: Path, **changes: Any) -> Conversion:
    """Convert the tiny model with a changed generation config; None takes a key away."""
    folder = variants.copy(tmp_path / "model")
    path = folder / "generation_config.json"
    given = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in given.items() if value is not None}))
    return convert(folder, tmp_path / "out.gguf", quant="Q8_0", text_only=True)


def metadata(tmp_path: Path) -> Mapping[str, Any]:
    return Bundle.open(tmp_path / "out.gguf").text.metadata


@pytest.mark.parametrize("listed", [1, [1], 7, [50], None])
def test_an_answer_ends_whatever_end_tokens_a_config_lists(tmp_path: Path, listed: Any) -> None:
    generation(tmp_path, eos_token_id=listed)
    assert {"<eos>", "<turn|>", "<|tool_response>"} <= set(end_tokens(metadata(tmp_path)))
    with Gemma4(tmp_path / "out.gguf", threads=1) as model:
        result = model.generate("What is 3 + 4?", temperature=0)
    assert result.finish_reason == "stop"
    assert result.text == "3 + 4 = 7"


@pytest.mark.parametrize(
    ("changes", "temperature"),
    [
        ({"do_sample": False, "temperature": None}, 0),
        ({"do_sample": False, "temperature": None, "top_k": None, "top_p": None}, 0),
        ({"do_sample": False}, 0),
        ({"do_sample": True, "temperature": 0.5}, 0.5),
        ({"do_sample": None, "temperature": 0.5}, 0.5),
    ],
)
def test_without_sampling_the_answer_is_greedy(tmp_path: Path, changes: dict[str, Any], temperature: float) -> None:
    generation(tmp_path, **changes)
    assert metadata(tmp_path)["general.sampling.temp"] == temperature


@pytest.mark.parametrize(
    ("key", "value", "stored"),
    [
        ("repetition_penalty", 1.9, "penalty_repeat"),
        ("min_p", 0.25, "min_p"),
        ("top_p", 0.5, "top_p"),
        ("top_k", 7, "top_k"),
    ],
)
def test_sampling_keys_are_stored(tmp_path: Path, key: str, value: float, stored: str) -> None:
    done = generation(tmp_path, **{key: value})
    assert metadata(tmp_path)[f"general.sampling.{stored}"] == pytest.approx(value)
    assert not [note for note in done.plan.notes if "not obeyed" in note]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"no_repeat_ngram_size": 3}, ["no_repeat_ngram_size 3"]),
        ({"num_beams": 4, "length_penalty": 2.0}, ["num_beams 4", "length_penalty 2.0"]),
        ({"bad_words_ids": [[5, 6]]}, ["bad_words_ids"]),
        ({"max_new_tokens": 256}, ["max_new_tokens 256"]),
        ({"something_new": {"a": 1}}, ["something_new"]),
    ],
)
def test_what_is_not_obeyed_is_named(tmp_path: Path, changes: dict[str, Any], named: list[str]) -> None:
    (note,) = [note for note in generation(tmp_path, **changes).plan.notes if "not obeyed" in note]
    assert all(word in note for word in named)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_beams": 1, "length_penalty": 1.0, "typical_p": 1.0, "guidance_scale": 1, "max_length": 20},
        {"no_repeat_ngram_size": 0, "bad_words_ids": None, "diversity_penalty": 0.0, "remove_invalid_values": False},
        {"cache_implementation": "hybrid", "transformers_version": "5.24.0", "_from_model_config": True},
    ],
)
def test_what_changes_nothing_is_not_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert not [note for note in generation(tmp_path, **changes).plan.notes if "not obeyed" in note]


@pytest.mark.parametrize(
    "changes",
    [{"top_p": 1.5}, {"top_p": 0}, {"temperature": -1}, {"top_k": 2.5}, {"min_p": 2}, {"repetition_penalty": 0}],
)
def test_sampling_out_of_range_is_an_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConversionError, match=f"{next(iter(changes))} is .*expected"):
        generation(tmp_path, **changes)


# ── the output matrix ────────────────────────────────────────────────────────────────────────────────────────────

EMBEDDING = variants.EMBEDDING


def rolled(tensor: variants.Tensor) -> variants.Tensor:
    return variants.float32(np.roll(variants.values(tensor), 1, axis=0))


def one_value(tensor: variants.Tensor) -> variants.Tensor:
    """The embedding, but for one value of its last row."""
    values = variants.values(tensor).copy()
    values[-1, -1] += 1
    return variants.float32(values)


def with_head(tmp_path: Path, name: str, head: variants.Tensor, *, alone: bool = False) -> Path:
    folder = variants.copy(tmp_path / "model")
    tensors = variants.load(folder / "model.safetensors")
    if alone:
        del tensors[EMBEDDING]
    variants.save(folder / "model.safetensors", tensors | {name: head})
    return folder


@pytest.fixture(scope="module")
def embedding() -> variants.Tensor:
    return variants.load(variants.TINY / "model.safetensors")[EMBEDDING]


@pytest.mark.parametrize("change", [rolled, one_value])
@pytest.mark.parametrize("name", ["lm_head.weight", "language_model.lm_head.weight"])
def test_another_output_matrix_is_kept_though_the_config_ties(
    tmp_path: Path, embedding: variants.Tensor, change: Callable[[variants.Tensor], variants.Tensor], name: str
) -> None:
    folder = with_head(tmp_path, name, change(embedding))
    done = convert(folder, tmp_path / "out.gguf", quant="F32")
    assert any(f"{name} differs from the embedding and was kept" in note for note in done.plan.notes)
    text = Bundle.open(tmp_path / "out.gguf").text
    np.testing.assert_array_equal(text.array("output.weight"), variants.values(change(embedding)))
    np.testing.assert_array_equal(text.array("token_embd.weight"), variants.values(embedding))
    with Gemma4(tmp_path / "out.gguf", threads=1) as model:
        ours = model.evaluate("What is 3 + 4?").logits[-1]
    with Gemma4(convert(TINY, tmp_path / "tied.gguf", quant="F32").path or "", threads=1) as model:
        tied = model.evaluate("What is 3 + 4?").logits[-1]
    expected = np.roll(tied, 1) if change is rolled else tied
    assert np.abs(ours - expected)[:-1].max() < 1e-3
    assert not np.array_equal(ours, tied)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_an_output_matrix_that_equals_the_embedding_is_left_out(
    tmp_path: Path, embedding: variants.Tensor, dtype: str
) -> None:
    head = embedding if dtype == "BF16" else variants.float32(variants.values(embedding))
    convert(with_head(tmp_path, "lm_head.weight", head), tmp_path / "out.gguf", quant="Q8_0")
    assert "output.weight" not in Bundle.open(tmp_path / "out.gguf").text.tensors


@pytest.mark.parametrize("name", ["lm_head.weight", "model.lm_head.weight", "language_model.lm_head.weight"])
def test_an_output_matrix_alone_is_the_embedding_too(tmp_path: Path, embedding: variants.Tensor, name: str) -> None:
    convert(with_head(tmp_path, name, embedding, alone=True), tmp_path / "out.gguf", quant="F32")
    text = Bundle.open(tmp_path / "out.gguf").text
    assert "output.weight" not in text.tensors
    np.testing.assert_array_equal(text.array("token_embd.weight"), variants.values(embedding))


def test_a_drafter_with_an_output_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = variants.copy(tmp_path / "drafter", source=TINY.parent / "tiny-assistant")
    tensors = variants.load(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    variants.save(folder / "model.safetensors", tensors | {"lm_head.weight": embedding})
    convert(TINY, tmp_path / "out.gguf", quant="Q8_0", drafter=folder)
    variants.save(folder / "model.safetensors", tensors | {"lm_head.weight": rolled(embedding)})
    with pytest.raises(ConversionError, match=r"drafter's lm_head\.weight differs"):
        convert(TINY, tmp_path / "other.gguf", quant="Q8_0", drafter=folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--type", "ffn_down"], "--type: 'ffn_down', expected PATTERN=TYPE"),
        (["--type", "nothing=Q6_K"], "--type: nothing=Q6_K: matches no tensor"),
        (["--quant", "Q9"], "--quant: unknown type 'Q9'"),
        (["--threads", "5000"], "--threads is 5000"),
        (["--drafter-quant", "Q9"], "--drafter-quant: unknown type 'Q9'"),
        (["--text-only", "--dry-run"], "--text-only leaves it out"),
    ],
)
def test_the_command_names_options_where_the_library_names_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    run(command, [str(TINY), str(tmp_path / "out.gguf"), *options])
    assert said in " ".join(capsys.readouterr().err.split())
