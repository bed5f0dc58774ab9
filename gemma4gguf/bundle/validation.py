"""Whether a section is whole, and whether a drafter belongs to its text model.

In: sections, of a file or of one that is about to be written. Out: nothing, or a FormatError that says what is wrong.
What is refused here would end the process in llama.cpp, or be drafted for in vain. Looks at no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import FormatError
from .container import LazyStrings
from .reading import DRAFTER, NAMES, TEXT, Section

# Keys of the other Gemma 4 models, whose architecture has the same name: not zero there.
OTHERS = {
    "embedding_length_per_layer_input": "is a Gemma 4 E2B or E4B (it has per-layer embeddings)",
    "expert_count": "is the Gemma 4 26B (it has experts)",
}
_OF_MODEL = ("token_embd.weight", "output_norm.weight", "rope_freqs.weight")
_OF_LAYER = (
    *("attn_norm", "attn_q", "attn_q_norm", "attn_output", "post_attention_norm"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm", "layer_output_scale"),
)
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


# ── one section by itself ────────────────────────────────────────────────────────────────────────────────────────


def check_text(text: Section) -> None:
    """Raise FormatError unless the section is a whole Gemma 4 text model without parts elsewhere."""
    meta = text.metadata
    count = meta.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        raise FormatError(
            f"{text.path}: is one of {count} parts; join them first with `llama-gguf-split --merge {text.path} OUT`"
        )
    for key, what in OTHERS.items():
        if meta.get(f"{TEXT}.{key}"):
            raise FormatError(f"{text.path}: {what}, expected the 12B, the one whose embedder has no encoder")
    layers = _count(text, "block_count")
    window = meta.get(f"{TEXT}.attention.sliding_window_pattern")
    if not isinstance(window, list) or len(window) != layers:
        raise FormatError(f"{text.path}: names no kind for each of its {layers} layers; convert the checkpoint again")
    _check_whole(text, _tensors(text, layers, keys=True))
    _check_embedding(text)


def check_vocabulary(text: Section) -> None:
    """Raise FormatError for a vocabulary that llama.cpp would end the process over: another kind, or entries twice."""
    kind, tokens = text.metadata.get("tokenizer.ggml.model"), vocabulary(text)
    if kind != TEXT:
        raise FormatError(f"{text.path}: tokenizer.ggml.model is {kind!r}, expected {TEXT!r}; get the file again")
    twice = len(tokens) - len(set(tokens))
    if twice:
        raise FormatError(f"{text.path}: {twice:,} of its {len(tokens):,} tokens are there twice; get the file again")


def _tensors(section: Section, layers: int, *, keys: bool) -> Iterator[str]:
    """The tensors that a text model (`keys`) or a drafter, which has no keys of its own, cannot do without."""
    yield from _OF_MODEL
    pattern = section.metadata.get(f"{section.architecture}.attention.sliding_window_pattern", [])
    for i in range(layers):
        names = [*_OF_LAYER]
        if keys:
            names += ["attn_k", "attn_k_norm"]
            if i < len(pattern) and pattern[i]:  # full layers use the keys as values
                names.append("attn_v")
        if f"blk.{i}.attn_qkv.weight" in section.tensors:  # the three in one, which llama.cpp reads too
            names = [name for name in names if name not in ("attn_q", "attn_k", "attn_v")]
        yield from (f"blk.{i}.{name}.weight" for name in names)


def _check_whole(section: Section, names: Iterator[str]) -> None:
    missing = [name for name in names if name not in section.tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FormatError(
            f"{section.path}: the {NAMES[section.architecture]} has no tensor {missing[0]!r}{more}; get the file again"
        )


def _check_embedding(section: Section) -> None:
    """The table of token embeddings has the width and the vocabulary that the keys tell."""
    shape = section.tensors["token_embd.weight"].shape
    wanted = (len(vocabulary(section)), _count(section, "embedding_length"))
    if shape != wanted:
        raise FormatError(
            f"{section.path}: token_embd.weight has shape {list(shape)}, expected {list(wanted)} (vocabulary, width)"
        )


def _count(section: Section, key: str) -> int:
    key = f"{section.architecture}.{key}"
    value = section.metadata.get(key)
    if type(value) is not int or not 1 <= value < 1 << 24:
        raise FormatError(f"{section.path}: {key} is {value!r}, expected a positive number; get the file again")
    return value


def vocabulary(section: Section) -> Sequence[str]:
    """Every token's text. Raises FormatError where there is none."""
    tokens = section.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, LazyStrings) or not tokens:
        raise FormatError(f"{section.path}: carries no vocabulary (tokenizer.ggml.tokens); get the whole file")
    return tokens


