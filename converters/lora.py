"""Reads a LoRA adapter of PEFT's and merges it into the tensors of its base model, in float32, slab by slab.

In: an adapter's folder, untrusted, and the tensors that are to be written. Out: the same tensors with their changes.
Reads no weights of the base model; needs neither PEFT nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from gemma4gguf.errors import ConversionError

from .config import is_number
from .gemma4 import ANCHOR, HEAD, TEXT_PREFIXES, LowRank, MappedTensor, Matched
from .jsonfile import read_json
from .safetensors import StoredTensor, listed, read_file
from .weights import plain_name

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 4096
_PARTS = re.compile(r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")
# What PEFT offers beyond a low-rank product: each would need arithmetic of its own.
_UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "trainable_token_indices"),
    *("layer_replication", "target_parameters", "arrow_config", "kasa_config", "monteclora_config"),
)
_INITIALISED = (None, True, False, "gaussian", "eva", "orthogonal")  # the others change the base model too


@dataclass(frozen=True)
class Adapter:
    """`changes`: low-rank products by the base tensor's name. `replaced`: whole tensors by name.

    `base`: its model's name.
    """

    path: Path
    changes: Mapping[str, LowRank]
    replaced: Mapping[str, StoredTensor]
    base: str
    ties: bool = False  # PEFT's ensure_weight_tying: what changes the embedding changes the output too

    @property
    def names(self) -> set[str]:
        return {*self.changes, *self.replaced}

    def unties(self, tied: bool) -> bool:
        """Whether the output needs a matrix of its own: PEFT changes the embedding and the output each by itself."""
        head, embedding = (any(p + name in self.names for p in TEXT_PREFIXES) for name in (HEAD, ANCHOR))
        return tied and (head or (embedding and not self.ties))


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's config and tensor table. Raises ConversionError unless it can be merged."""
    if not (folder / CONFIG).is_file():
        raise ConversionError(f"{folder}: has no {CONFIG}, so it is no LoRA adapter; name the folder that has it")
    config = read_json(folder / CONFIG)
    _check_kind(folder, config)
    if not (folder / WEIGHTS).is_file():
        raise ConversionError(f"{folder}: has no {WEIGHTS}; save the adapter as safetensors first")
    parts: dict[str, dict[str, StoredTensor]] = {}
    replaced = {}
    for name, stored in read_file(folder / WEIGHTS).items():
        plain = plain_name(name).replace(".base_layer.", ".")  # beside its change, PEFT may save the whole
        if found := _PARTS.fullmatch(plain):
            parts.setdefault(found["module"], {})[found["part"]] = stored
        elif "lora_" in plain or "trainable_tokens" in plain:
            raise ConversionError(f"{stored.path}: {name!r:.200} is of a kind that cannot be merged")
        else:
            replaced[plain] = stored
    scales = _Scales(folder, config)
    changes = {f"{module}.weight": _change(folder, module, found, scales) for module, found in parts.items()}
    if not changes and not replaced:
        raise ConversionError(f"{folder}: the adapter holds no tensors; get it again")
    base = config.get("base_model_name_or_path")
    base = base if isinstance(base, str) else ""
    return Adapter(folder, changes, replaced, base, bool(config.get("ensure_weight_tying")))


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConversionError(f"{folder}: is an adapter of type {kind!r:.40}, expected 'LORA'; merge it with PEFT")
    unsupported = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("init_lora_weights") not in _INITIALISED:
        unsupported.append(f"init_lora_weights {config['init_lora_weights']!r:.40}")
    if unsupported:
        raise ConversionError(
            f"{folder}: uses {', '.join(unsupported)}, which cannot be merged here; merge it with PEFT"
        )


