"""Reads tokenizer.json, tokenizer_config.json and the chat templates; encodes them as a GGUF's tokenizer keys.

In: a checkpoint folder, untrusted. Out: a `Tokenizer`; its `pairs()` are the encoded keys. Knows nothing of tensors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, TokenType

from gemma4gguf.bundle.container import encode_array, encode_pair
from gemma4gguf.errors import ConversionError

from .jsonfile import read_json, read_optional, read_whole
from .safetensors import listed

MODEL = "gemma4"  # llama.cpp's name for this tokenizer; it implies the pre-tokenizer
SCORE = -1000.0  # as llama.cpp's converter writes; byte-pair encoding does not use scores
SPACE = "\u0120"  # stands for a space inside a merge, because a space separates the two halves
# User-defined instead of control, so that llama.cpp shows them and a reply can be parsed: thoughts and tool calls.
SHOWN = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}
NAMED = {  # tokenizer_config's name: the GGUF's
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
MAX_TEMPLATES = 64
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Tokenizer:
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]  # by the GGUF's name
    template: str | None
    templates: Mapping[str, str]  # further templates, by name
    notes: tuple[str, ...] = ()

    def pairs(self) -> Iterator[tuple[str, bytes]]:
        """Keys and encoded values, in the order in which llama.cpp's converter writes them."""
        text, u32, flag = GGUFValueType.STRING, GGUFValueType.UINT32, GGUFValueType.BOOL
        key = "tokenizer.ggml."
        yield key + "model", encode_pair(key + "model", text, MODEL)
        yield key + "tokens", encode_array(key + "tokens", text, self.tokens)
        yield key + "scores", encode_array(key + "scores", GGUFValueType.FLOAT32, [SCORE] * len(self.tokens))
        yield key + "token_type", encode_array(key + "token_type", GGUFValueType.INT32, self.types)
        yield key + "merges", encode_array(key + "merges", text, self.merges)
        for name, token in self.special.items():
            name = f"{key}{name}_token_id"
            yield name, encode_pair(name, u32, token)
        for name, template in self.templates.items():
            name = f"tokenizer.chat_template.{name}"
            yield name, encode_pair(name, text, template)
        if self.templates:
            name = "tokenizer.chat_templates"
            yield name, encode_array(name, text, list(self.templates))
        if self.template is not None:
            yield "tokenizer.chat_template", encode_pair("tokenizer.chat_template", text, self.template)
        yield key + "add_space_prefix", encode_pair(key + "add_space_prefix", flag, False)
        yield key + "add_bos_token", encode_pair(key + "add_bos_token", flag, True)


