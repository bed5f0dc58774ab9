"""How many layers a GPU has room for: computed from the headers, held against what is free there.

In: a bundle and how its context is to be made. Out: a number of layers. Runs in the process that loads: asking a GPU
for its memory takes some of it.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from ..bundle.reading import Bundle
from ..native.context import ContextOptions
from ..native.library import gpu_memory
from .memory import Facts, caches, memory

MARGIN = 1 << 30  # bytes of each GPU that stay free, for what is not counted and for other programs
_BLOCK = re.compile(r"blk\.(\d+)\.")


def gpu_layers(bundle: Bundle, options: ContextOptions, *, drafts: bool) -> int:
    """As many layers as the GPUs have room for; -1, which is all, where all fit or no GPU tells its memory. Warns where
    some do not fit.
    """
    free = gpu_memory()
    if not free:
        return -1
    needed = on_gpu(Facts.of(bundle.sections), options, drafts=drafts)
    layers, whole = that_fit(needed, free), len(needed) - 1
    if layers == whole:
        return -1
    warnings.warn(
        f"{bundle.path}: {sum(free) / 1e9:.1f} GB are free on the GPU, and all of the model takes "
        f"{needed[-1] / 1e9:.1f} GB there: {layers} of {whole} layers are computed on it; a smaller context or type "
        "makes room for more",
        stacklevel=4,
    )
    return layers


def on_gpu(facts: Facts, options: ContextOptions, *, drafts: bool) -> list[int]:
    """Bytes on a GPU by the number of layers there, from none to all. llama.cpp counts the output matrix as one, and
    puts it there first, then the last layers. The drafter is small, and goes with the first.
    """
    weights = Counter[str]()
    for tensor in facts.text.tensors:
        block = _BLOCK.match(tensor.name)
        weights[block[1] if block else tensor.name] += tensor.nbytes
    output = weights["output.weight"] or weights["token_embd.weight"]
    whole = memory(facts, options, repacked=(), drafts=drafts)
    first = output + whole.compute.private + whole.drafter.total
    layers = [weights[str(at)] + options.sequences * cache for at, cache in enumerate(caches(facts, options))]
    return list(accumulate([first, *reversed(layers)], initial=0))


def that_fit(needed: Sequence[int], free: Sequence[int]) -> int:
    """How many layers fit into GPUs with so many bytes free."""
    return bisect_right(needed, sum(max(0, size - MARGIN) for size in free)) - 1
