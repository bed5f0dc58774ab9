"""Finds a checkpoint's weights: which of several files they are in, and what the tensors are called without wrappers.

In: a folder, or the names of the files on the Hub. Out: `StoredTensor`s by plain name, and notes. Files are chosen as
transformers chooses them. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma4gguf.errors import ConversionError

from .jsonfile import read_json
from .safetensors import StoredTensor, listed, read_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter"  # the beginning of an adapter's file names
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
# What torch.compile, FSDP and activation checkpointing put into names, and what PEFT and DDP put before them.
_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_BEFORE = ("base_model.model.", "module.")
# Buffers that some tools save. They follow from the config, and may be of any type.
_BUFFER = re.compile(r"(.*\.)?(\w*inv_freq|embed_scale|position_ids|masked_bias)")


@dataclass(frozen=True)
class WeightFiles:
    """The files to read. `promised` is the index's table, tensor -> file, empty without one."""

    names: tuple[str, ...]
    promised: Mapping[str, str]
    notes: tuple[str, ...] = ()


def choose(folder: Path, present: Collection[str]) -> WeightFiles:
    """Choose among the files that are `present`; `folder` holds the index, if there is one.

    As in transformers, `model.safetensors` comes first and an index second. Then whole shards without an index count,
    and then a single file of any name. Raises ConversionError where there are no weights or shards are missing.
    """
    weights = sorted(n for n in present if n.endswith(".safetensors") and "/" not in n and not n.startswith(ADAPTER))
    promised: Mapping[str, str] = {}
    if SINGLE in present:
        names = [SINGLE]
    elif INDEX in present:
        promised = _weight_map(folder / INDEX)
        names = sorted(set(promised.values()))
        _check_present(folder, names, promised, present)
    else:
        names = _without_index(folder, weights, present)
    left = [n for n in weights if n not in names] + ([INDEX] if SINGLE in present and INDEX in present else [])
    notes = (f"the weights are taken from {listed(names, 2)}; not used: {listed(left, 4)}",) if left else ()
    return WeightFiles(tuple(names), promised, notes)


def _without_index(folder: Path, weights: list[str], present: Collection[str]) -> list[str]:
    sets: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in weights:
        if found := _SHARD.fullmatch(name):
            sets[found["stem"], int(found["count"])].append(name)
    whole = [names for (_, count), names in sets.items() if len(names) == count]
    if len(whole) == 1:
        return whole[0]
    if len(whole) > 1:
        raise ConversionError(
            f"{folder}: has {len(whole)} sets of shards and no {INDEX}: {listed([names[0] for names in whole], 4)}; "
            "keep one of them"
        )
    if sets:
        (stem, count), names = max(sets.items(), key=lambda item: len(item[1]))
        every = (f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, min(count, 1000) + 1))
        missing = [n for n in every if n not in names]
        raise ConversionError(f"{folder}: {listed(missing, 4)} missing; get the whole checkpoint again")
    if len(weights) == 1:
        return weights
    if any(name.endswith((".bin", ".pth")) for name in present):
        raise ConversionError(f"{folder}: holds pickled weights only; save the model as safetensors first")
    what = f"{len(weights)} safetensors files but no {INDEX}" if weights else f"neither {SINGLE} nor {INDEX}"
    raise ConversionError(f"{folder}: has {what}; get the whole checkpoint again")


def _weight_map(index: Path) -> Mapping[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(v, str) for v in found.values()):
        raise ConversionError(f"{index}: has no weight_map; get it again")
    bad = next((v for v in found.values() if Path(v).name != v or not v.endswith(".safetensors")), None)
    if bad is not None:
        raise ConversionError(f"{index}: names the file {bad!r}, expected a .safetensors file beside it")
    return found


def _check_present(folder: Path, names: list[str], promised: Mapping[str, str], present: Collection[str]) -> None:
    missing = [n for n in names if n not in present]
    if missing:
        tensors = sorted(t for t, file in promised.items() if file in missing)
        raise ConversionError(
            f"{folder}: {'shard' if len(missing) == 1 else 'shards'} {listed(missing)} missing, with "
            f"{listed(tensors)}; get the whole checkpoint again"
        )


def read_folder(folder: Path) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Every tensor of a checkpoint folder by plain name, and notes.

    Raises ConversionError for a folder without weights, a missing shard (named, with its tensors), or a damaged file.
    """
    files = choose(folder, [p.name for p in folder.iterdir() if p.is_file()])
    return joined(folder, files, (read_file(folder / name, is_buffer) for name in files.names)), files.notes


def joined(folder: Path, files: WeightFiles, tables: Iterable[Mapping[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """The tensors of all files by plain name. Raises ConversionError where the index is wrong or a name is twice."""
    found: dict[str, StoredTensor] = {}
    for table in tables:
        twice = found.keys() & table.keys()
        if twice:
            raise ConversionError(f"{folder}: {listed(sorted(twice), 4)} is in two files; get the checkpoint again")
        found |= table
    lost = sorted(t for t, file in files.promised.items() if t not in found or found[t].path.name != file)
    if lost:
        raise ConversionError(f"{folder}: {INDEX} promises {listed(lost)}, not in the files it names; get them again")
    plain = {plain_name(name): tensor for name, tensor in found.items()}
    if len(plain) < len(found):
        twice = found.keys() - {t.name for t in plain.values()}
        raise ConversionError(f"{folder}: {listed(sorted(twice), 4)} is there twice, once with a wrapper's name")
    return plain


def is_buffer(name: str) -> bool:
    """Whether a tensor is a buffer that follows from the config."""
    return _BUFFER.fullmatch(name) is not None


def plain_name(name: str) -> str:
    """A tensor's name without what torch.compile, FSDP, DDP and PEFT add to it."""
    for part in _INSIDE:
        name = name.replace(part, "")
    while (shorter := next((name.removeprefix(p) for p in _BEFORE if name.startswith(p)), None)) is not None:
        name = shorter
    return name