class _Scales:
    """How strongly each module's product counts: alpha / rank, or alpha / sqrt(rank)."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.where = f"{folder / CONFIG}"
        self.rank, self.alpha = (
            self._number("r", config.get("r", 8)),
            self._number("lora_alpha", config.get("lora_alpha", 8)),
        )
        self.ranks, self.alphas = (self._patterns(key, config.get(key)) for key in ("rank_pattern", "alpha_pattern"))
        self.rooted = bool(config.get("use_rslora"))

    def of(self, module: str, rank: int) -> float:
        """The factor of a module whose matrices have this rank. Raises ConversionError for another rank than said."""
        expected = self._first(self.ranks, module, self.rank)
        if rank != expected:
            raise ConversionError(f"{self.where}: says rank {expected:g} for {module:.200}, its matrices have {rank}")
        return self._first(self.alphas, module, self.alpha) / (sqrt(rank) if self.rooted else rank)

    def _number(self, key: str, value: Any) -> float:
        if not is_number(value) or value <= 0:
            raise ConversionError(f"{self.where}: {key} is {value!r:.80}, expected a positive number")
        return float(value)

    def _patterns(self, key: str, value: Any) -> list[tuple[re.Pattern[str], float]]:
        """PEFT's rule: a pattern is a regular expression that matches the end of a module's name, from a dot on."""
        if value is None:
            return []
        if not isinstance(value, dict):
            raise ConversionError(f"{self.where}: {key} is {value!r:.80}, expected an object")
        found = []
        for pattern, number in value.items():
            try:
                if len(pattern) > 256 or re.search(r"[)\]][*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 2:
                    raise ConversionError(f"{self.where}: the pattern {pattern!r:.80} in {key} is too complex")
                found.append((re.compile(rf"(.*\.)?({pattern})$"), self._number(key, number)))
            except re.error as error:
                raise ConversionError(f"{self.where}: {pattern!r:.80} is not a regular expression ({error})") from None
        return found

    @staticmethod
    def _first(patterns: Sequence[tuple[re.Pattern[str], float]], module: str, default: float) -> float:
        return next((number for pattern, number in patterns if pattern.match(module)), default)


def _change(folder: Path, module: str, parts: Mapping[str, StoredTensor], scales: _Scales) -> LowRank:
    embedding = "lora_embedding_A" in parts
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    if set(parts) != set(names):
        raise ConversionError(f"{folder}: {module:.200} has {listed(sorted(parts))}, expected {' and '.join(names)}")
    a, b = (parts[name] for name in names)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not 0 < a.shape[0] <= MAX_RANK:
        raise ConversionError(
            f"{folder}: {module:.200} has matrices of {list(a.shape)} and {list(b.shape)}, expected [rank, columns] "
            "and [rows, rank]"
        )
    return LowRank(a, b, np.float32(scales.of(module, a.shape[0])), embedding)


def merge(
    adapter: Adapter, matched: Matched, names: Mapping[str, Sequence[str]], optional: Collection[str] = ()
) -> Matched:
    """The model's tensors with the adapter's changes. `names[t.name]`: what tensor t may be called in a checkpoint.

    Raises ConversionError for a change of another shape, and for one that finds no tensor and is not `optional`.
    """
    used: set[str] = set()
    text, embedder = (
        tuple(_changed(adapter, tensor, names.get(tensor.name, ()), used) for tensor in tensors)
        for tensors in (matched.text, matched.embedder)
    )
    left = sorted(adapter.names - used - set(optional))
    if left:
        raise _of_another_model(adapter, f"changes {listed(left, 4)}, which the model does not have")
    return Matched(text, embedder)


def _changed(adapter: Adapter, tensor: MappedTensor, names: Sequence[str], used: set[str]) -> MappedTensor:
    name = next((n for n in names if n in adapter.names), None)
    if name is None or tensor.stored is None:
        return tensor
    used.add(name)
    change, whole = adapter.changes.get(name), adapter.replaced.get(name)
    for found in (change, whole):
        if found is not None and found.shape != tensor.stored.shape:
            what = f"changes {name} as {list(found.shape)}, the model has {list(tensor.stored.shape)}"
            raise _of_another_model(adapter, what)
    return replace(tensor, stored=whole or tensor.stored, change=change)


def _of_another_model(adapter: Adapter, what: str) -> ConversionError:
    base = f" ({adapter.base:.200})" if adapter.base else ""
    return ConversionError(f"{adapter.path}: {what}; the adapter is of another model{base}")
