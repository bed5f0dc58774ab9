"""Whether a section is what `schema` says, and whether a drafter belongs to its text model.

In: sections, of a file or of one that is about to be written. Out: nothing, or a FormatError that says what is wrong.
What is refused here would end the process in llama.cpp, hang it, or be drafted for in vain. Looks at no weights.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from gguf import TokenType

from ..errors import FormatError
from .container import DEFAULT_ALIGNMENT, LazyStrings
from .reading import DRAFTER, NAMES, TEXT, Section, check_unsplit
from .relatives import relative
from .schema import (
    DRAFTER_KEYS,
    GENERAL_KEYS,
    MAX_END_TOKENS,
    MAX_LAYERS,
    MAX_SPECIAL,
    MAX_TOKENS,
    OWN_KEYS,
    TEXT_KEYS,
    VOCABULARY_LISTS,
    KeyRule,
    Layer,
    Model,
    tensors,
)
from .settings import END_TOKEN_IDS, TOKEN_TYPES, TOKENS, special_ids

# Numbers that a drafter shares with its target, because it reads the target's cache.
_SHARED = {
    "attention.key_length": "wide its heads on full layers are",
    "attention.key_length_swa": "wide its heads on sliding layers are",
    "attention.value_length": "wide its values on full layers are",
    "attention.value_length_swa": "wide its values on sliding layers are",
    "attention.sliding_window": "far its sliding layers look back",
    "rope.freq_base": "it rotates positions on full layers",
    "rope.freq_base_swa": "it rotates positions on sliding layers",
}


_passed: WeakValueDictionary[int, Section] = WeakValueDictionary()


def check(section: Section, text: Section) -> None:
    """Raise FormatError unless llama.cpp may load the section: `text` itself, or its drafter."""
    if section.architecture == TEXT:
        check_text(section)
    else:
        check_drafter(text, section)


def check_text(text: Section) -> None:
    """Raise FormatError unless the section is a whole Gemma 4 text model without parts elsewhere.

    What has passed is not checked again when it is loaded: a section does not change, and that the file is still the
    one it was read from is checked there.
    """
    if _passed.get(id(text)) is text:
        return
    check_unsplit(text.path, text.metadata)
    check_family(text)
    layers = _count(text, "block_count")
    window = text.metadata.get(f"{TEXT}.attention.sliding_window_pattern")
    if not isinstance(window, list) or len(window) != layers:
        raise FormatError(f"{text.path}: names no kind for each of its {layers} layers; convert the checkpoint again")
    _check_section(text)
    for key, rule in OWN_KEYS.items():
        _check_key(text, key, rule)
    _check_special_tokens(text)
    _check_end_tokens(text)
    _passed[id(text)] = text


def check_family(section: Section) -> None:
    """Raise FormatError for a section of another Gemma 4, whose architecture has the same name."""
    other = relative(section)
    if other:
        raise FormatError(f"{section.path}: is {other}, expected the 12B, the one whose embedder has no encoder")


def check_drafter(text: Section, drafter: Section) -> None:
    """Raise FormatError unless the section drafts for a model such as `text`."""
    where = f"{drafter.path}: the MTP drafter"
    hidden = _count(text, "embedding_length")
    made = drafter.metadata.get(f"{DRAFTER}.embedding_length_out")
    if made != hidden:
        raise FormatError(
            f"{where} is for a model of width {made!r:.80}, {text.path} has {hidden}; take the model's own"
        )
    for key, how in _SHARED.items():
        own, target = drafter.metadata.get(f"{DRAFTER}.{key}"), text.metadata.get(f"{TEXT}.{key}")
        if own is None or own != target:
            raise FormatError(
                f"{where} and {text.path} differ in how {how} ({key}: {own!r:.80}, {target!r:.80}): not one model"
            )
    _check_layer_kinds(text, drafter, where)
    _check_section(drafter)
    if drafter.header.pairs.get(TOKENS) != text.header.pairs.get(TOKENS):
        own, target = len(vocabulary(drafter)), len(vocabulary(text))
        detail = f"{own:,} tokens, {target:,} there" if own != target else "as many tokens, but others"
        raise FormatError(f"{where} has another vocabulary than {text.path} ({detail}): not one model")


# ── one section by itself ────────────────────────────────────────────────────────────────────────────────────────


def _check_section(section: Section) -> None:
    """Keys, tensors and vocabulary of a text model or a drafter, each by its table."""
    for key, rule in (TEXT_KEYS if section.architecture == TEXT else DRAFTER_KEYS).items():
        _check_key(section, f"{section.architecture}.{key}", rule)
    for key, rule in GENERAL_KEYS.items():
        _check_key(section, key, rule)
    _check_no_more_keys(section)
    _check_relations(section)
    _check_tensors(section)
    check_vocabulary(section)


def _check_key(section: Section, key: str, rule: KeyRule) -> None:
    value = section.metadata.get(key)
    if value is None:
        if rule.required:
            raise FormatError(f"{section.path}: {key} is missing, expected {rule.expected}; get the file again")
        return
    kind, element = section.header.type_of(key)
    if isinstance(value, list):
        layers = section.metadata[f"{section.architecture}.block_count"]
        fits = element in rule.array and len(value) == layers and all(map(rule.allowed, value))
    else:
        fits = kind in rule.types and rule.allowed(value)
    if not fits:
        kinds = " or ".join(each.name for each in rule.types or rule.array)
        raise FormatError(
            f"{section.path}: {key} is {value!r:.80} ({(element or kind).name}), expected {rule.expected} ({kinds}); "
            "get the file again"
        )


def _check_no_more_keys(section: Section) -> None:
    known = TEXT_KEYS if section.architecture == TEXT else DRAFTER_KEYS
    start = f"{section.architecture}."
    unknown = [key for key in section.metadata if key.startswith(start) and key[len(start) :] not in known]
    if unknown:
        raise FormatError(f"{section.path}: has a key {unknown[0]!r:.80}, which a 12B has not; get the file again")


def _check_relations(section: Section) -> None:
    """What two keys must say together, or llama.cpp computes past the end of a row."""

    def number(key: str) -> Any:
        return section.metadata.get(f"{section.architecture}.{key}")

    def same(key: str, other: str) -> None:
        if number(key) != number(other):
            raise _not_together(section, key, number(key), f"{number(other)} as {other}")

    same("attention.value_length", "attention.key_length")
    same("attention.value_length_swa", "attention.key_length_swa")
    if section.architecture == DRAFTER:
        same("nextn_predict_layers", "block_count")
    elif number("embedding_length_out") is not None:
        same("embedding_length_out", "embedding_length")
    turned = number("attention.key_length")
    for end in ("", "_swa"):
        head = number(f"attention.key_length{end}")
        rotated = number(f"rope.dimension_count{end}")
        turned = turned if rotated is None else rotated  # the sliding layers' own, else that of the full ones
        if turned % 2 or turned > head:
            raise _not_together(section, f"rope.dimension_count{end}", turned, f"an even number up to {head}, its head")
    layers = numbers(section).layers
    if len({layer.sliding for layer in layers}) < 2:  # llama.cpp's cache wants both
        raise _not_together(section, "attention.sliding_window_pattern", "one kind for all layers", "both kinds")
    for i, layer in enumerate(layers):
        if layer.heads % layer.kv_heads:
            raise _not_together(
                section,
                "attention.head_count",
                layer.heads,
                f"a multiple of {layer.kv_heads}, its key heads (layer {i})",
            )
    if section.header.alignment % DEFAULT_ALIGNMENT:
        raise FormatError(
            f"{section.path}: general.alignment is {section.header.alignment}, expected a multiple of "
            f"{DEFAULT_ALIGNMENT}; convert it again"
        )


def _not_together(section: Section, key: str, found: Any, expected: str) -> FormatError:
    return FormatError(
        f"{section.path}: {section.architecture}.{key} is {found}, expected {expected}; get the file again"
    )


def _check_tensors(section: Section) -> None:
    """Exactly the tensors that the keys ask for, each of the right shape and of a type that is computed with."""
    held, what = section.tensors, NAMES[section.architecture]
    specs = {spec.name: spec for spec in tensors(numbers(section), fused=lambda i: f"blk.{i}.attn_qkv.weight" in held)}
    missing = [name for name, spec in specs.items() if spec.required and name not in held]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FormatError(f"{section.path}: the {what} has no tensor {missing[0]!r}{more}; get the file again")
    for name, spec in specs.items():
        info = held.get(name)
        if info is None:
            continue
        if info.shape != spec.shape:
            raise FormatError(f"{section.path}: {name} has shape {list(info.shape)}, expected {list(spec.shape)}")
        if info.type not in spec.types:
            expected = "F32" if len(spec.shape) == 1 else "a type that llama.cpp multiplies with"
            raise FormatError(f"{section.path}: {name} is stored as {info.type.name}, expected {expected}")
    unknown = [name for name in held if name not in specs]
    if unknown:
        raise FormatError(f"{section.path}: the {what} has a tensor {unknown[0]!r:.80}, which a 12B has not")


def numbers(section: Section) -> Model:
    """The numbers of a section whose keys were checked."""

    def number(key: str) -> Any:
        return section.metadata[f"{section.architecture}.{key}"]

    count = number("block_count")

    def each(key: str) -> list[int]:
        return number(key) if isinstance(number(key), list) else [number(key)] * count

    kinds = zip(
        number("attention.sliding_window_pattern"),
        each("attention.head_count"),
        each("attention.head_count_kv"),
        each("feed_forward_length"),
        strict=True,
    )
    full, sliding = number("attention.key_length"), number("attention.key_length_swa")
    return Model(
        tokens=len(vocabulary(section)),
        width=number("embedding_length"),
        full_head=full,
        layers=tuple(Layer(bool(s), heads, kv, sliding if s else full, ffn) for s, heads, kv, ffn in kinds),
        out=number("embedding_length_out") if section.architecture == DRAFTER else None,
    )


def _count(section: Section, key: str) -> int:
    """A key that everything else depends on, before the tables are asked."""
    key = f"{section.architecture}.{key}"
    value = section.metadata.get(key)
    if type(value) is not int or not 1 <= value < 1 << 24:
        raise FormatError(f"{section.path}: {key} is {value!r:.80}, expected a positive number; get the file again")
    return value


# ── vocabulary ───────────────────────────────────────────────────────────────────────────────────────────────────


def vocabulary(section: Section) -> LazyStrings:
    """Every token's text. Raises FormatError where there is none."""
    tokens = section.metadata.get(TOKENS)
    if not isinstance(tokens, LazyStrings) or not tokens:
        raise FormatError(f"{section.path}: carries no vocabulary ({TOKENS}); get the whole file")
    return tokens