def read_tokenizer(folder: Path, config: Mapping[str, Any], size: int) -> Tokenizer:
    """Read a checkpoint's tokenizer. `config`: its config.json, used for special ids that the tokenizer does not name.

    `size`: the model's vocabulary. Added tokens beyond it are left out, as the model has no embeddings for them.
    Raises ConversionError when files are missing, damaged, or hold another kind of tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file() and (folder / "tokenizer.model").is_file():
        raise ConversionError(
            f"{folder}: has tokenizer.model but no tokenizer.json; get tokenizer.json from the base model"
        )
    data = read_json(path)
    settings = read_optional(folder / "tokenizer_config.json")
    model, added = data.get("model"), data.get("added_tokens") or []
    if not isinstance(model, dict) or model.get("type") != "BPE" or not model.get("byte_fallback"):
        found = model.get("type") if isinstance(model, dict) else None
        raise ConversionError(f"{path}: holds a {found} tokenizer, expected byte-pair encoding with byte fallback")
    if not isinstance(added, list) or not all(_is_added(a) for a in added):
        raise ConversionError(f"{path}: added_tokens are not tokens with an id and content; get it again")
    without: tuple[str, ...] = ()
    tokens = _tokens(path, model.get("vocab"), added)
    if len(tokens) > size >= len(model["vocab"]):  # added tokens, for which nobody resized the embedding
        beyond = tokens[size:]
        tokens, added = tokens[:size], [a for a in added if a["id"] < size]
        without = (f"{len(beyond)} added tokens without an embedding were left out: {listed(beyond, 6)}",)
    special = _special_texts(settings) | {a["content"] for a in added if a.get("special")}
    typed = {a["content"] for a in added} - special
    ids = {a["content"]: a["id"] for a in reversed(added)}
    template, templates, notes = _templates(folder, settings)
    return Tokenizer(
        tokens=tuple(tokens),
        types=tuple(int(_type_of(t, special, typed)) for t in tokens),
        merges=tuple(_merges(path, model.get("merges"))),
        special=_special_ids(settings, config, ids, len(tokens)),
        template=template,
        templates=templates,
        notes=(*notes, *without),
    )


def _is_added(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("content"), str)


def _tokens(path: Path, vocab: Any, added: list[dict[str, Any]]) -> list[str]:
    if not isinstance(vocab, dict) or not vocab or not all(type(i) is int for i in vocab.values()):
        raise ConversionError(f"{path}: model.vocab is not an object of tokens and ids; get it again")
    by_id: dict[int, str] = {i: text for text, i in vocab.items()}
    by_id |= {a["id"]: a["content"] for a in added}
    gaps = [str(i) for i in range(len(by_id)) if i not in by_id]
    if gaps or len(by_id) < len(vocab):
        what = f"no token for the ids {listed(gaps)}" if gaps else "two tokens with one id"
        raise ConversionError(f"{path}: has {what}; get it again")
    tokens = [by_id[i] for i in range(len(by_id))]
    twice = [
        text for text, count in Counter(t.partition("\0")[0] for t in tokens).items() if count > 1
    ]  # C cuts at NUL
    if twice:
        raise ConversionError(f"{path}: has {listed([repr(t) for t in twice], 4)} under two ids; get it again")
    return tokens


def _content(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _special_texts(settings: Mapping[str, Any]) -> set[str]:
    """The texts of all tokens that tokenizer_config.json names as special."""
    values: list[Any] = [v for k, v in settings.items() if k.endswith("_token")]
    for key in ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"):
        more = settings.get(key) or []
        values += list(more.values()) if isinstance(more, dict) else more if isinstance(more, list) else []
    return {text for v in values if (text := _content(v)) is not None}


def _type_of(text: str, special: set[str], typed: set[str]) -> TokenType:
    if (
        text in SHOWN or text in typed or (text in special and len(text) == 1)
    ):  # read in any text, as one character must
        return TokenType.USER_DEFINED
    if _BYTE.fullmatch(text):
        return TokenType.BYTE
    return TokenType.CONTROL if text in special else TokenType.NORMAL


def _merges(path: Path, merges: Any) -> list[str]:
    """Each merge as two halves joined by a space; a space inside a half becomes U+0120."""
    if not isinstance(merges, list) or not merges:
        raise ConversionError(f"{path}: has no merges, and llama.cpp loads no tokenizer without them; get it again")
    if all(isinstance(m, str) for m in merges):
        return merges
    if not all(isinstance(m, list) and len(m) == 2 and all(isinstance(s, str) for s in m) for m in merges):
        raise ConversionError(f"{path}: merges are not pairs of strings; get it again")
    return [f"{a.replace(' ', SPACE)} {b.replace(' ', SPACE)}" for a, b in merges]


def _special_ids(
    settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int], count: int
) -> dict[str, int]:
    text = config.get("text_config")
    found = {}
    for name, stored in NAMED.items():
        token: Any = ids.get(_content(settings.get(f"{name}_token")) or "")
        if token is None:
            token = config.get(f"{name}_token_id")
        if token is None and isinstance(text, Mapping):
            token = text.get(f"{name}_token_id")
        if type(token) is int and 0 <= token < count:
            found[stored] = token
    return found


def _templates(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, dict[str, str], tuple[str, ...]]:
    """The chat template, further templates by name, and a note where two places hold different templates.

    As in transformers, chat_template.jinja comes before chat_template.json, and that before tokenizer_config.json.
    """
    path, legacy = folder / "chat_template.jinja", folder / "chat_template.json"
    places = {"tokenizer_config.json": settings.get("chat_template")}
    if legacy.exists():
        places = {legacy.name: read_json(legacy).get("chat_template")} | places
    found = {place: _named(value) for place, value in places.items() if isinstance(value, (str, list))}
    if path.exists():
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        own = {"default": _read_text(path)} | {_key(p.stem): _read_text(p) for p in more[:MAX_TEMPLATES]}
        found = {path.name: own} | found
    if not found:
        return None, {}, ()
    (place, templates), *others = found.items()
    differ = [name for name, other in others if other.get("default") != templates.get("default")]
    notes = (f"the chat template is {place}'s; another one in {listed(differ)} was left out",) if differ else ()
    return templates.pop("default", None), templates, notes


def _named(value: str | list[Any]) -> dict[str, str]:
    """Templates by name; a single one is the default."""
    if isinstance(value, str):
        return {"default": value}
    pairs = ((v.get("name"), v.get("template")) for v in value[:MAX_TEMPLATES] if isinstance(v, dict))
    return {_key(name): text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def _key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _read_text(path: Path) -> str:
    try:
        return read_whole(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path}: cannot be read ({error}); get it again") from None
