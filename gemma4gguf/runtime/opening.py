"""How a bundle is opened: every option of `Gemma4`, checked before a file is touched.

In: options as users give them, then the opened bundle. Out: how its engine is to be made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from ..arguments import LONGEST, MOST_THREADS, local_path, one_of, whole
from ..bundle.reading import DRAFTER, Bundle
from ..bundle.settings import image_budget
from ..errors import InputError
from ..media.image import check_budget
from ..native.context import FLASH_ATTENTION, KV_TYPES, ContextOptions
from .engine import EngineOptions
from .memory import KEEP

MOST_PARALLEL = 16
MICRO_BATCH, MOST_MICRO_BATCH = 512, 4096  # rows of a prompt that are computed together
MOST_DRAFTS = ContextOptions.outputs - 1  # tokens drafted in one step: they and the one before them need logits

KVType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]


class OpenOptions(TypedDict, total=False):
    """Keywords of `Gemma4`; `Opening` has the defaults."""

    context: int | Literal["max"] | None
    threads: int | None
    threads_batch: int | None
    micro_batch: int
    repack: bool
    gpu_layers: int | Literal["auto"] | None
    kv_type: KVType
    flash_attention: Literal["auto", "on", "off"]
    image_tokens: int | None
    draft: int | Literal["auto", "off"]
    parallel: int
    cache_memory: int
    cache_dir: str | os.PathLike[str] | None
    cache_disk: int
    debug: bool
    force: bool
    isolate: bool


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Options of `Gemma4`, where they are explained. Raises InputError for what can be told without the file."""

    context: int | Literal["max"] | None = None
    threads: int | None = None
    threads_batch: int | None = None
    micro_batch: int = MICRO_BATCH
    repack: bool = True
    gpu_layers: int | Literal["auto"] | None = None
    kv_type: KVType = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    image_tokens: int | None = None
    draft: int | Literal["auto", "off"] = "auto"
    parallel: int = 1
    cache_memory: int = KEEP  # bytes
    cache_dir: str | os.PathLike[str] | None = None
    cache_disk: int = 4 << 30  # bytes
    debug: bool = False
    force: bool = False
    isolate: bool = False

    def __post_init__(self) -> None:
        if self.draft not in ("auto", "off"):
            whole("draft", self.draft, lambda v: 0 <= v <= MOST_DRAFTS, f"auto, off or a number up to {MOST_DRAFTS}")
        if self.gpu_layers not in (None, "auto"):
            whole("gpu_layers", self.gpu_layers, lambda v: v >= -1, "auto or a whole number")
        one_of("kv_type", self.kv_type, tuple(KV_TYPES))
        one_of("flash_attention", self.flash_attention, tuple(FLASH_ATTENTION))
        if self.context not in (None, LONGEST):
            whole("context", self.context, lambda v: v >= 1, f"{LONGEST} or a whole number, at least 1")
        for name, threads in (("threads", self.threads), ("threads_batch", self.threads_batch)):
            if threads is not None:
                whole(name, threads, lambda v: 1 <= v <= MOST_THREADS, f"a whole number, 1 to {MOST_THREADS}")
        expected = f"a whole number, 1 to {MOST_MICRO_BATCH}"
        whole("micro_batch", self.micro_batch, lambda v: 1 <= v <= MOST_MICRO_BATCH, expected)
        whole("parallel", self.parallel, lambda v: 1 <= v <= MOST_PARALLEL, f"1 to {MOST_PARALLEL}")
        whole("cache_memory", self.cache_memory, lambda v: v >= 0, "bytes, at least 0")
        whole("cache_disk", self.cache_disk, lambda v: v >= 0, "bytes, at least 0")
        if self.cache_dir is not None and local_path(self.cache_dir).is_file():
            raise InputError(f"cache_dir is {str(self.cache_dir)!r}, expected a folder")

    def engine_options(self, bundle: Bundle) -> EngineOptions:
        """The same for a checked bundle. A context of 0 is still to be chosen."""
        metadata = bundle.text.metadata
        image_tokens = image_budget(metadata) if self.image_tokens is None else self.image_tokens
        check_budget(image_tokens)
        limit = metadata["gemma4.context_length"]
        context = 0 if self.context in (None, LONGEST) else int(self.context)
        if context > limit:
            raise InputError(f"context is {context:,}, the model was made for at most {limit:,}")
        if self.draft not in ("auto", "off", 0):
            bundle.require(DRAFTER)
        micro_batch, outputs = int(self.micro_batch), ContextOptions.outputs * int(self.parallel)
        return EngineOptions(
            ContextOptions(
                context=context,
                sequences=int(self.parallel),
                batch=micro_batch,
                micro_batch=max(micro_batch, image_tokens, outputs),  # a picture is never divided, nor is a step
                outputs=outputs,
                threads=None if self.threads is None else int(self.threads),
                threads_batch=None if self.threads_batch is None else int(self.threads_batch),
                kv_type=self.kv_type,
                flash_attention=self.flash_attention,
            ),
            image_tokens=image_tokens,
            repack=self.repack,
            gpu_layers=-1 if self.gpu_layers in (None, "auto") else int(self.gpu_layers),
            draft=self.draft if self.draft == "auto" else 0 if self.draft == "off" else int(self.draft),
            debug=self.debug,
            cache_memory=int(self.cache_memory),
            cache_dir=None if self.cache_dir is None else local_path(self.cache_dir).absolute(),
            cache_disk=int(self.cache_disk),
        )
