"""The stand-in's sizes, and its config files as the Hub has them or as transformers 5.24 writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support import standin_tokenizer
from tests.support.standin_tokenizer import Table

DRAFTER_LAYERS = 4
PATCH, FRAME, POSITIONS = 48 * 48 * 3, 640, 1120  # a patch's values, a frame's samples, rows of the position table
SOFTCAP = 30.0


@dataclass(frozen=True)
class Sizes:
    """What may differ between a small model and the 12B."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head: int  # of sliding layers
    global_kv_heads: int
    global_head: int  # of full layers
    window: int
    drafter_hidden: int  # differs from the target's, as llama.cpp needs
    drafter_ffn: int
    context: int
    table: Table


SMALL = Sizes(256, 512, 12, 4, 2, 64, 1, 128, 64, 128, 256, 8192, standin_tokenizer.SMALL)
REAL = Sizes(3840, 15360, 48, 16, 8, 256, 1, 512, 1024, 1024, 8192, 262144, standin_tokenizer.REAL)


def layer_kinds(z: Sizes) -> list[str]:
    return ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(z.layers)]


def drafter_kinds() -> list[str]:
    return ["sliding_attention"] * (DRAFTER_LAYERS - 1) + ["full_attention"]


def text_config(
    z: Sizes, dialect: str, hidden: int, ffn: int, kinds: list[str], softcap: float | None, shared: int
) -> dict[str, Any]:
    """The text part of config.json as the Hub's files have it, or as transformers 5.24 writes it."""
    config: dict[str, Any] = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_k_eq_v": True,
        "bos_token_id": 2,
        "dtype": "bfloat16",
        "eos_token_id": 1,
        "final_logit_softcapping": softcap,
        "head_dim": z.head,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": ffn,
        "layer_types": kinds,
        "max_position_embeddings": z.context,
        "model_type": "gemma4_unified_text",
        "num_attention_heads": z.heads,
        "num_hidden_layers": len(kinds),
        "num_key_value_heads": z.kv_heads,
        "num_kv_shared_layers": shared,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": z.window,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": "vision",
        "use_cache": True,
        "use_double_wide_mlp": False,
        "vocab_size": z.table.size,
    }
    if dialect == "hub":
        return config | {
            "enable_moe_block": False,
            "global_head_dim": z.global_head,
            "hidden_size_per_layer_input": 0,
            "moe_intermediate_size": None,
            "num_experts": None,
            "num_global_key_value_heads": z.global_kv_heads,
            "top_k_experts": None,
            "vocab_size_per_layer_input": z.table.size,
        }
    digits = len(str(len(kinds) - 1))  # "05": transformers pads the layer numbers
    overrides = {"head_dim": z.global_head, "num_key_value_heads": z.global_kv_heads}
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    return config | {"per_layer_config": {f"{i:0{digits}}": overrides for i in full}}


def vision_config(hidden: int, dialect: str) -> dict[str, Any]:
    config = {
        "initializer_range": 0.02,
        "mm_embed_dim": hidden,
        "mm_posemb_size": POSITIONS,
        "model_type": "gemma4_unified_vision",
        "output_proj_dims": hidden,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "rms_norm_eps": 1e-06,
    }
    return config | ({"model_patch_size": 48, "num_soft_tokens": 280} if dialect == "hub" else {"dtype": "bfloat16"})


def audio_config(dialect: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "audio_embed_dim": FRAME,
        "initializer_range": 0.02,
        "model_type": "gemma4_unified_audio",
        "rms_norm_eps": 1e-06,
    }
    if dialect == "hub":
        return config | {"audio_samples_per_token": FRAME, "hidden_size": FRAME, "output_proj_dims": FRAME}
    return config | {"dtype": "bfloat16"}


def media_ids(table: Table) -> dict[str, Any]:
    return {
        "audio_token_id": table.audio,
        "boa_token_id": table.boa,
        "boi_token_id": table.boi,
        "eoa_token_index": table.eoa,  # the Hub's spelling
        "eoi_token_id": table.eoi,
        "image_token_id": table.image,
        "video_token_id": table.video,
    }


def checkpoint_config(z: Sizes, dialect: str, text_only: bool) -> dict[str, Any]:
    text = text_config(z, dialect, z.hidden, z.ffn, layer_kinds(z), SOFTCAP, 0)
    version = TRANSFORMERS[dialect]
    if text_only:
        return text | {"architectures": ["Gemma4UnifiedForCausalLM"], "transformers_version": version}
    return media_ids(z.table) | {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "audio_config": audio_config(dialect),
        "dtype": "bfloat16",
        "eos_token_id": [1, 106],
        "initializer_range": 0.02,
        "model_type": "gemma4_unified",
        "text_config": text,
        "tie_word_embeddings": True,
        "transformers_version": version,
        "vision_config": vision_config(z.hidden, dialect),
    }


def drafter_config(z: Sizes, dialect: str) -> dict[str, Any]:
    return media_ids(z.table) | {
        "architectures": ["Gemma4UnifiedAssistantForCausalLM"],
        "backbone_hidden_size": z.hidden,
        "centroid_intermediate_top_k": 32,
        "dtype": "bfloat16",
        "model_type": "gemma4_unified_assistant",
        "num_centroids": 2048,
        "text_config": text_config(z, dialect, z.drafter_hidden, z.drafter_ffn, drafter_kinds(), None, DRAFTER_LAYERS),
        "tie_word_embeddings": True,
        "transformers_version": TRANSFORMERS[dialect],
        "use_ordered_embeddings": False,
    }


TRANSFORMERS = {"hub": "5.10.0.dev0", "resaved": "5.24.0"}
# fmt: off
GENERATION = {
    "bos_token_id": 2, "do_sample": True, "eos_token_id": [1, 106, 50], "pad_token_id": 0,
    "temperature": 1.0, "top_k": 64, "top_p": 0.95,
}
PROCESSOR = {
    "audio_ms_per_token": 40, "audio_seq_length": 750, "image_seq_length": 280,
    "feature_extractor": {
        "audio_samples_per_token": FRAME, "feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor",
        "feature_size": FRAME, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
        "sampling_rate": 16000,
    },
    "image_processor": {
        "do_convert_rgb": True, "do_normalize": False, "do_rescale": True, "do_resize": True,
        "image_mean": [0.0, 0.0, 0.0], "image_processor_type": "Gemma4UnifiedImageProcessor", "image_seq_length": 280,
        "image_std": [1.0, 1.0, 1.0], "max_soft_tokens": 280, "patch_size": 16, "pooling_kernel_size": 3,
        "resample": 3, "rescale_factor": 1 / 255,
    },
    "processor_class": "Gemma4UnifiedProcessor",
}
TOKENIZER_CONFIG = {
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "boi_token": "<|image>", "bos_token": "<bos>",
    "eoa_token": "<audio|>", "eoc_token": "<channel|>", "eoi_token": "<image|>", "eos_token": "<eos>",
    "eot_token": "<turn|>", "escape_token": '<|"|>', "etc_token": "<tool_call|>", "etd_token": "<tool|>",
    "etr_token": "<tool_response|>", "extra_special_tokens": ["<|video|>"], "image_token": "<|image|>",
    "mask_token": "<mask>", "pad_token": "<pad>", "padding_side": "left",
    "processor_class": "Gemma4UnifiedProcessor", "soc_token": "<|channel>", "sot_token": "<|turn>",
    "stc_token": "<|tool_call>", "std_token": "<|tool>", "str_token": "<|tool_response>", "think_token": "<|think|>",
    "tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>",
}
