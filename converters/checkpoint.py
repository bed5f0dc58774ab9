"""Reads a checkpoint folder into sections that are ready to be planned: tensors matched, keys encoded.

In: a located folder. Out: `Contents`. Knows nothing of storage types; the tables of tensor names are in `gemma4`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT
from gemma4gguf.errors import ConversionError

from . import gemma4, head, metadata
from .config import Config, parse
from .contents import Contents, SectionContents
from .gemma4 import MappedTensor
from .lora import CONFIG as ADAPTER_CONFIG
from .lora import Adapter, merge, read_adapter
from .metadata import Pairs
from .origin import Origin
from .tokenizer import read_tokenizer
from .weights import read_folder

QAT = re.compile(r"(?i)(?:^|[-_./])qat(?:$|[-_.])")


def read_checkpoint(
    origin: Origin, *, drafter: bool = False, text_only: bool = False, lora: Path | None = None
) -> Contents:
    """Read the JSON files and tensor tables of a model's checkpoint folder, or with `drafter` of an MTP drafter's.

    `lora` is the folder of an adapter to merge. Raises ConversionError for another model, and for tensors that are
    unknown, missing or of the wrong shape.
    """
    where = str(origin.path)
    files = metadata.read_files(origin.path, origin.name, origin.repo)
    config = parse(where, files.config)
    if (config.kind == "drafter") != drafter:
        raise ConversionError(
            f"{where}: is a model, not a drafter; give it as the source"
            if drafter
            else f"{where}: is the MTP drafter; give the model as the source and this folder as drafter="
        )
    tokenizer = read_tokenizer(origin.path, files.config, config.text.vocabulary)
    tokens = len(tokenizer.tokens)
    _check_vocabulary(where, config, tokens)
    config, matched, notes = _match(origin, config, tokens, text_only=text_only, lora=lora)
    token_pairs = dict(tokenizer.pairs())
    layers, group = config.text.layers, config.text.heads // config.text.kv_heads[0]

    def pairs(make: Callable[..., Pairs], tensors: tuple[MappedTensor, ...], extra: Pairs) -> Callable[[int], Pairs]:
        return lambda file_type: make(files, config, tensors, file_type) | extra

    if drafter:
        made = pairs(metadata.drafter_pairs, matched.drafter, token_pairs)
        return Contents((SectionContents(DRAFTER, matched.drafter, made, layers, group),), notes)
    made = pairs(metadata.text_pairs, matched.text, token_pairs)
    sections = [SectionContents(TEXT, matched.text, made, layers, group)]
    told = [*notes, *tokenizer.notes, *files.generation.notes]
    if matched.embedder:
        made = pairs(metadata.embedder_pairs, matched.embedder, {})
        sections.append(SectionContents(EMBEDDER, matched.embedder, made))
    else:
        told.append(
            "NO EMBEDDER: "
            + (
                "text_only=True leaves it out"
                if config.kind == "unified"
                else "this checkpoint is a language model alone"
            )
            + "; the bundle reads text and cannot see pictures or hear sound"
        )
    if tokenizer.template is None:
        told.append("NO CHAT TEMPLATE in the checkpoint: gemma4gguf uses its own, other runtimes may not chat")
    named = [origin.name, str(files.config.get("_name_or_path") or "")]
    trained_for = "Q4_0" if any(QAT.search(name) for name in named) else None
    return Contents(tuple(sections), tuple(told), trained_for)


def _match(
    origin: Origin, config: Config, tokens: int, *, text_only: bool, lora: Path | None
) -> tuple[Config, gemma4.Matched, tuple[str, ...]]:
    """The tensors to write, the config with what they say about a tied output, and notes."""
    where = str(origin.path)
    tensors, notes = (dict(origin.tensors), origin.notes) if origin.tensors is not None else read_folder(origin.path)
    output = head.settle(where, config, tensors, tokens, readable=origin.tensors is None)
    tensors, tied, notes = output.tensors, output.tied, (*notes, *output.notes)
    adapter = read_adapter(lora) if lora is not None else None
    if adapter is not None and adapter.unties(tied):
        prefix, tied = gemma4.text_prefix(where, tensors), False
        tensors[prefix + gemma4.HEAD] = tensors[prefix + gemma4.ANCHOR]
    config = replace(config, text=replace(config.text, tied=tied))
    matched = gemma4.match(where, config, tensors, tokens, text_only=text_only)
    if adapter is not None:
        names = gemma4.names(config, tokens)
        unwritten = {n for t, own in names.items() if t.startswith(("v.", "mm.")) for n in own} if text_only else ()
        return config, merge(adapter, matched, names, unwritten), (*notes, _merged(adapter, origin))
    if (origin.path / ADAPTER_CONFIG).is_file():
        notes += (f"the LoRA adapter beside the model was left out; lora={str(origin.path)!r} merges it",)
    return config, matched, notes


def _merged(adapter: Adapter, origin: Origin) -> str:
    """A note on what was merged, and on a base that is called otherwise than the source."""
    told = f"the adapter {adapter.path.name} is merged: {len(adapter.changes)} matrices changed"
    if adapter.replaced:
        told += f", {len(adapter.replaced)} tensors replaced"
    base = adapter.base.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if base and base.lower() != origin.name.lower():
        told += f"; it was made for {adapter.base:.200}"
    return told


def _check_vocabulary(where: str, config: Config, tokens: int) -> None:
    if tokens > config.text.vocabulary:
        raise ConversionError(
            f"{where}: tokenizer.json has {tokens:,} tokens and the model {config.text.vocabulary:,} (vocab_size); "
            "they belong to different models"
        )
