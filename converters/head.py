"""Decides whether a checkpoint's output matrix (lm_head) is its embedding, as transformers does: by comparing them.

In: the checkpoint's tensors. Out: the same tensors with at most one of the two names the tables ask for. Reads both
matrices where both are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma4gguf.errors import ConversionError

from . import rows
from .config import Config
from .gemma4 import ANCHOR, HEAD, TEXT_PREFIXES, text_prefix
from .safetensors import StoredTensor


@dataclass(frozen=True)
class Head:
    """The tensors to match, whether the output is tied to the embedding, and notes for the user."""

    tensors: dict[str, StoredTensor]
    tied: bool
    notes: tuple[str, ...] = ()


def settle(where: str, config: Config, tensors: dict[str, StoredTensor], tokens: int, *, readable: bool = True) -> Head:
    """Find lm_head and compare it with the embedding.

    Equal to the embedding: it is left out. Different: it is kept, whatever the config says. Alone: it is the embedding
    too. `readable` False: only the tensor tables are there, and the config's word counts. Raises ConversionError for a
    drafter with an output of its own, which llama.cpp cannot run.
    """
    tied = config.text.tied
    names = [n for n in dict.fromkeys(p + HEAD for p in ("", *TEXT_PREFIXES)) if n in tensors]
    if not names:
        return Head(tensors, tied)
    prefix = text_prefix(where, tensors)
    left = dict(tensors)
    head = left.pop(names[0])
    embedding = left.get(prefix + ANCHOR)
    if embedding is None and tied:
        return Head(left | {prefix + ANCHOR: head}, tied)
    if tied and (not readable or (embedding is not None and rows.equal(embedding, head, tokens))):
        note = (
            "equals the embedding" if readable else "was not compared with the embedding yet; it is kept if it differs"
        )
        return Head(left, tied, (f"{names[0]} was left out: it {note}",))
    if config.kind == "drafter":
        raise ConversionError(
            f"{where}: the drafter's {names[0]} differs from its embedding; llama.cpp runs no such drafter"
        )
    notes = (f"{names[0]} differs from the embedding and was kept, though the config ties them",) if tied else ()
    return Head(left | {prefix + HEAD: head}, False, notes)
