"""Checkpoints as people have them: which files count, names with wrappers, added tokens, chat templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from converters import convert
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import ConversionError
from gemma4gguf.tools.verify import faults
from tests.support import variants

TINY = variants.TINY
EMBEDDING = variants.EMBEDDING


def metadata(tmp_path: Path) -> Mapping[str, Any]:
    return Bundle.open(tmp_path / "out.gguf").text.metadata


# ── which files ──────────────────────────────────────────────────────────────────────────────────────────────────

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def shards(folder: Path, tensors: dict[str, variants.Tensor], names: Sequence[str], *, index: bool) -> None:
    """Write tensors in several files, with or without an index."""
    items = list(tensors.items())
    cut = [items[i * len(items) // len(names) : (i + 1) * len(items) // len(names)] for i in range(len(names))]
    for name, part in zip(names, cut, strict=True):
        variants.save(folder / name, dict(part))
    if index:
        table = {key: name for name, part in zip(names, cut, strict=True) for key, _ in part}
        (folder / INDEX).write_text(json.dumps({"weight_map": table}))


def numbered(count: int, stem: str = "model") -> list[str]:
    return [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


@pytest.fixture(scope="module")
def tensors() -> dict[str, variants.Tensor]:
    return variants.load(TINY / SINGLE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The tiny model's bundle, to which a variant's is compared."""
    out = tmp_path_factory.mktemp("plain") / "out.gguf"
    convert(TINY, out, quant="Q8_0")
    return out.read_bytes()


def same(folder: Path, plain: bytes) -> tuple[str, ...]:
    """Convert a variant that must give the same bundle; its notes."""
    out = folder.parent / "out.gguf"
    done = convert(folder, out, quant="Q8_0")
    assert Bundle.open(out).text.metadata["general.name"] == "Tiny"
    assert out.read_bytes() == plain
    return done.plan.notes


@pytest.mark.parametrize("others", [numbered(2), ["consolidated.safetensors"], ["extra.safetensors"]])
def test_the_whole_file_comes_first_and_the_choice_is_said(
    tmp_path: Path, tensors: dict[str, variants.Tensor], plain: bytes, others: list[str]
) -> None:
    folder = variants.copy(tmp_path / "tiny")
    zeros = {name: (dtype, shape, bytes(len(data))) for name, (dtype, shape, data) in tensors.items()}
    shards(folder, zeros, others, index=len(others) > 1)
    (note,) = [n for n in same(folder, plain) if "weights are taken from model.safetensors" in n]
    assert others[0] in note
    assert (INDEX in note) == (len(others) > 1)


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (numbered(2), True),
        (["a.safetensors", "b.safetensors"], True),
        (numbered(3, "pytorch_model"), True),
        (numbered(2), False),
        (numbered(5, "weights"), False),
        (["fine_tuned.safetensors"], False),
    ],
)
def test_files_of_other_names_and_shards_without_an_index(
    tmp_path: Path, tensors: dict[str, variants.Tensor], plain: bytes, names: list[str], index: bool
) -> None:
    folder = variants.copy(tmp_path / "tiny", without={SINGLE})
    shards(folder, tensors, names, index=index)
    assert not [note for note in same(folder, plain) if "weights" in note]


def test_shards_that_cannot_be_the_whole(tmp_path: Path, tensors: dict[str, variants.Tensor]) -> None:
    folder = variants.copy(tmp_path / "tiny", without={SINGLE})
    shards(folder, tensors, numbered(3), index=False)
    (folder / numbered(3)[1]).unlink()
    with pytest.raises(ConversionError, match=f"{numbered(3)[1]} missing"):
        convert(folder, tmp_path / "out.gguf")
    shards(folder, tensors, numbered(3), index=False)
    shards(folder, tensors, numbered(2), index=False)
    with pytest.raises(ConversionError, match="2 sets of shards"):
        convert(folder, tmp_path / "out.gguf")
    for name in numbered(2):
        (folder / name).unlink()
    variants.save(folder / numbered(3)[0], dict(tensors))
    with pytest.raises(ConversionError, match="is in two files"):
        convert(folder, tmp_path / "out.gguf")


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: f"_orig_mod.{n}",
        lambda n: n.replace("model.language_model.", "model.language_model._orig_mod."),
        lambda n: f"base_model.model.{n}",
        lambda n: f"module.base_model.model._orig_mod.{n}",
        lambda n: n.replace(".self_attn.", "._checkpoint_wrapped_module._fsdp_wrapped_module.self_attn."),
    ],
)
def test_wrappers_leave_their_names_behind(
    tmp_path: Path, tensors: dict[str, variants.Tensor], plain: bytes, rename: Callable[[str], str]
) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.save(folder / SINGLE, {rename(name): tensor for name, tensor in tensors.items()})
    same(folder, plain)


