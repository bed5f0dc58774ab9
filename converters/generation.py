"""Turns generation_config.json into keys: sampling, end tokens, suppressed tokens; and names what is not obeyed.

In: the parsed JSON files of a checkpoint, untrusted. Out: checked values. Knows nothing of GGUF's encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4gguf.errors import ConversionError

from .config import is_number
from .safetensors import listed

MAX_IDS = 1024  # in one list


@dataclass(frozen=True)
class Rule:
    """One sampling key: gguf's field for it, its type, and which values it may have."""

    field: str
    kind: type[int] | type[float]
    allowed: Callable[[float], bool]
    expected: str


SAMPLING = {
    "temperature": Rule("sampling_temp", float, lambda v: v >= 0, "0 or more"),
    "top_k": Rule("sampling_top_k", int, lambda v: 0 <= v < 1 << 31, "a whole number, 0 or more"),
    "top_p": Rule("sampling_top_p", float, lambda v: 0 < v <= 1, "above 0, at most 1"),
    "min_p": Rule("sampling_min_p", float, lambda v: 0 <= v <= 1, "0 to 1"),
    "repetition_penalty": Rule("sampling_penalty_repeat", float, lambda v: v > 0, "above 0"),
}
# Used elsewhere, or without a meaning for which tokens come: how transformers caches, compiles, drafts and reports.
_OBEYED = {"do_sample", "eos_token_id", "suppress_tokens", *SAMPLING}
_HARMLESS = {
    *("bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "renormalize_logits"),
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache", "low_memory"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("compile_config", "disable_compile", "prefill_chunk_size", "use_mtp", "is_assistant", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit"),
    *("assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
    *("speculation_type", "generation_kwargs", "trust_remote_code", "chat_format", "max_window_size"),
}
# Values that change nothing, besides those that JSON has for nothing: null, false, 0, empty.
_NEUTRAL = {
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty", "length_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    "max_length": 20,  # transformers' default
}


@dataclass(frozen=True)
class Generation:
    """How a checkpoint wants its answers made. `sampling`: gguf's field -> value."""

    sampling: Mapping[str, float]
    end: Sequence[int]
    suppressed: Sequence[int]
    notes: tuple[str, ...]


def read_generation(path: Path, values: Mapping[str, Any], config: Mapping[str, Any]) -> Generation:
    """Check a generation config. `config` is config.json, whose end tokens count where `values` names none.

    Raises ConversionError for values out of range. `do_sample: false` becomes temperature 0, which is greedy.
    """
    sampling = {
        rule.field: found for key, rule in SAMPLING.items() if (found := _number(path, values, key, rule)) is not None
    }
    if values.get("do_sample") is False:
        sampling[SAMPLING["temperature"].field] = 0.0
    end = _ids(path, values, "eos_token_id") or _config_ends(config)
    return Generation(sampling, end, _ids(path, values, "suppress_tokens"), _notes(values))


def _number(path: Path, values: Mapping[str, Any], key: str, rule: Rule) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if not is_number(value) or not rule.allowed(value) or value != rule.kind(value):
        raise ConversionError(f"{path}: {key} is {value!r:.80}, expected {rule.expected}; take it from the base model")
    return rule.kind(value)


def _ids(path: Path, values: Mapping[str, Any], key: str) -> list[int]:
    value = values.get(key)
    value = value if isinstance(value, list) else [] if value is None else [value]
    if not _are_ids(value):
        raise ConversionError(
            f"{path}: {key} is {value!r:.80}, expected token ids; correct it or take it from the base model"
        )
    return value


def _config_ends(config: Mapping[str, Any]) -> list[int]:
    """The end tokens of config.json, which transformers uses where there is no generation_config.json."""
    text = config.get("text_config")
    places = [config, text if isinstance(text, Mapping) else {}]
    value: Any = next((p["eos_token_id"] for p in places if p.get("eos_token_id") is not None), [])
    value = value if isinstance(value, list) else [value]
    return value if _are_ids(value) else []


def _are_ids(value: list[Any]) -> bool:
    return len(value) <= MAX_IDS and all(type(t) is int and 0 <= t < 1 << 31 for t in value)


def _notes(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names every key with a value that would change answers and that the runtime does not obey."""
    ignored = [
        f"{key} {value!r:.40}"
        for key, value in values.items()
        if key not in _OBEYED | _HARMLESS and not key.startswith("_") and value and _NEUTRAL.get(key) != value
    ]
    return (f"generation_config.json asks for what is not obeyed: {listed(ignored, 8)}",) if ignored else ()