def check_drafter(text: Section, drafter: Section) -> None:
    """Raise FormatError unless the section drafts for a model such as `text`."""
    where = f"{drafter.path}: the MTP drafter"
    layers = _count(drafter, "block_count")
    names = [*_tensors(drafter, layers, keys=False), "nextn.pre_projection.weight", "nextn.post_projection.weight"]
    _check_whole(drafter, iter(names))
    _check_embedding(drafter)
    hidden, width = _count(text, "embedding_length"), _count(drafter, "embedding_length")
    made = drafter.metadata.get(f"{DRAFTER}.embedding_length_out")
    if made != hidden:
        raise FormatError(f"{where} is for a model of width {made}, {text.path} has {hidden}; take the model's own")
    for name, shape in (("pre", (width, 2 * hidden)), ("post", (hidden, width))):
        found = drafter.tensors[f"nextn.{name}_projection.weight"].shape
        if found != shape:
            raise FormatError(f"{where}: nextn.{name}_projection.weight is {list(found)}, expected {list(shape)}")
    for key, how in _SHARED.items():
        own, target = drafter.metadata.get(f"{DRAFTER}.{key}"), text.metadata.get(f"{TEXT}.{key}")
        if own is None or own != target:
            raise FormatError(f"{where} and {text.path} differ in how {how} ({key}: {own}, {target}): not one model")
    _check_layer_kinds(text, drafter, where)
    if drafter.header.pairs["tokenizer.ggml.tokens"] != text.header.pairs["tokenizer.ggml.tokens"]:
        own, target = len(vocabulary(drafter)), len(vocabulary(text))
        detail = f"{own:,} tokens, {target:,} there" if own != target else "as many tokens, but others"
        raise FormatError(f"{where} has another vocabulary than {text.path} ({detail}): not one model")


def _check_layer_kinds(text: Section, drafter: Section, where: str) -> None:
    """A drafter's sliding layers read the cache of the target's last but one layer, its full ones that of the last."""
    target, own = (_layer_kinds(section) for section in (text, drafter))
    last = dict(zip((True, False), target[-2:], strict=False))  # by: is it sliding?
    for i, (sliding, heads) in enumerate(own):
        if (sliding, heads) != last.get(sliding):
            kind = "sliding" if sliding else "full"
            raise FormatError(
                f"{where}: layer {i} is {kind} with {heads} key heads, and {text.path} ends with other layers "
                f"({_told(target[-2:])}): not one model"
            )


def _layer_kinds(section: Section) -> list[tuple[bool, int]]:
    """(is it sliding, its key heads) of each layer."""
    layers = _count(section, "block_count")
    values = []
    for key in ("attention.sliding_window_pattern", "attention.head_count_kv"):
        key = f"{section.architecture}.{key}"
        value = section.metadata.get(key)
        value = value if isinstance(value, list) else [value] * layers
        if len(value) != layers:
            raise FormatError(f"{section.path}: {key} has {len(value)} values for {layers} layers; get the file again")
        values.append(value)
    return [(bool(sliding), heads) for sliding, heads in zip(*values, strict=True)]


def _told(kinds: list[tuple[bool, int]]) -> str:
    return ", ".join(f"{'sliding' if sliding else 'full'} with {heads}" for sliding, heads in kinds)
