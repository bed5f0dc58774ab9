"""The tiny model's shapes, special ids and files of configuration.

In: nothing. Out: names of tokens, dictionaries as the Hub's config.json has them. Knows no torch.
"""

from __future__ import annotations

from typing import Any

VOCAB = 2048
HIDDEN = 256
FFN = 512
HEADS, KV_HEADS, GLOBAL_KV_HEADS = 4, 2, 1
HEAD_DIM, GLOBAL_HEAD_DIM = 64, 128
WINDOW = 96  # tokens that a sliding layer sees, its own included
SOFTCAP = 30.0
EPS = 1e-6
POSITIONS = 1120  # rows of the patch position table, as in the 12B
IMAGE_BUDGET = 70  # soft tokens a picture is trained with
SLIDING, FULL = "sliding_attention", "full_attention"
LAYER_KINDS = [SLIDING, SLIDING, FULL] * 2 + [SLIDING] * 3 + [FULL]
# exact in bf16, and none of them 1
LAYER_SCALARS = [0.75, 0.875, 0.8125, 0.6875, 0.9375, 0.75, 0.8125, 0.6875, 0.9375, 0.875]

DRAFT_HIDDEN, DRAFT_FFN = 128, 128
DRAFT_KINDS = [SLIDING, FULL]
DRAFT_SCALARS = [0.75, 0.6875]

PATCH, PATCH_VALUES, FRAME = 48, 48 * 48 * 3, 640

SPECIAL = {
    0: "<pad>",
    1: "<eos>",
    2: "<bos>",
    3: "<unk>",
    4: "<mask>",
    46: "<|tool>",
    47: "<tool|>",
    48: "<|tool_call>",
    49: "<tool_call|>",
    50: "<|tool_response>",
    51: "<tool_response|>",
    52: '<|"|>',
    98: "<|think|>",
    100: "<|channel>",
    101: "<channel|>",
    105: "<|turn>",
    106: "<turn|>",
    2041: "<|image>",
    2042: "<|audio>",
    2043: "<|image|>",
    2044: "<|audio|>",
    2045: "<image|>",
    2046: "<audio|>",
    2047: "<|video|>",
}
ID = {name: i for i, name in SPECIAL.items()}
NEWLINE = 107  # "\n", as in the 12B; longer runs follow
PAD, EOS, BOS, TURN_END = ID["<pad>"], ID["<eos>"], ID["<bos>"], ID["<turn|>"]

ROPE: dict[str, dict[str, Any]] = {
    "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
}


def text_config(hidden: int, ffn: int, kinds: list[str], softcap: float | None) -> dict[str, Any]:
    return {
        "model_type": "gemma4_unified_text",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": len(kinds),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_global_key_value_heads": GLOBAL_KV_HEADS,
        "head_dim": HEAD_DIM,
        "global_head_dim": GLOBAL_HEAD_DIM,
        "attention_k_eq_v": True,
        "sliding_window": WINDOW,
        "layer_types": kinds,
        "vocab_size": VOCAB,
        "vocab_size_per_layer_input": VOCAB,
        "rms_norm_eps": EPS,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_parameters": ROPE,
        "use_bidirectional_attention": "vision",
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": False,
        "num_experts": None,
        "top_k_experts": None,
        "moe_intermediate_size": None,
        "use_double_wide_mlp": False,
        "final_logit_softcapping": softcap,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "dtype": "bfloat16",
    }


def media_ids() -> dict[str, int]:
    return {
        "boi_token_id": ID["<|image>"],
        "eoi_token_id": ID["<image|>"],
        "image_token_id": ID["<|image|>"],
        "boa_token_id": ID["<|audio>"],
        "eoa_token_index": ID["<audio|>"],
        "audio_token_id": ID["<|audio|>"],
        "video_token_id": ID["<|video|>"],
    }


def target_config() -> dict[str, Any]:
    return {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "model_type": "gemma4_unified",
        "text_config": text_config(HIDDEN, FFN, LAYER_KINDS, SOFTCAP),
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "model_patch_size": PATCH,
            "mm_embed_dim": HIDDEN,
            "mm_posemb_size": POSITIONS,
            "num_soft_tokens": IMAGE_BUDGET,
            "output_proj_dims": HIDDEN,
            "rms_norm_eps": EPS,
        },
        "audio_config": {
            "model_type": "gemma4_unified_audio",
            "audio_embed_dim": FRAME,
            "hidden_size": FRAME,
            "audio_samples_per_token": FRAME,
            "output_proj_dims": FRAME,
            "rms_norm_eps": EPS,
        },
        **media_ids(),
        "eos_token_id": [EOS, TURN_END],
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "transformers_version": "5.24.0",
    }


def drafter_config() -> dict[str, Any]:
    text = text_config(DRAFT_HIDDEN, DRAFT_FFN, DRAFT_KINDS, None)
    text.update(num_kv_shared_layers=len(DRAFT_KINDS), vocab_size_per_layer_input=0)
    return {
        "architectures": ["Gemma4UnifiedAssistantForCausalLM"],
        "model_type": "gemma4_unified_assistant",
        "backbone_hidden_size": HIDDEN,
        "use_ordered_embeddings": False,
        "num_centroids": 2048,
        "centroid_intermediate_top_k": 32,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        **media_ids(),
        "text_config": text,
        "transformers_version": "5.24.0",
    }


def generation_config() -> dict[str, Any]:
    return {
        "do_sample": True,
        "temperature": 0.2,
        "top_k": 64,
        "top_p": 0.95,
        "eos_token_id": [EOS, TURN_END, ID["<|tool_response>"]],
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "suppress_tokens": [ID["<audio|>"], ID["<image|>"]],
    }


def processor_config() -> dict[str, Any]:
    picture = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "max_soft_tokens": IMAGE_BUDGET,
        "image_seq_length": IMAGE_BUDGET,
    }
    return {
        "processor_class": "Gemma4UnifiedProcessor",
        "image_seq_length": IMAGE_BUDGET,
        "audio_seq_length": 750,
        "audio_ms_per_token": 40,
        "image_processor": {"image_processor_type": "Gemma4UnifiedImageProcessor", **picture},
        "feature_extractor": {
            "feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor",
            "audio_samples_per_token": FRAME,
            "feature_size": FRAME,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": 16000,
        },
        "video_processor": {
            "video_processor_type": "Gemma4UnifiedVideoProcessor",
            **picture,
            "num_frames": 32,
            "do_sample_frames": True,
            "do_normalize": True,
        },
    }


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Gemma4UnifiedProcessor",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "video_token": "<|video|>",
        "extra_special_tokens": {
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
            "video_token": "<|video|>",
        },
    }
