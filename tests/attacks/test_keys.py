"""Keys of the text model and the drafter that llama.cpp asserts on, loops over, or computes past a row's end with."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType as V

from gemma4gguf.bundle.reading import DRAFTER, TEXT
from gemma4gguf.bundle.schema import DRAFTER_KEYS, GENERAL_KEYS, OWN_KEYS, TEXT_KEYS, KeyRule
from gemma4gguf.errors import FormatError
from gemma4gguf.model import Gemma4
from gemma4gguf.tools.verify import faults
from tests.support import rewrite
from tests.support.attacks import check, one_line
from tests.support.rewrite import Change, Piece, encode_bytes

U32, I32, F32 = V.UINT32, V.INT32, V.FLOAT32
NAN, INF, TOP = float("nan"), float("inf"), (1 << 32) - 1
BOTH = (TEXT, DRAFTER)
Row = tuple[Change, str]  # the change, and why


def put(key: str, kind: V, value: Any) -> Change:
    return lambda piece: piece.put(key, kind, value)


def drop(*keys: str) -> Change:
    def do(piece: Piece) -> None:
        for key in keys:
            piece.drop(key)

    return do


def counts(key: str, *values: int, why: str) -> dict[str, Row]:
    return {f"{key} {value}": (put(key, U32, value), why) for value in values}


def reals(key: str, *values: float, why: str) -> dict[str, Row]:
    return {f"{key} {value}": (put(key, F32, value), why) for value in values}


# Rows for a text model and a drafter alike.
KEYS: dict[str, Row] = {
    **counts("block_count", 0, 600, TOP, why="GGML_ASSERT on layers; a list for each of them"),
    **counts("block_count", 1, 3, 7, why="another number than the lists and the tensors have"),
    **counts("expert_count", 1, 8, 600, why="GGML_ASSERT on experts; another graph"),
    **counts("expert_used_count", 1, 8, TOP, why="GGML_ASSERT: more used than there are"),
    **counts("expert_group_count", 1, why="GGML_ASSERT: groups without experts"),
    **{
        f"rope.scaling.type {word!r}": (put("rope.scaling.type", V.STRING, word), "GGML_ASSERT: unknown scaling")
        for word in ("foo", "", "YARN", "longrope", "none\0")
    },
    **reals("rope.scaling.factor", 0.0, -1.0, NAN, INF, 1e30, why="a division by it"),
    **reals("attention.layer_norm_rms_epsilon", 0.0, -1e-6, NAN, INF, -INF, 1e30, why="GGML_ASSERT(eps >= 0)"),
    **counts("rope.dimension_count", 0, 1, 31, 33, 34, 1024, TOP, why="GGML_ASSERT: odd; past the head's end"),
    **counts("rope.dimension_count_swa", 0, 1, 15, 17, 18, 32, TOP, why="GGML_ASSERT: odd; past the head's end"),
    "no rope.dimension_count_swa": (drop("rope.dimension_count_swa"), "the full layers' 32 is past a head of 16"),
    **counts("attention.key_length", 0, 1, 16, 30, 64, TOP, why="values and tensors of another length"),
    **counts("attention.value_length", 0, 16, 64, TOP, why="GGML_ASSERT: other than the keys'"),
    **counts("attention.key_length_swa", 0, 8, 32, TOP, why="values and tensors of another length"),
    **counts("attention.value_length_swa", 0, 8, 32, TOP, why="GGML_ASSERT: other than the keys'"),
    **counts("attention.head_count", 0, 1, 3, 5, TOP, why="a division by it; not a multiple of the key heads"),
    **counts("attention.head_count_kv", 0, 3, TOP, why="a division by it; another cache than the tensors fill"),
    "no key heads in one layer": (put("attention.head_count_kv", I32, [2, 2, 0, 1]), "a division by it"),
    "negative key heads": (put("attention.head_count_kv", I32, [-1] * 6), "a size of 2^32"),
    **counts("embedding_length", 0, 1, 63, TOP, why="another width than the tensors have"),
    **counts("feed_forward_length", 0, 1, TOP, why="another width than the tensors have"),
    **counts("context_length", 0, TOP, why="no room for one position; more than 32 bits of bytes"),
    **counts("attention.sliding_window", 0, TOP, why="the cache's size wraps around"),
    **reals("rope.freq_base", 0.0, -1.0, NAN, INF, 1e-30, why="a power of it"),
    **reals("rope.freq_base_swa", 0.0, -1.0, NAN, INF, 1e-30, why="a power of it"),
    **reals("final_logit_softcapping", -1.0, NAN, INF, 1e-40, why="a division by it"),
    "all layers slide": (put("attention.sliding_window_pattern", V.BOOL, [True] * 6), "a cache without layers"),
    "no layer slides": (put("attention.sliding_window_pattern", V.BOOL, [False] * 6), "GGML_ASSERT(is_swa_any)"),
    "no pattern": (drop("attention.sliding_window_pattern"), "which layers look back how far"),
    "a pattern that is a number": (put("attention.sliding_window_pattern", U32, 6), "a list is expected"),
    "a pattern of numbers": (put("attention.sliding_window_pattern", I32, [2, 1, 1, 1, 1, 0]), "neither yes nor no"),
    "a pattern of 600": (put("attention.sliding_window_pattern", V.BOOL, [True] * 600), "more than 512 layers"),
    **counts("pooling_type", 1, 4, TOP, why="GGML_ABORT: unknown pooling type"),
    "not causal": (put("attention.causal", V.BOOL, False), "GGML_ASSERT: no cache for it"),
    **counts("nextn_predict_layers", 1, 7, TOP, why="layers that are left out; GGML_ASSERT"),
    **counts("embedding_length_out", 1, 128, TOP, why="rows read past their end"),
    "labels": (lambda p: p.pairs.update({p.key(LABELS): encode_bytes(p.key(LABELS), [b"a"])}), "a classifier's head"),
    **counts("ssm.conv_kernel", 4, why="a key of another architecture"),
    **counts("full_attention_interval", 0, why="a key of another architecture"),
    "a data alignment of 8": (lambda p: _align(p, 8), "GGML_ASSERT: buffer pointer must be aligned"),
    "a data alignment of 16": (lambda p: _align(p, 16), "GGML_ASSERT: buffer pointer must be aligned"),
    "a name that is a list": (put("general.name", V.STRING, ["a"]), "another type than is read"),
    "a file type that is signed": (put("general.file_type", I32, 1), "another type than is read"),
    "precisions of tensors": (put("general.tensor_extra.name", V.STRING, ["blk.0.attn_q.weight"]), "another product"),
}
LABELS = "classifier.output_labels"
TEXT_ONLY: dict[str, Row] = {
    **counts("attention.shared_kv_layers", 1, 2, 6, 7, TOP, why="GGML_ASSERT: layers that share a cache not there"),
    **counts("embedding_length_per_layer_input", 1, 256, why="tensors of the E2B and E4B"),
    "no embedding_length_per_layer_input": (drop("embedding_length_per_layer_input"), "is read without a default"),
    "no width": (drop("embedding_length"), "is read without a default"),
    "no heads": (drop("attention.head_count"), "0 heads, and head sizes of nothing"),
    "split in two": (put("split.count", V.UINT16, 2), "the second file is not there"),
    "split as another type": (put("split.count", U32, 1), "another type than is read"),
}
DRAFTER_ONLY: dict[str, Row] = {
    **counts("attention.shared_kv_layers", 513, TOP, why="more than there may be layers"),
    **counts("nextn_predict_layers", 0, 3, 5, why="layers that nobody loaded"),
    "no nextn_predict_layers": (drop("nextn_predict_layers"), "no layers at all"),
    "no embedding_length_out": (drop("embedding_length_out"), "whose drafter it is"),
    "an embedding_length_out of 600": (put("embedding_length_out", U32, [64] * 600), "told whole"),
    "as wide as its target": (put("embedding_length", U32, 64), "llama.cpp tells them apart by their widths"),
    **reals("rope.freq_base", 1e5, why="another model's cache"),
}


def _align(piece: Piece, alignment: int) -> None:
    piece.alignment = alignment
    piece.put("general.alignment", U32, alignment)


def rows() -> Iterator[Any]:
    for architecture, own in ((TEXT, TEXT_ONLY), (DRAFTER, DRAFTER_ONLY)):
        for name, (change, _) in {**KEYS, **own}.items():
            if architecture == DRAFTER and name == "embedding_length_out 64":
                continue
            yield pytest.param(architecture, change, id=f"{architecture}-{name}".replace("\0", "NUL"))


@pytest.mark.parametrize(("architecture", "change"), list(rows()))
def test_keys_that_llama_cpp_would_end_the_process_over(
    architecture: str, change: Change, unchanged: dict[str, Piece]
) -> None:
    held = rewrite.copied(unchanged)
    change(held[architecture])
    one_line(lambda: check(held, architecture), Path("FILE"))


@pytest.mark.parametrize("name", ["block_count 0", "pooling_type 4", "attention.layer_norm_rms_epsilon nan"])
def test_the_runtime_and_verify_tell_them(name: str, changed: Callable[..., Path]) -> None:
    path = changed(KEYS[name][0], TEXT)
    one_line(lambda: Gemma4(path), path)
    assert any(str(path) in fault for fault in faults(path))
    path = changed(KEYS[name][0], DRAFTER)
    assert any(fault.startswith("MTP drafter") for fault in faults(path))


# ── every key, in every other type ───────────────────────────────────────────────────────────────────────────────


def of_type(kind: V) -> Any:
    return {V.STRING: "1", V.BOOL: True}.get(kind, 1.0 if kind in (F32, V.FLOAT64) else 1)


def tables() -> Iterator[tuple[str, str, KeyRule]]:
    for architecture, table in ((TEXT, TEXT_KEYS), (DRAFTER, DRAFTER_KEYS)):
        yield from ((architecture, key, rule) for key, rule in (table | GENERAL_KEYS).items())
    yield from ((TEXT, key, rule) for key, rule in OWN_KEYS.items())


@pytest.mark.parametrize("architecture", BOTH)
def test_every_key_has_its_type(architecture: str, unchanged: dict[str, Piece]) -> None:
    """Each key in each type that it must not have, alone and as a list."""
    tried = 0
    for at, key, rule in tables():
        wrong = [kind for kind in V if kind is not V.ARRAY and at == architecture]
        for kind, listed in itertools.product(wrong, (False, True)):
            if kind in (rule.array if listed else rule.types):
                continue
            held = rewrite.copied(unchanged)
            held[architecture].put(key, kind, [of_type(kind)] if listed else of_type(kind))
            with pytest.raises(FormatError):
                check(held, architecture)
            tried += 1
    assert tried > 1000


@pytest.mark.parametrize("architecture", BOTH)
def test_every_required_key_is_missed(architecture: str, unchanged: dict[str, Piece]) -> None:
    for key in [key for at, key, rule in tables() if at == architecture and rule.required]:
        held = rewrite.copied(unchanged)
        held[architecture].drop(key)
        with pytest.raises(FormatError):
            check(held, architecture)


# ── what the unchanged file and honest ones have ─────────────────────────────────────────────────────────────────

HONEST: dict[str, Change] = {
    "nothing": lambda piece: None,
    "llama.cpp's split tool, merged": put("split.count", V.UINT16, 1),
    "an importance matrix": put("quantize.imatrix.entries_count", I32, 336),
    "whose chat template it is": put("tokenizer.chat_template.tool_use", V.STRING, "{{ 1 }}"),
    "unsloth's": put("general.quantized_by", V.STRING, "Unsloth"),
    "a repository": put("general.repo_url", V.STRING, "https://huggingface.co/unsloth"),
    "tags": put("general.tags", V.STRING, ["unsloth", "gemma4"]),
    "a pre-tokenizer": put("tokenizer.ggml.pre", V.STRING, "gemma4"),
    "an end of turn": put("tokenizer.ggml.eot_token_id", U32, 106),
    "all feed-forward widths": put("feed_forward_length", I32, [64] * 6),
    "a sampling sequence": put("general.sampling.sequence", V.STRING, "temperature;top_k"),
    "YaRN": put("rope.scaling.type", V.STRING, "yarn"),
    "a mask token": put("tokenizer.ggml.mask_token_id", U32, 4),
    "a key of nobody's": put("nobody.knows", F32, 1.0),
    "an alignment of 64": lambda piece: _align(piece, 64),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_files_answer(name: str, changed: Callable[..., Path]) -> None:
    path = changed(HONEST[name], TEXT)
    with Gemma4(path, context=64, threads=1, draft=3) as model:
        assert model.generate("Hi", max_tokens=3, seed=1).tokens.completion
    assert faults(path) == []


@pytest.mark.parametrize(
    "name", ["rope.dimension_count 0", "expert_used_count 1", "attention.layer_norm_rms_epsilon nan"]
)
def test_a_bad_drafter_in_the_middle_of_a_conversation(name: str, changed: Callable[..., Path]) -> None:
    """Where drafts are no more than welcome, an answer goes on without; where they are asked for, it is an error."""
    path = changed(KEYS[name][0], DRAFTER)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Gemma4(path, context=64, threads=1) as model:
            assert model.generate("Hi", max_tokens=3, seed=1).draft.steps == 0
    assert any("goes on without drafts" in str(each.message) for each in told)
    with Gemma4(path, context=64, threads=1, draft=3) as model, pytest.raises(FormatError):
        model.generate("Hi", max_tokens=3)
