"""Which type each tensor is stored in: llama.cpp's mixtures, as tables.

In: tensor names and shapes, a mixture, whether there are importance values. Out: a type for each tensor.
The rules are those of llama_model_quantize (llama.cpp 0c1e57098, src/llama-quant.cpp) for a dense model. Knows nothing
of tensor data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as T

from gemma4gguf.arguments import local_path
from gemma4gguf.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """A named choice such as Q4_K_M: its number in a GGUF (general.file_type), and the type of most tensors."""

    name: str
    file_type: int
    default: T


MIXTURES = {
    name: Mixture(name, int(file_type), default)
    for name, file_type, default in (
        ("F32", LlamaFileType.ALL_F32, T.F32),
        ("BF16", LlamaFileType.MOSTLY_BF16, T.BF16),
        ("F16", LlamaFileType.MOSTLY_F16, T.F16),
        ("Q8_0", LlamaFileType.MOSTLY_Q8_0, T.Q8_0),
        ("Q6_K", LlamaFileType.MOSTLY_Q6_K, T.Q6_K),
        ("Q5_K_M", LlamaFileType.MOSTLY_Q5_K_M, T.Q5_K),
        ("Q5_K_S", LlamaFileType.MOSTLY_Q5_K_S, T.Q5_K),
        ("Q5_1", LlamaFileType.MOSTLY_Q5_1, T.Q5_1),
        ("Q5_0", LlamaFileType.MOSTLY_Q5_0, T.Q5_0),
        ("Q4_K_M", LlamaFileType.MOSTLY_Q4_K_M, T.Q4_K),
        ("Q4_K_S", LlamaFileType.MOSTLY_Q4_K_S, T.Q4_K),
        ("Q4_1", LlamaFileType.MOSTLY_Q4_1, T.Q4_1),
        ("Q4_0", LlamaFileType.MOSTLY_Q4_0, T.Q4_0),
        ("IQ4_NL", LlamaFileType.MOSTLY_IQ4_NL, T.IQ4_NL),
        ("IQ4_XS", LlamaFileType.MOSTLY_IQ4_XS, T.IQ4_XS),
        ("Q3_K_M", LlamaFileType.MOSTLY_Q3_K_M, T.Q3_K),
        ("Q3_K_S", LlamaFileType.MOSTLY_Q3_K_S, T.Q3_K),
        ("Q2_K", LlamaFileType.MOSTLY_Q2_K, T.Q2_K),
    )
}
FLOATS = (T.F32, T.BF16, T.F16)
# Types that an override may name: the default types of the mixtures.
TENSOR_TYPES = {kind.name: kind for kind in sorted({m.default for m in MIXTURES.values()}, key=int)}
UNDER_FOUR_BITS = {"Q3_K_M", "Q3_K_S", "Q2_K"}


# ── the rules ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Place:
    """Which tensor it is: the `index`-th of `count` of its sort; and what the rules need of the model."""

    index: int
    count: int
    group: int  # query heads per key head, of the first layer
    imatrix: bool  # there are importance values


When = Callable[[Place], bool]


def always(_: Place) -> bool:
    return True


def more_bits(at: Place) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = at.count // 8
    # Python's % differs from C's for negative numbers, but index < eighth has returned by then.
    return at.index < eighth or at.index >= 7 * at.count // 8 or (at.index - eighth) % 3 == 2


def first(n: int) -> When:
    return lambda at: at.index < n


def first_part(n: int) -> When:
    return lambda at: at.index < at.count // n


def first_eighth_with(imatrix: bool) -> When:
    return lambda at: at.index < at.count // 8 and at.imatrix is imatrix


def grouped(at: Place) -> bool:
    return at.group >= 4


# Sort of tensor -> (mixtures, condition, type). The first line that holds decides, else the mixture's default type.
RULES: Mapping[str, Sequence[tuple[tuple[str, ...], When, T]]] = {
    "attn_v": (
        (("Q2_K",), grouped, T.Q4_K),
        (("Q2_K",), always, T.Q3_K),
        (("Q3_K_M",), first(2), T.Q5_K),
        (("Q3_K_M",), always, T.Q4_K),
        (("IQ4_NL", "IQ4_XS"), grouped, T.Q5_K),
        (("Q4_K_M", "Q5_K_M"), more_bits, T.Q6_K),
        (("Q4_K_S",), first(4), T.Q5_K),
    ),
    "ffn_down": (
        (("Q2_K",), always, T.Q3_K),
        (("Q3_K_M",), first_part(16), T.Q5_K),
        (("Q3_K_M",), always, T.Q4_K),
        (("Q4_K_M", "Q5_K_M"), more_bits, T.Q6_K),
        (("IQ4_NL", "IQ4_XS"), first_eighth_with(imatrix=False), T.Q5_K),
        (("Q4_K_S",), first_part(8), T.Q5_K),
        (("Q4_0",), first_eighth_with(imatrix=True), T.Q4_1),
        (("Q5_0",), first_eighth_with(imatrix=True), T.Q5_1),
    ),
    "attn_output": (
        (("Q2_K",), always, T.Q3_K),
        (("Q3_K_M",), always, T.Q4_K),
    ),
}
SORTS = (  # a part of the tensor's name -> its sort
    ("attn_v.weight", "attn_v"),
    ("attn_output.weight", "attn_output"),
    ("ffn_down", "ffn_down"),
)
# For rows that are no multiple of 256: a type with blocks of 32 and at least as many bits.
NARROW = {
    T.IQ4_XS: T.IQ4_NL,
    T.Q2_K: T.Q4_0,
    T.Q3_K: T.Q4_0,
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
}
# Parts of names that always stay float32.
KEPT = ("_norm.weight", ".position_embd", ".patch_embd")


@dataclass(frozen=True)
class Override:
    """Stores tensors whose GGUF name contains a match of `pattern` as `type`. `text` is the option as given."""

    text: str
    pattern: re.Pattern[str]
    type: T


def parse_overrides(texts: Iterable[str]) -> tuple[Override, ...]:
    """PATTERN=TYPE options, and @FILE for a file of them. Raises InputError for a bad pattern or an unknown type."""
    found = []
    for text in (line for given in texts for line in _lines(given)):
        name, equals, kind = text.rpartition("=")
        if not equals or not name:
            raise InputError(f"types: {text!r:.200}, expected PATTERN=TYPE, such as ffn_down=Q6_K")
        if kind.upper() not in TENSOR_TYPES:
            raise InputError(f"types: {text!r:.200}: unknown type {kind!r:.40}; choose from {', '.join(TENSOR_TYPES)}")
        try:
            pattern = re.compile(name)
        except re.error as error:
            raise InputError(f"types: {name!r:.200} is not a regular expression ({error})") from None
        found.append(Override(text, pattern, TENSOR_TYPES[kind.upper()]))
    return tuple(found)


def _lines(given: str) -> list[str]:
    """An option, or the lines of the file that it names."""
    if not given.startswith("@"):
        return [given]
    path = local_path(given[1:])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"types: {path} cannot be read ({error})") from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def overridden(name: str, overrides: Iterable[Override]) -> bool:
    """Whether one of the overrides says a tensor's type."""
    return any(o.pattern.search(name) for o in overrides)