def check_vocabulary(section: Section) -> None:
    """Raise FormatError for a vocabulary that llama.cpp would end the process over: another kind, or entries twice."""
    kind, tokens = section.metadata.get("tokenizer.ggml.model"), vocabulary(section)
    where = f"{section.path}: tokenizer:"
    if kind != TEXT:
        raise FormatError(
            f"{section.path}: tokenizer.ggml.model is {kind!r:.80}, expected {TEXT!r}; get the file again"
        )
    if len(tokens) > MAX_TOKENS:
        raise FormatError(f"{where} {len(tokens):,} tokens, expected at most {MAX_TOKENS:,}")
    stored = tokens.stored
    if b"\0" in b"".join(stored):
        i = next(i for i, raw in enumerate(stored) if b"\0" in raw)
        raise FormatError(f"{where} token {i} has a NUL in it, where C would cut it; get the file again")
    distinct = set(stored)
    if b"" in distinct:  # llama.cpp names each of them
        distinct = distinct - {b""} | {b"[EMPTY_%d]" % i for i, raw in enumerate(stored) if not raw}
    twice = len(tokens) - len(distinct)
    if twice:
        raise FormatError(f"{where} {twice:,} of its {len(tokens):,} tokens are there twice; get the file again")
    first = section.metadata.get("tokenizer.ggml.bos_token_id")
    if not _is_token(first, tokens):
        raise FormatError(f"{where} bos_token_id is {first!r:.80}, expected a token's id; get the file again")
    for key, rule in VOCABULARY_LISTS.items():
        held = section.metadata.get(key)
        if held is None and not rule.required:
            continue
        count = len(held) if isinstance(held, (list, LazyStrings)) else -1
        fits = count >= 0 and section.header.type_of(key)[1] in rule.types
        if not fits or (rule.each_token and count < len(tokens)):
            expected = f"a list of {' or '.join(each.name for each in rule.types)}"
            wanted = f", {len(tokens):,} of them" if rule.each_token else ""
            raise FormatError(f"{where} {key} is not {expected}{wanted}; get the file again")


