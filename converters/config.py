"""Turns config.json into one frozen record, whether it has the Hub's form or the form that transformers saves.

In: the parsed JSON of a checkpoint, untrusted. Out: a `Config` with every number that tensor shapes and GGUF keys need,
checked. The error for another model names that model. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from gemma4gguf.bundle.relatives import DENSE, EXPERTS, SMALL
from gemma4gguf.errors import ConversionError

Kind = Literal["unified", "text", "drafter"]
SLIDING, FULL = "sliding_attention", "full_attention"
# The largest sizes accepted: far above any model of this family, and low enough to make tables of.
LIMIT = 1 << 20
LIMITS = {
    "num_hidden_layers": 512,
    "num_kv_shared_layers": 512,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "num_global_key_value_heads": 1024,
    "head_dim": 4096,
    "global_head_dim": 4096,
    "sliding_window": 1 << 24,
    "max_position_embeddings": 1 << 30,
    "mm_embed_dim": 1 << 16,
    "mm_posemb_size": 1 << 16,
    "audio_embed_dim": 1 << 16,
}
MAX_SIDE = 512  # pixels of a patch's side after pooling; the 12B's has 48
LARGEST = 1e38  # a little below the largest float32

# model_type -> kind, and architectures[0] -> kind. The class name decides where both are known.
KINDS: dict[str, Kind] = {
    "gemma4_unified": "unified",
    "gemma4_unified_text": "text",
    "gemma4_text": "text",
    "gemma4_unified_assistant": "drafter",
}
ARCHITECTURES: dict[str, Kind] = {
    "Gemma4UnifiedForConditionalGeneration": "unified",
    "Gemma4UnifiedModel": "unified",
    "Gemma4UnifiedForCausalLM": "text",
    "Gemma4UnifiedTextModel": "text",
    "Gemma4ForCausalLM": "text",
    "Gemma4TextModel": "text",
    "Gemma4UnifiedAssistantForCausalLM": "drafter",
}
OTHERS = {
    "gemma4": "a Gemma 4 with separate vision and audio encoders",
    "gemma4_assistant": "the drafter of another Gemma 4 than the 12B",
    "gemma3": "Gemma 3",
    "gemma3_text": "Gemma 3",
    "gemma3n": "Gemma 3n",
    "gemma2": "Gemma 2",
    "gemma": "Gemma",
}
WANTED = "expected Gemma 4 12B (gemma4_unified), a text-only fine-tune of it, or its drafter"


@dataclass(frozen=True)
class TextConfig:
    """The language model, or the drafter's layers. `sliding[i]`: layer i has sliding attention. Sizes in values."""

    layers: int
    sliding: tuple[bool, ...]
    hidden: int
    ffn: int
    heads: int
    kv_heads: tuple[int, ...]
    head: int  # sliding layers
    full_head: int
    key_is_value: bool  # full layers have no v_proj: the key is also the value
    shared_kv: int  # how many of the last layers reuse an earlier layer's keys and values
    window: int
    context: int
    vocabulary: int
    epsilon: float
    softcap: float | None
    theta: float
    sliding_theta: float
    rotary_fraction: float  # of a full layer's head
    tied: bool

    def head_of(self, layer: int) -> int:
        return self.head if self.sliding[layer] else self.full_head

    def owns_kv(self, layer: int) -> bool:
        return layer < self.layers - self.shared_kv


@dataclass(frozen=True)
class EmbedderConfig:
    """The multimodal embedder: picture patches of `patch` * `pooling` pixels a side, frames of `frame` samples."""

    hidden: int
    patch: int
    pooling: int
    positions: int
    frame: int
    vision_epsilon: float
    audio_epsilon: float

    @property
    def side(self) -> int:
        return self.patch * self.pooling

    @property
    def pixels(self) -> int:
        return self.side * self.side * 3


@dataclass(frozen=True)
class Config:
    kind: Kind
    text: TextConfig
    embedder: EmbedderConfig | None  # None where the config describes none
    target_hidden: int | None  # the drafter only: the hidden size of its target model


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a JSON value is a number that a float32 can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