def mixture(parameter: str, name: str) -> Mixture:
    """The mixture of that name, in upper or lower case. Raises InputError, which lists all names."""
    found = MIXTURES.get(name.upper().replace("-", "_")) if isinstance(name, str) else None
    if found is None:
        raise InputError(f"{parameter}: unknown type {name!r}; choose from {', '.join(MIXTURES)}")
    return found


def write_order(name: str) -> tuple[int, str]:
    """Sort key for llama.cpp's order: tensors outside the layers, then layer by layer, each by name."""
    found = re.match(r"blk\.(\d+)\.", name)
    return (int(found[1]) if found else -1), name


def quantisable(name: str, shape: Shape) -> bool:
    """Whether a tensor may be quantised; vectors and norms stay float32."""
    dimensions = max((i + 1 for i, n in enumerate(reversed(shape)) if n > 1), default=1)
    return dimensions >= 2 and name.endswith("weight") and not any(part in name for part in KEPT)


def choose(
    tensors: Sequence[tuple[str, Shape]],
    asked: Mixture,
    *,
    layers: int,
    group: int,
    imatrix: bool = False,
    overrides: Sequence[Override] = (),
) -> dict[str, T]:
    """A type for every tensor of one section.

    `layers` and `group` (query heads per key head in the first layer) are the model's. Raises InputError when an
    override matches nothing that can be stored in another type.
    """
    ordered = sorted(tensors, key=lambda t: write_order(t[0]))
    counts = {"ffn_down": layers, "attn_v": sum("attn_v.weight" in name for name, _ in tensors)}
    tied = all(name != "output.weight" for name, _ in tensors)
    seen: dict[str, int] = {}
    used: set[str] = set()
    hidden: set[str] = set()
    chosen = {}
    for name, shape in ordered:
        if not quantisable(name, shape):
            chosen[name] = T.F32
            continue
        matching = [o for o in overrides if o.pattern.search(name)]
        if matching:
            used.add(matching[0].text)
            hidden.update(o.text for o in matching[1:])
            kind = matching[0].type
        elif asked.default in FLOATS:
            kind = asked.default
        else:
            sort = next((s for part, s in SORTS if part in name), "")
            index = seen.get(sort, 0)
            seen[sort] = index + 1
            place = Place(index, counts.get(sort, 0), group, imatrix)
            kind = _by_rule(name, shape, sort, asked, place, tied)
        chosen[name] = fitted(kind, shape[-1])
    unmatched = [o.text for o in overrides if o.text not in used]
    if shadowed := [text for text in unmatched if text in hidden]:
        raise InputError(f"types: {shadowed[0]}: all that it matches is taken by an earlier pattern; put it first")
    if unmatched:
        raise InputError(
            f"types: {', '.join(unmatched)}: matches no tensor of the text model that can change its type; "
            "dry_run=True lists the names"
        )
    return chosen


def _by_rule(name: str, shape: Shape, sort: str, asked: Mixture, place: Place, tied: bool) -> T:
    if name == "output.weight" or (tied and name == "token_embd.weight"):  # it computes the logits
        if shape[-1] % GGML_QUANT_SIZES[asked.default][0]:
            return T.Q8_0
        return asked.default if asked.default is T.Q8_0 else T.Q6_K
    for names, when, kind in RULES.get(sort, ()):
        if asked.name in names and when(place):
            return kind
    return asked.default


def fitted(kind: T, width: int) -> T:
    """`kind` if its blocks divide rows of `width` values, else its substitute in NARROW, else float16."""
    if width % GGML_QUANT_SIZES[kind][0]:
        kind = NARROW.get(kind, kind)
    return T.F16 if width % GGML_QUANT_SIZES[kind][0] else kind
