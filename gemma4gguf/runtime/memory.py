"""What a model takes of this machine's memory, by kind: computed from its headers, before anything is loaded.

In: the facts that a bundle's sections tell, and how a context is to be made. Out: bytes, private ones and mapped ones.
Pure. Measured peaks are held against it by `benchmarks/memory.py`. All layers are on the processor: what a GPU takes
is not taken off. Knows nothing of this machine: see `room`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod

from gguf import GGMLQuantizationType

from ..bundle.container import LazyStrings, TensorInfo, padded, tensor_nbytes
from ..bundle.projector import PATCH_VALUES
from ..bundle.reading import DRAFTER, EMBEDDER, TEXT, Section
from ..bundle.schema import Layer, Model
from ..bundle.settings import DEFAULT_BUDGET
from ..bundle.validation import numbers
from ..media.embedder import BLOCK_ROWS
from ..native.context import ContextOptions

CELLS = 256  # llama.cpp rounds a cache up to a multiple of this
FLOAT = 4  # bytes
MASK = 2  # bytes of a mask's value, with flash attention
REPACKED_ROWS = 8  # a matrix is repacked where its rows are a multiple of this

# Of a compute buffer, for each row of a micro-batch. llama.cpp's allocator overlaps what is not needed at once; the
# widest point is the feed-forward step, with three rows of its width and up to five of the model's.
FFN_ROWS, HIDDEN_ROWS = 3, 5
BLOCK_WIDTHS = 5  # float32 rows of the model's width for each soft token that the embedder is computing
ACTIVATION = 2  # bytes: a row that is multiplied is converted first, to half precision at most

KEEP = 1 << 30  # bytes of caches that are kept, where nobody asks for more or less

# Private bytes that were measured (Linux, CPython 3.11, glibc): what is there before a model, and for each entry.
PYTHON = 41_000_000  # the interpreter, numpy, llama.cpp and what a question imports
DRAFTER_CONTEXT = 4_000_000  # llama.cpp's graphs for it
HEADER_COPIES = 2  # a header's bytes are kept for rewriting, and once more as values
TOKEN_IN_PYTHON = 80  # its kind and its score, and what reading them leaves
TOKEN, MERGE = 160, 130  # in llama.cpp's vocabulary
CELL, POSITION = 40, 150  # what is noted of each cell of a cache, and of each position that is in use


# ── what the headers tell ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Part:
    """One section: its tensors, and how much there is to read before them. `header` in bytes."""

    tensors: tuple[TensorInfo, ...]
    header: int
    tokens: int
    merges: int

    @classmethod
    def of(cls, section: Section) -> Part:
        listed = [section.metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "merges")]
        tokens, merges = (len(values) if isinstance(values, LazyStrings) else 0 for values in listed)
        header = section.header
        return cls(tuple(section.tensors.values()), header.data_start - header.start, tokens, merges)

    @cached_property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Facts:
    """All that the memory of a model depends on. `limit` is its longest context, `window` the sliding layers' reach."""

    text: Part
    embedder: Part | None
    drafter: Part | None
    model: Model
    limit: int
    window: int

    @classmethod
    def of(cls, sections: Iterable[Section]) -> Facts:
        """Read them from a bundle's sections, written or planned, once they were checked."""
        found = {section.architecture: section for section in sections}
        parts = {name: Part.of(section) for name, section in found.items()}
        text = found[TEXT]
        return cls(
            text=parts[TEXT],
            embedder=parts.get(EMBEDDER),
            drafter=parts.get(DRAFTER),
            model=numbers(text),
            limit=text.metadata[f"{TEXT}.context_length"],
            window=text.metadata[f"{TEXT}.attention.sliding_window"],
        )


# ── the sum ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Bytes:
    """`private` bytes are this process's alone; `mapped` ones are pages of the file, which the system may take back
    and read again: slow, but not lost.
    """

    private: int = 0
    mapped: int = 0

    @property
    def total(self) -> int:
        return self.private + self.mapped


@dataclass(frozen=True)
class Memory:
    """Bytes by kind.

    `weights`: mapped where they are used as they lie, private where llama.cpp rearranges a copy for this processor.
    `cache`: keys and values. `kept`: the sliding layers of each sequence, as they were where its last prompt ended, or
    where it made room. `compute`: llama.cpp's buffers. `outputs`: rows of logits. `vocabulary`: as llama.cpp holds it.
    `embedder`: its matrices, and the work on one picture. `drafter`: everything of it. `python`: the interpreter,
    libraries and the file's headers.
    """

    weights: Bytes
    cache: Bytes
    kept: Bytes
    compute: Bytes
    outputs: Bytes
    vocabulary: Bytes
    embedder: Bytes
    drafter: Bytes
    python: Bytes

    @property
    def private(self) -> int:
        return sum(getattr(self, f.name).private for f in fields(self))

    @property
    def mapped(self) -> int:
        return sum(getattr(self, f.name).mapped for f in fields(self))

    @property
    def total(self) -> int:
        return self.private + self.mapped


