"""Whether a model fits into this machine's memory, and how long its context may then be.

In: what a model takes (`memory`) and what this process may use (`machine`). Out: a context's length, or a
MemoryLimitError before anything is loaded.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ..bundle.reading import Bundle
from ..errors import MemoryLimitError
from ..limits import current
from ..machine import data_limit, memory_free, memory_limit
from ..native.library import repacked_types, supports_gpu
from .memory import CELLS, Facts, Memory, memory

if TYPE_CHECKING:  # `gemma4gguf doctor` plans, and loads no engine
    from .engine import EngineOptions

CONTEXTS = (32_768, 16_384, 8_192, 4_096, 2_048)  # positions; the choice where nobody asks for a number
Fit = Literal["fits", "tight", "no"]  # the best first
SPARE = 8  # a plan leaves an eighth of the memory to the system and to other programs


def settled(
    bundle: Bundle,
    options: EngineOptions,
    *,
    longest: bool = False,
    force: bool = False,
    limit: int | None = None,
    own: int | None = None,
) -> EngineOptions:
    """The options with which a bundle can be opened: a context of 0 becomes the longest of CONTEXTS that fits, or with
    `longest` the longest of all that fits into what is free now; no more is kept of caches than what is then left.

    `limit`: bytes of memory, and `own`: of private memory; None: what this machine lets this process use. Warns where
    there is no GPU for the layers that should be on one. Otherwise as `check_room`; what a GPU may hold is not looked
    at.
    """
    gpu = supports_gpu()
    if options.gpu_layers > 0 and not gpu:
        warnings.warn(
            f"gpu_layers is {options.gpu_layers}, but this llama.cpp was built without a GPU: every layer is computed "
            "on the processor",
            stacklevel=4,
        )
    on_gpu = gpu and options.gpu_layers != 0
    facts, repacked = Facts.of(bundle.sections), repacked_types() if options.repack and not on_gpu else frozenset()
    limit = None if on_gpu else limit or _least(memory_limit(), memory_free() if longest else None)
    own = None if on_gpu else own or data_limit()

    def needs(context: int) -> Memory:
        asked = replace(options.context, context=context)
        return memory(
            facts,
            asked,
            repacked=repacked,
            drafts=bool(options.draft),
            image_tokens=options.image_tokens,
            keep=options.cache_memory,
        )

    context = options.context.context
    if not context:
        lengths = every_context(facts.limit) if longest else contexts(facts.limit)
        context = first_that_fits(lengths, needs, limit and usable(limit), own and usable(own))
        _check_cache(str(bundle.path), context, needs(context).cache.total // options.context.sequences)
    needed = needs(context)
    check_room(str(bundle.path), needed, limit, own, force=force)
    keep = options.cache_memory if limit is None else needed.kept.private + max(0, usable(limit) - needed.total)
    return replace(
        options,
        context=replace(options.context, context=context),
        cache_memory=min(options.cache_memory, keep),
    )


def contexts(longest: int) -> list[int]:
    """Lengths to choose from, for a model that was made for `longest` positions."""
    return [min(n, longest) for n in CONTEXTS]


def every_context(longest: int) -> Sequence[int]:
    """The same, where any length will do: whole steps of the cache, and nothing shorter than those of `contexts`."""
    return [longest, *reversed(range(min(CONTEXTS[-1], longest), longest, CELLS))]


def first_that_fits(
    lengths: Sequence[int], needs: Callable[[int], Memory], room: int | None, own: int | None = None
) -> int:
    """The first of `lengths`, longest first, with which everything stays in `room` bytes and what is private in `own`,
    else the last. None: no bound.
    """

    def fits(length: int) -> bool:
        return _within(needs(length), room, own)

    return lengths[min(bisect_left(lengths, True, key=fits), len(lengths) - 1)]


def _within(needed: Memory, room: int | None, own: int | None) -> bool:
    return (room is None or needed.total <= room) and (own is None or needed.private <= own)


def _check_cache(where: str, context: int, size: int) -> None:
    """Raise MemoryLimitError for a cache of `size` bytes that only a damaged or hostile header can ask for."""
    if size > (most := current().cache_bytes):
        raise MemoryLimitError(
            f"{where}: its header asks for a cache of {_gb(size)} at {context:,} positions, expected at most "
            f"{_gb(most)}; get the file again, or choose a context"
        )


def usable(limit: int) -> int:
    """Bytes that a plan may give away of a memory of `limit` bytes."""
    return limit - limit // SPARE


def fit(needed: Memory, limit: int | None, own: int | None = None) -> Fit:
    """What opening does with `limit` bytes of memory and `own` of private memory. None: no limit.

    "fits": it opens with what a plan gives away. "tight": it opens, and either takes some of what a plan leaves to the
    system, or pages of the file will be read again and again. "no": it is refused.
    """
    most = _least(limit, own)
    if most is not None and needed.private > most:
        return "no"
    return "fits" if _within(needed, limit and usable(limit), own and usable(own)) else "tight"


def check_room(where: str, needed: Memory, limit: int | None, own: int | None = None, *, force: bool = False) -> None:
    """Raise MemoryLimitError where the private part of `needed` cannot fit into `limit` bytes, or into `own`.

    Warns where it fits and the mapped part does not, and where `force` makes a warning of the error. None: no limit.
    """
    most = _least(limit, own)
    if most is None or fit(needed, limit, own) != "no":
        if limit is not None and needed.total > limit:
            warnings.warn(
                f"{where}: takes {_gb(needed.total)} of memory with the file's own pages, and this process may use "
                f"{_gb(limit)}: pages will be read from the disk again and again, which is slow; choose a smaller type",
                stacklevel=4,
            )
        return
    reason = (
        f"{where}: takes {_gb(needed.private)} of memory of its own ({_gb(needed.weights.private)} of weights, "
        f"{_gb(needed.cache.private)} of cache), and this process may use {_gb(most)}"
    )
    if not force:
        raise MemoryLimitError(f"{reason}; choose a smaller context, kv_type q8_0 or a smaller type, or force=True")
    warnings.warn(reason, stacklevel=4)


def _least(*known: int | None) -> int | None:
    return min((n for n in known if n is not None), default=None)


def _gb(n: int) -> str:
    return f"{n / 1e9:.2f} GB"