def test_a_tensor_with_and_without_a_wrapper_is_twice(tmp_path: Path, tensors: dict[str, variants.Tensor]) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.save(folder / SINGLE, tensors | {f"_orig_mod.{EMBEDDING}": tensors[EMBEDDING]})
    with pytest.raises(ConversionError, match="there twice"):
        convert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    "names",
    [
        ["model.language_model.rotary_emb.full_attention_inv_freq", "model.language_model.embed_tokens.embed_scale"],
        ["model.language_model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.sliding_attention_inv_freq"],
        ["model.language_model.rotary_emb.full_attention_original_inv_freq", "position_ids"],
    ],
)
@pytest.mark.parametrize("dtype", ["F32", "I64", "F8_E4M3"])
def test_buffers_are_left_out_whatever_their_type(
    tmp_path: Path, tensors: dict[str, variants.Tensor], plain: bytes, names: list[str], dtype: str
) -> None:
    folder = variants.copy(tmp_path / "tiny")
    buffer = (dtype, [2], bytes(2 * {"F32": 4, "I64": 8, "F8_E4M3": 1}[dtype]))
    variants.save(folder / SINGLE, tensors | dict.fromkeys(names, buffer))
    same(folder, plain)


@pytest.mark.parametrize("prefix", ["language_model.", "language_model.model.", "model.language_model."])
def test_a_language_model_alone_needs_text_only_or_its_own_class(
    tmp_path: Path, tensors: dict[str, variants.Tensor], prefix: str
) -> None:
    folder, own = variants.copy(tmp_path / "tiny"), "model.language_model."
    variants.save(folder / SINGLE, {n.replace(own, prefix): t for n, t in tensors.items() if n.startswith(own)})
    with pytest.raises(ConversionError, match="no multimodal embedder"):
        convert(folder, tmp_path / "out.gguf", quant="Q8_0")
    convert(folder, tmp_path / "asked.gguf", quant="Q8_0", text_only=True)
    variants.edit(folder / "config.json", lambda c: c.update(architectures=["Gemma4UnifiedForCausalLM"]))
    done = convert(folder, tmp_path / "own.gguf", quant="Q8_0")
    assert any("NO EMBEDDER" in note for note in done.plan.notes)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("special", "kind"), [(True, 3), (False, 4)])
def test_added_tokens_with_a_resized_embedding(tmp_path: Path, special: bool, kind: int) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.add_tokens(folder, "<|user_start|>", "<|fim|>", special=special, resize=16)
    convert(folder, tmp_path / "out.gguf", quant="Q8_0")
    text = Bundle.open(tmp_path / "out.gguf").text
    assert list(text.metadata["tokenizer.ggml.tokens"])[-2:] == ["<|user_start|>", "<|fim|>"]
    assert text.metadata["tokenizer.ggml.token_type"][-2:] == [kind, kind]
    assert text.tensors["token_embd.weight"].shape == (2050, 256)
    assert faults(tmp_path / "out.gguf") == []


def test_added_tokens_without_an_embedding_are_left_out_and_named(tmp_path: Path, plain: bytes) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.add_tokens(folder, "<|user_start|>", "<|fim|>")
    (note,) = [note for note in same(folder, plain) if "without an embedding" in note]
    assert "2 added tokens" in note
    assert "<|user_start|>, <|fim|>" in note


@pytest.mark.parametrize("text", ["<turn|>", "<unused7>", "the", "<turn|>\0x"])
def test_a_token_under_two_ids_is_refused(tmp_path: Path, text: str) -> None:
    """A bundle with it would be refused when it is opened."""
    folder = variants.copy(tmp_path / "tiny")
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    if text.partition("\0")[0] not in vocab:
        text = next(token for token in vocab if len(token) > 3 and vocab[token] > 500)
    free = max(vocab.values())
    gone = next(token for token, i in vocab.items() if i == free)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    variants.edit(folder / "tokenizer.json", lambda t: t["model"]["vocab"].pop(gone))
    entry = {"id": free, "content": text, **flags}
    variants.edit(
        folder / "tokenizer.json",
        lambda t: t.update(added_tokens=[a for a in t["added_tokens"] if a["id"] != free] + [entry]),
    )
    with pytest.raises(ConversionError, match="under two ids"):
        convert(folder, tmp_path / "out.gguf")


# ── chat templates ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value", ["OLD", [{"name": "default", "template": "OLD"}], [{"name": "rag", "template": "OLD"}]]
)
def test_the_template_s_file_comes_before_the_config_s_entry(tmp_path: Path, value: Any) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.edit(folder / "tokenizer_config.json", lambda c: c.update(chat_template=value))
    notes = convert(folder, tmp_path / "out.gguf", quant="Q8_0").plan.notes
    own = (folder / "chat_template.jinja").read_text()
    assert metadata(tmp_path)["tokenizer.chat_template"] == own
    (note,) = [note for note in notes if "chat template" in note]
    assert "chat_template.jinja" in note
    assert "tokenizer_config.json" in note


def test_equal_templates_are_not_worth_a_word(tmp_path: Path, plain: bytes) -> None:
    folder = variants.copy(tmp_path / "tiny")
    own = (folder / "chat_template.jinja").read_text()
    variants.edit(folder / "tokenizer_config.json", lambda c: c.update(chat_template=own))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": own}))
    assert not [note for note in same(folder, plain) if "template" in note]


def test_without_a_file_the_older_places_count(tmp_path: Path) -> None:
    folder = variants.copy(tmp_path / "tiny", without={"chat_template.jinja"})
    variants.edit(folder / "tokenizer_config.json", lambda c: c.update(chat_template="CONFIG"))
    convert(folder, tmp_path / "out.gguf", quant="Q8_0")
    assert metadata(tmp_path)["tokenizer.chat_template"] == "CONFIG"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "LEGACY"}))
    convert(folder, tmp_path / "out.gguf", quant="Q8_0", force=True)
    assert metadata(tmp_path)["tokenizer.chat_template"] == "LEGACY"