class _Reader:
    """Looks up keys in one JSON object; every error names the file and the key."""

    def __init__(self, where: str, values: Mapping[str, Any], prefix: str = "") -> None:
        self.where, self.values, self.prefix = where, values, prefix

    def fail(self, key: str, found: Any, expected: str) -> ConversionError:
        return ConversionError(
            f"{self.where}: {self.prefix}{key} is {found!r:.120}, expected {expected}; check config.json"
        )

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        most = LIMITS.get(key, LIMIT)
        if type(value) is not int or not least <= value <= most:
            raise self.fail(key, value, f"a whole number from {least} to {most:,}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if not is_number(value) or value <= 0:
            raise self.fail(key, value, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.fail(key, value, "true or false")
        return value

    def object(self, key: str, default: Mapping[str, Any] | None = None) -> _Reader:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, Mapping):
            raise self.fail(key, value, "an object")
        return _Reader(self.where, value, f"{self.prefix}{key}.")


def identify(where: str, config: Mapping[str, Any]) -> Kind:
    """The kind of a checkpoint. Raises ConversionError for another model, and names that model."""
    model_type, architectures = config.get("model_type"), config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    by_type = KINDS.get(model_type) if isinstance(model_type, str) else None
    by_name = ARCHITECTURES.get(named) if isinstance(named, str) else None
    # A fine-tune of the language model alone may keep the whole model's model_type, so the class name decides.
    kind = by_name or by_type
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config
    if kind is not None and not text.get("hidden_size_per_layer_input") and not text.get("enable_moe_block"):
        return kind
    what = OTHERS.get(model_type, "") if isinstance(model_type, str) else ""
    if text.get("enable_moe_block"):
        what = EXPERTS
    elif text.get("hidden_size_per_layer_input"):
        what = SMALL
    elif model_type == "gemma4" and text.get("num_hidden_layers") == 60:
        what = DENSE
    label = f"{named or 'no architecture'}, model_type {model_type!r}"
    raise ConversionError(
        f"{where}: is {what + ' (' + label + ')' if what else label}; {WANTED}; "
        "for other models use llama.cpp's convert_hf_to_gguf.py"
    )


def parse(where: str, config: Mapping[str, Any]) -> Config:
    """Read either form of config.json. `where` names the checkpoint in errors."""
    kind = identify(where, config)
    _check_not_quantised(where, config)
    top = _Reader(where, config)
    nested = kind != "text" or isinstance(config.get("text_config"), Mapping)
    text = _text(top.object("text_config") if nested else top, top.values.get("tie_word_embeddings"))
    described = kind == "unified" or (kind == "text" and isinstance(config.get("vision_config"), Mapping))
    embedder = _embedder(top, text.hidden) if described else None
    target = top.size("backbone_hidden_size") if kind == "drafter" else None
    if kind == "drafter" and config.get("use_ordered_embeddings"):
        raise ConversionError(
            f"{where}: is a drafter with ordered embeddings (use_ordered_embeddings), as the E2B and E4B have; "
            "take the 12B's, google/gemma-4-12B-it-assistant"
        )
    return Config(kind, text, embedder, target)


def _check_not_quantised(where: str, config: Mapping[str, Any]) -> None:
    """Raise for a checkpoint whose weights are stored by a quantisation method, and name the method."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            found = place.get(key)
            if found:
                method = found.get("quant_method") if isinstance(found, Mapping) else None
                raise ConversionError(
                    f"{where}: is quantised by {method or 'an unnamed method'!r:.60} ({key} in config.json); take the "
                    "checkpoint that was not, or load it in transformers, call dequantize() and save it"
                )


def _text(at: _Reader, tied: Any) -> TextConfig:
    layers = at.size("num_hidden_layers")
    kinds = at.values.get("layer_types")
    if kinds is None:  # the rule of the 12B: every sixth layer is full
        kinds = [FULL if i % 6 == 5 else SLIDING for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (SLIDING, FULL) for kind in kinds):
        raise at.fail("layer_types", kinds, f"{layers} of {SLIDING!r} and {FULL!r}")
    sliding = tuple(kind == SLIDING for kind in kinds)
    head, kv_heads, key_is_value = (
        at.size("head_dim", 256),
        at.size("num_key_value_heads"),
        at.flag("attention_k_eq_v", False),
    )
    full_head = _of_full_layers(at, sliding, "global_head_dim", "head_dim", default=512, base=head)
    full_kv_heads = _of_full_layers(
        at, sliding, "num_global_key_value_heads", "num_key_value_heads", default=kv_heads, base=kv_heads
    )
    rope = at.object("rope_parameters", {})
    full_rope, sliding_rope = rope.object(FULL, {}), rope.object(SLIDING, {})
    if full_rope.values.get("rope_type", "proportional") != "proportional":
        raise full_rope.fail("rope_type", full_rope.values["rope_type"], "'proportional'")
    if sliding_rope.values.get("rope_type", "default") != "default":
        raise sliding_rope.fail("rope_type", sliding_rope.values["rope_type"], "'default'")
    fraction = full_rope.number("partial_rotary_factor", 0.25)
    if fraction > 1:
        raise full_rope.fail("partial_rotary_factor", fraction, "at most 1")
    softcap = at.values.get("final_logit_softcapping")
    shared = at.size("num_kv_shared_layers", 0, least=0)
    if shared > layers:
        raise at.fail("num_kv_shared_layers", shared, f"at most {layers}")
    if at.flag("attention_bias", False) or at.flag("use_double_wide_mlp", False):
        raise at.fail("attention_bias or use_double_wide_mlp", True, "false")
    if at.values.get("use_bidirectional_attention") not in (None, "vision"):
        raise at.fail("use_bidirectional_attention", at.values["use_bidirectional_attention"], "'vision'")
    own = at.values.get("tie_word_embeddings", tied)
    return TextConfig(
        layers=layers,
        sliding=sliding,
        hidden=at.size("hidden_size"),
        ffn=at.size("intermediate_size"),
        heads=at.size("num_attention_heads"),
        kv_heads=tuple(kv_heads if is_sliding else full_kv_heads for is_sliding in sliding),
        head=head,
        full_head=full_head,
        key_is_value=key_is_value,
        shared_kv=shared,
        window=at.size("sliding_window"),
        context=at.size("max_position_embeddings"),
        vocabulary=at.size("vocab_size"),
        epsilon=at.number("rms_norm_eps", 1e-6),
        softcap=None if softcap is None else at.number("final_logit_softcapping"),
        theta=full_rope.number("rope_theta", 1e6),
        sliding_theta=sliding_rope.number("rope_theta", 1e4),
        rotary_fraction=fraction,
        tied=own is not False and tied is not False,
    )


def _of_full_layers(at: _Reader, sliding: tuple[bool, ...], hub: str, resaved: str, *, default: int, base: int) -> int:
    """A number of the full-attention layers: the key `hub`, or the key `resaved` of each layer's `per_layer_config`.

    A layer that overrides nothing has the value for all layers, `base` where that is left out. `default` counts where
    the config has neither form.
    """
    per_layer = at.values.get("per_layer_config")
    if at.values.get(hub) is not None or not isinstance(per_layer, Mapping):
        return at.size(hub, default)
    found, digits = {}, len(str(len(sliding) - 1))
    for layer, is_sliding in enumerate(sliding):
        key = next((k for k in (f"{layer:0{digits}}", str(layer)) if k in per_layer), None)  # transformers writes "05"
        own = at.object("per_layer_config").object(key) if key is not None else at
        overridden = own.values.get(resaved) is not None
        if is_sliding and overridden and key is not None:
            raise own.fail(resaved, own.values[resaved], "no override on a sliding layer")
        if not is_sliding:
            found[layer] = (own if overridden else at).size(resaved, base)
    if len(set(found.values())) > 1:
        raise at.fail("per_layer_config", found, f"one {resaved} for all full-attention layers")
    return next(iter(found.values()), default)


def _embedder(top: _Reader, hidden: int) -> EmbedderConfig:
    vision, audio = top.object("vision_config", {}), top.object("audio_config", {})
    patch, pooling = vision.size("patch_size", 16), vision.size("pooling_kernel_size", 3)
    if patch * pooling > MAX_SIDE:
        raise vision.fail("patch_size", patch, f"at most {MAX_SIDE} pixels, times pooling_kernel_size ({pooling})")
    return EmbedderConfig(
        hidden=vision.size("mm_embed_dim", hidden),
        patch=patch,
        pooling=pooling,
        positions=vision.size("mm_posemb_size", 1120),
        frame=audio.size("audio_embed_dim", audio.values.get("hidden_size") or 640),
        vision_epsilon=vision.number("rms_norm_eps", 1e-6),
        audio_epsilon=audio.number("rms_norm_eps", 1e-6),
    )
