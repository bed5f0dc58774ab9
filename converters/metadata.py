"""The keys of each section: model sizes, sampling, names, file type.

In: a `Config`, the checkpoint's JSON files, the tensors. Out: encoded key-value pairs by key, in the order in which
llama.cpp's converter writes them. Knows nothing of tensor data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFValueType as Type

from gemma4gguf.bundle.container import encode_array, encode_pair
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT
from gemma4gguf.bundle.settings import BUDGETS, DEFAULT_BUDGET, END_TOKEN_IDS, IMAGE_BUDGET
from gemma4gguf.errors import ConversionError
from gemma4gguf.version import __version__

from .card import read_card
from .config import Config, TextConfig, is_number
from .gemma4 import MappedTensor
from .generation import Generation, read_generation
from .jsonfile import read_json, read_optional

QUANTIZATION_VERSION = 2  # of ggml's block formats
# llama.cpp's loader requires these keys; they mean nothing here, as the embedder takes pictures of any size.
DUMMY_IMAGE_SIZE, DUMMY_MEL_BINS = 224, 128

MADE_BY = ("general.quantized_by", Type.STRING, f"gemma4gguf {__version__}")  # the Hub's pages show it

Pairs = dict[str, bytes]
Line = tuple[str, Type, Any]  # key, type (of one value), value; a sequence is an array


@dataclass(frozen=True)
class Files:
    """A checkpoint's folder and its parsed JSON files. `repo`: the Hub id that it came from, or None."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    generation: Generation
    processor: Mapping[str, Any]  # of pictures
    repo: str | None = None


def read_files(folder: Path, name: str, repo: str | None = None) -> Files:
    """Read a checkpoint folder's small JSON files; an optional one that is missing counts as empty."""
    config = read_json(folder / "config.json")
    path = folder / "generation_config.json"
    generation = read_generation(path, read_optional(path), config)
    processor = read_optional(folder / "preprocessor_config.json")
    whole = read_optional(folder / "processor_config.json")
    nested = whole.get("image_processor")
    processor = processor | (nested if isinstance(nested, dict) else {})
    return Files(folder, name, config, generation, processor, repo)


def text_pairs(files: Files, config: Config, tensors: Sequence[MappedTensor], file_type: int) -> Pairs:
    """Keys of the text model, without the tokenizer's."""
    lines = [*_text_lines(TEXT, config.text, file_type)]
    if files.generation.suppressed:
        lines.append(("tokenizer.ggml.suppress_tokens", Type.INT32, files.generation.suppressed))
    lines += _own_lines(files)
    return _pairs(TEXT, "model", _general(files, tensors) | _encode([MADE_BY]), lines)


def drafter_pairs(files: Files, config: Config, tensors: Sequence[MappedTensor], file_type: int) -> Pairs:
    """Keys of the drafter, without the tokenizer's."""
    lines = [*_text_lines(DRAFTER, config.text, file_type)]
    lines.append((f"{DRAFTER}.embedding_length_out", Type.UINT32, config.target_hidden))
    lines.append((f"{DRAFTER}.nextn_predict_layers", Type.UINT32, config.text.layers))
    return _pairs(DRAFTER, "model", _general(files, tensors), lines)


def embedder_pairs(files: Files, config: Config, tensors: Sequence[MappedTensor], file_type: int) -> Pairs:
    """Keys of the multimodal embedder, in the layout of llama.cpp's projector files.

    `clip.projector_type` is left out: it would override the vision and the audio type.
    """
    at = config.embedder
    assert at is not None
    mean, deviation = (_three(files, key, default) for key, default in (("image_mean", 0.0), ("image_std", 1.0)))
    vision: list[Line] = [
        ("has_vision_encoder", Type.BOOL, True),
        ("vision.projection_dim", Type.UINT32, config.text.hidden),
        ("vision.image_size", Type.UINT32, DUMMY_IMAGE_SIZE),
        ("vision.patch_size", Type.UINT32, at.patch),  # without pooling, which the loader multiplies in
        ("vision.embedding_length", Type.UINT32, at.hidden),
        ("vision.feed_forward_length", Type.UINT32, 0),
        ("vision.block_count", Type.UINT32, 0),
        ("vision.attention.head_count", Type.UINT32, 0),
        ("vision.image_mean", Type.FLOAT32, mean),
        ("vision.image_std", Type.FLOAT32, deviation),
        ("has_audio_encoder", Type.BOOL, True),
        ("audio.projection_dim", Type.UINT32, config.text.hidden),
        ("audio.embedding_length", Type.UINT32, at.frame),
        ("audio.feed_forward_length", Type.UINT32, 0),
        ("audio.block_count", Type.UINT32, 0),
        ("audio.attention.head_count", Type.UINT32, 0),
        ("vision.projector_type", Type.STRING, "gemma4uv"),
        ("vision.attention.layer_norm_epsilon", Type.FLOAT32, at.vision_epsilon),
        ("audio.projector_type", Type.STRING, "gemma4ua"),
        ("audio.num_mel_bins", Type.UINT32, DUMMY_MEL_BINS),
        ("audio.attention.layer_norm_epsilon", Type.FLOAT32, at.audio_epsilon),
    ]
    lines: list[Line] = [("general.file_type", Type.UINT32, file_type)]
    lines += [(f"clip.{key}", kind, value) for key, kind, value in vision]
    return _pairs(EMBEDDER, "mmproj", _general(files, tensors), lines)


