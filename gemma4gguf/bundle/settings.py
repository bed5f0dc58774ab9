"""gemma4gguf's own keys in a bundle's text section: a picture's budget, the tokens that end an answer, and the tensors
that were stored on a grid.

A text section's metadata comes in; the setting goes out, or its default where the file has none. This module does not
know where the settings are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import compress
from typing import Any

from gguf import LlamaFileType, TokenType

from .container import LazyStrings

TOKENS = "tokenizer.ggml.tokens"
TOKEN_TYPES = "tokenizer.ggml.token_type"
SPECIAL_TYPES = frozenset((TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED))
IMAGE_BUDGET = "gemma4gguf.image.max_soft_tokens"
BUDGETS = (70, 140, 280, 560, 1120)  # soft tokens per picture; the ones the model was trained with
DEFAULT_BUDGET = 280  # soft tokens
END_TOKEN_IDS = "gemma4gguf.eos_token_ids"
GRID_TENSORS = "gemma4gguf.grid.tensors"  # names: stored on the grid they were trained on, not by llama.cpp's rounding
MIX = "gemma4gguf.mix"  # PATTERN=TYPE lines, by which a file of a given size was made
END_TOKENS = ("<eos>", "<turn|>", "<|tool_response>")  # the chat format's own: they always count; a file adds others


def image_budget(metadata: Mapping[str, Any]) -> int:
    """Soft tokens that a picture may take: as the file says, else 280. Not checked: see `media.image.check_budget`."""
    budget: int = metadata.get(IMAGE_BUDGET, DEFAULT_BUDGET)
    return budget


def special_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Ids of the vocabulary's control, user-defined and unknown tokens: those that llama.cpp finds in any text."""
    tokens, types = metadata.get(TOKENS), metadata.get(TOKEN_TYPES)
    if not isinstance(tokens, LazyStrings) or not isinstance(types, list):
        return []
    return list(compress(range(len(tokens)), map(SPECIAL_TYPES.__contains__, types)))


def special_tokens(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Texts of the same tokens."""
    return tuple(metadata[TOKENS][i] for i in special_ids(metadata))


def end_token_ids(metadata: Mapping[str, Any], find: Callable[[str], int | None]) -> list[int]:
    """Ids of the tokens that end an answer: those that the file lists, and those of END_TOKENS.

    `find` gives a token's id, or None where the vocabulary does not have it.
    """
    own = [token for text in END_TOKENS if (token := find(text)) is not None]
    return list(dict.fromkeys([*_listed(metadata), *own]))


def end_tokens(metadata: Mapping[str, Any]) -> list[str]:
    """Texts of the tokens that end an answer, by the same rule."""
    tokens = metadata.get(TOKENS)
    own = [text for text in END_TOKENS if not isinstance(tokens, LazyStrings) or text in tokens]
    return list(dict.fromkeys([*(metadata[TOKENS][i] for i in _listed(metadata)), *own]))


def file_type(number: object) -> str | None:
    """What `general.file_type` says, such as Q4_K_M; None for an unknown number."""
    try:
        return str(LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_"))
    except ValueError:
        return None


def _listed(metadata: Mapping[str, Any]) -> list[int]:
    """The ids that the file lists, without those that are not in its vocabulary."""
    ids, tokens = metadata.get(END_TOKEN_IDS), metadata.get(TOKENS)
    if not isinstance(ids, list) or not isinstance(tokens, LazyStrings):
        return []
    return [i for i in ids if type(i) is int and 0 <= i < len(tokens)]