def _check_special_tokens(text: Section) -> None:
    """Texts are searched for special tokens: short ones, and no control token that is a character of a text."""
    for i in special_ids(text.metadata):
        token, kind = text.metadata[TOKENS][i], text.metadata[TOKEN_TYPES][i]
        if len(token) > MAX_SPECIAL or (kind == TokenType.CONTROL and len(token) == 1):
            raise FormatError(
                f"{text.path}: tokenizer: {token!r:.80} is a special token of {len(token):,} characters, expected 2 to "
                f"{MAX_SPECIAL}; get the file again"
            )


def _check_end_tokens(text: Section) -> None:
    ids = text.metadata.get(END_TOKEN_IDS)
    if ids is None:
        return
    tokens = vocabulary(text)
    if not isinstance(ids, list) or len(ids) > MAX_END_TOKENS or not all(_is_token(i, tokens) for i in ids):
        raise FormatError(
            f"{text.path}: {END_TOKEN_IDS} is {ids!r:.80}, expected a list of tokens' ids; convert it again"
        )


def _is_token(value: Any, tokens: LazyStrings) -> bool:
    return type(value) is int and 0 <= value < len(tokens)


# ── a drafter and its model ──────────────────────────────────────────────────────────────────────────────────────


def _check_layer_kinds(text: Section, drafter: Section, where: str) -> None:
    """A drafter's sliding layers read the cache of the target's last but one layer, its full ones that of the last."""
    target, own = (_layer_kinds(section) for section in (text, drafter))
    last = dict(zip((True, False), target[-2:], strict=False))  # by: is it sliding?
    for i, (sliding, heads) in enumerate(own):
        if (sliding, heads) != last.get(sliding):
            kind = "sliding" if sliding else "full"
            raise FormatError(
                f"{where}: layer {i} is {kind} with {heads!r:.80} key heads, and {text.path} ends with other layers "
                f"({_told(target[-2:])}): not one model"
            )


def _layer_kinds(section: Section) -> list[tuple[bool, int]]:
    """(is it sliding, its key heads) of each layer."""
    layers = _count(section, "block_count")
    values = []
    for key in ("attention.sliding_window_pattern", "attention.head_count_kv"):
        key = f"{section.architecture}.{key}"
        value = section.metadata.get(key)
        value = value if isinstance(value, list) else [value] * min(layers, MAX_LAYERS)
        if len(value) != layers:
            raise FormatError(f"{section.path}: {key} has {len(value)} values for {layers} layers; get the file again")
        values.append(value)
    return [(bool(sliding), heads) for sliding, heads in zip(*values, strict=True)]


def _told(kinds: list[tuple[bool, int]]) -> str:
    return ", ".join(f"{'sliding' if sliding else 'full'} with {heads!r:.80}" for sliding, heads in kinds)