def memory(
    facts: Facts,
    options: ContextOptions,
    *,
    repacked: Collection[str],
    media: bool = True,
    drafts: bool = True,
    image_tokens: int = DEFAULT_BUDGET,
    keep: int = KEEP,
    used: int | None = None,
) -> Memory:
    """What a model takes once it is loaded and has read a long prompt.

    `options.context` positions for each of `options.sequences`. `repacked`: types that this processor has copied
    (`library.repacked_types`). `media`: the embedder is used, for pictures of up to `image_tokens`. `drafts`: the
    drafter is loaded, where there is one. `keep`: bytes that may be kept of caches. `used`: positions that one sequence
    has in use, and the others none, for measurements; None: all.
    """
    in_use = options.sequences if used is None else 1
    used = options.context if used is None else used
    drafter = facts.drafter if drafts else None
    embedder = facts.embedder if media else None
    parts = [part for part in (facts.text, facts.embedder, facts.drafter) if part]
    outputs = options.outputs if drafter else options.sequences
    rows_of_logits = FLOAT * (facts.text.tokens + facts.model.width)
    return Memory(
        weights=_weights(facts.text, repacked),
        cache=Bytes(options.sequences * sum(caches(facts, options))),
        kept=Bytes(min(keep, in_use * _window(facts, options, used))),
        compute=Bytes(_compute(facts, options, used)),
        outputs=Bytes(outputs * rows_of_logits),
        vocabulary=Bytes(_vocabulary(facts.text)),
        embedder=_embedder(embedder, facts.model.width, image_tokens) if embedder else Bytes(),
        drafter=_drafter(drafter, facts, options, repacked) if drafter else Bytes(),
        python=Bytes(
            PYTHON
            + HEADER_COPIES * sum(part.header for part in parts)
            + TOKEN_IN_PYTHON * sum(part.tokens for part in parts)
        ),
    )


def _weights(part: Part, repacked: Collection[str]) -> Bytes:
    copied = [tensor for tensor in part.tensors if _is_repacked(tensor, repacked)]
    tied = all(tensor.name != "output.weight" for tensor in part.tensors)
    private = sum(t.nbytes for t in copied if tied or t.name != "token_embd.weight")
    # Rows of the embedding are looked up where they lie, also where a copy of it makes the logits.
    return Bytes(private, part.size - sum(t.nbytes for t in copied if t.name != "token_embd.weight"))


def _is_repacked(tensor: TensorInfo, repacked: Collection[str]) -> bool:
    rows = tensor.shape[0]
    return tensor.type.name in repacked and len(tensor.shape) == 2 and rows > 1 and rows % REPACKED_ROWS == 0


def _cells(facts: Facts, options: ContextOptions) -> tuple[int, int]:
    """Positions that full layers have room for, and sliding layers."""
    full = padded(max(options.context, options.rows), CELLS)
    return full, padded(min(full, facts.window + options.micro_batch), CELLS)


def caches(facts: Facts, options: ContextOptions) -> list[int]:
    """Bytes of each layer's keys and values, for one sequence."""
    full, sliding = _cells(facts, options)
    return [(sliding if layer.sliding else full) * row for layer, row in _rows(facts, options)]


def _window(facts: Facts, options: ContextOptions, used: int) -> int:
    """What is kept of the sliding layers, where they will not hold all of the context: of a prompt's end, or of a
    conversation that made room.
    """
    if options.context <= facts.window + options.micro_batch:
        return 0
    return min(used, facts.window) * sum(row for layer, row in _rows(facts, options) if layer.sliding)


def _rows(facts: Facts, options: ContextOptions) -> list[tuple[Layer, int]]:
    """Each layer, and the bytes of a key and a value in it."""
    kind = GGMLQuantizationType[options.kv_type.upper()]
    flash = options.flash_attention != "off"
    widths = [layer.kv_heads * layer.head for layer in facts.model.layers]
    widest = max(widths)  # without flash attention, values lie in rows of one width
    return [
        (layer, tensor_nbytes((width,), kind) + tensor_nbytes((width if flash else widest,), kind))
        for layer, width in zip(facts.model.layers, widths, strict=True)
    ]


def _compute(facts: Facts, options: ContextOptions, used: int) -> int:
    full, sliding = (min(cells, padded(used, CELLS)) for cells in _cells(facts, options))
    hidden = FLOAT * HIDDEN_ROWS * facts.model.width
    ffn = max(layer.ffn for layer in facts.model.layers)
    row = hidden + FLOAT * FFN_ROWS * ffn
    mask = MASK * (full + sliding)
    if options.flash_attention == "off":  # every head's scores of a whole row at once
        row = max(row, hidden + FLOAT * full * max(layer.heads for layer in facts.model.layers))
        mask *= FLOAT // MASK
    notes = options.sequences * (CELL * sum(_cells(facts, options)) + POSITION * used)
    return options.micro_batch * int(row + mask + ACTIVATION * ffn) + notes


def _vocabulary(part: Part) -> int:
    return TOKEN * part.tokens + MERGE * part.merges


def _embedder(part: Part, hidden: int, image_tokens: int) -> Bytes:
    """Matrices that are not stored as float32 are converted. A picture's patches and soft tokens are held, and some
    rows of the model's width while a block of them is computed.
    """
    as_stored = sum(t.nbytes for t in part.tensors if t.type is GGMLQuantizationType.F32)
    converted = sum(prod(t.shape) for t in part.tensors if t.type is not GGMLQuantizationType.F32)
    picture = image_tokens * (PATCH_VALUES + hidden) + min(image_tokens, BLOCK_ROWS) * BLOCK_WIDTHS * hidden
    return Bytes(FLOAT * (converted + picture), as_stored)


def _drafter(part: Part, facts: Facts, options: ContextOptions, repacked: Collection[str]) -> Bytes:
    """Its weights, loaded without a vocabulary, and a context that computes a row at a time on the target's cache."""
    weights = _weights(part, repacked)
    row = FLOAT * (2 * part.tokens + facts.model.width) + MASK * sum(_cells(facts, options))
    return Bytes(weights.private + DRAFTER_CONTEXT + row, weights.mapped)