def _text_lines(arch: str, text: TextConfig, file_type: int) -> Iterator[Line]:
    u32, f32 = Type.UINT32, Type.FLOAT32
    table: list[Line | None] = [
        ("block_count", u32, text.layers),
        ("context_length", u32, text.context),
        ("embedding_length", u32, text.hidden),
        ("feed_forward_length", u32, text.ffn),
        ("attention.head_count", u32, text.heads),
        ("attention.head_count_kv", Type.INT32, text.kv_heads),
        ("rope.freq_base", f32, text.theta),
        ("rope.freq_base_swa", f32, text.sliding_theta),
        ("attention.layer_norm_rms_epsilon", f32, text.epsilon),
        ("attention.key_length", u32, text.full_head),
        ("attention.value_length", u32, text.full_head),
        None if text.softcap is None else ("final_logit_softcapping", f32, text.softcap),
        ("attention.sliding_window", u32, text.window),
        ("attention.shared_kv_layers", u32, text.shared_kv),
        ("embedding_length_per_layer_input", u32, 0),  # required, though this family's 12B has none
        ("attention.sliding_window_pattern", Type.BOOL, text.sliding),
        ("attention.key_length_swa", u32, text.head),
        ("attention.value_length_swa", u32, text.head),
        ("rope.dimension_count", u32, text.full_head),
        ("rope.dimension_count_swa", u32, text.head),
    ]
    yield from ((f"{arch}.{line[0]}", *line[1:]) for line in table if line is not None)
    yield "general.file_type", u32, file_type


def _own_lines(files: Files) -> Iterator[Line]:
    """Keys for gemma4gguf's own runtime."""
    budget = files.processor.get("max_soft_tokens")
    if type(budget) is int and budget in BUDGETS and budget != DEFAULT_BUDGET:  # the runtime knows no others
        yield IMAGE_BUDGET, Type.UINT32, budget
    if files.generation.end:
        yield END_TOKEN_IDS, Type.INT32, files.generation.end


def _three(files: Files, key: str, default: float) -> list[float]:
    value: Any = files.processor.get(key, [default] * 3)
    if not isinstance(value, list) or len(value) != 3 or not all(map(is_number, value)):
        raise ConversionError(f"{files.folder}: the image processor's {key} is {value!r:.80}, expected three numbers")
    return [float(v) for v in value]


def parameters(tensors: Iterable[MappedTensor]) -> int:
    return sum(prod(s.shape) for s in tensors)


def _general(files: Files, tensors: Sequence[MappedTensor]) -> Pairs:
    """general.*: sampling, name, and what gguf's own reader finds in the model card and config."""
    try:
        return _described(files, read_card(files.folder), tensors)
    except Exception:  # gguf's reader trusts a card's types
        return _described(files, {}, tensors)


def _described(files: Files, card: Mapping[str, Any], tensors: Sequence[MappedTensor]) -> Pairs:
    total = parameters(tensors)
    name = files.name.encode("utf-8", "replace").decode()  # a folder's name may be any bytes
    found = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), dict(card), dict(files.config), Path(name), total)
    for field, value in files.generation.sampling.items():
        setattr(found, field, value)
    found.name = found.name or name
    if files.repo is not None:
        found.source_repo_url = f"https://huggingface.co/{files.repo}"
    found.size_label = found.size_label or gguf.size_label(total, total, 0, 0)
    writer = gguf.GGUFWriter(None, "")  # only collects keys; opens no file
    found.set_gguf_meta_model(writer)
    return dict(_collected(writer))


def _collected(writer: gguf.GGUFWriter) -> Iterator[tuple[str, bytes]]:
    for key, value in writer.kv_data[0].items():
        if key == "general.architecture":
            continue
        if value.type is Type.STRING:
            yield key, encode_pair(key, Type.STRING, _word(value.value))
        elif value.type is not Type.ARRAY:
            yield key, encode_pair(key, value.type, value.value)
        elif value.value:  # tags, languages, data sets
            yield key, encode_array(key, Type.STRING, [_word(each) for each in value.value])


def _word(value: Any) -> str:
    """A value of the model card as text. YAML reads versions as numbers, and the language code `no` as false."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _pairs(architecture: str, kind: str, general: Pairs, lines: Iterable[Line]) -> Pairs:
    head: list[Line] = [("general.architecture", Type.STRING, architecture), ("general.type", Type.STRING, kind)]
    tail: list[Line] = [("general.quantization_version", Type.UINT32, QUANTIZATION_VERSION)]
    return _encode(head) | general | _encode(lines) | _encode(tail)


def _encode(lines: Iterable[Line]) -> Pairs:
    return {
        key: encode_array(key, kind, value) if isinstance(value, (list, tuple)) else encode_pair(key, kind, value)
        for key, kind, value in lines
    }
