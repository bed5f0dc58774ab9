"""Finds a source: a folder, a GGUF file, or a Hub id, which is downloaded once into the Hub's cache.

In: the caller's argument. Out: an `Origin`, a local folder or file with a name. Knows nothing of models.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4gguf.arguments import local_path
from gemma4gguf.errors import ConversionError, InputError

from .safetensors import StoredTensor, described
from .weights import ADAPTER, INDEX, choose, is_buffer, joined

Report = Callable[[int, int], None]  # bytes done, total bytes

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
NO_WEIGHTS = "has no safetensors weights on the Hub; take a checkpoint that has"
# The files that a conversion reads. Pickles, images and other formats of the weights are not downloaded.
NEEDED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
    "README.md",
    "adapter_config.json",
    INDEX,
)


@dataclass(frozen=True)
class Origin:
    """A folder with a checkpoint, or a GGUF file. `name` is the folder's or file's name, without the Hub's owner.

    `tensors`: the tensor tables, where only the headers of the weights were downloaded (enough for a plan); else None.
    `repo`: the Hub id that it came from, or None. `notes`: lines for the user on how `tensors` were found.
    """

    path: Path
    name: str
    tensors: Mapping[str, StoredTensor] | None = None
    repo: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()


def locate(source: str | Path, report: Report = lambda done, total: None, *, plan_only: bool = False) -> Origin:
    """Find a checkpoint, downloading it when `source` is a Hub id (`owner/name`, or `owner/name@revision`).

    `plan_only` downloads the small files and the headers of the weights only, a few megabytes.
    Raises InputError when there is no such source, ConversionError when it is incomplete or cannot be downloaded.
    """
    path = local_path(source)
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(4) == b"GGUF":
                return Origin(path, path.stem)
        raise InputError(f"{path}: is a file but no GGUF; name the folder of the checkpoint, or a .gguf file")
    if path.is_dir():
        _check_folder(path, [p.name for p in path.iterdir()])
        return Origin(path, path.resolve().name)
    text = str(source)
    if path.suffix == ".gguf" or (len(path.parts) > 1 and Path(path.parts[0]).exists()):  # a local path, not a Hub id
        raise InputError(f"{source}: no such folder or file")
    if not HUB_ID.fullmatch(text) or isinstance(source, Path):
        raise InputError(f"{source}: no such folder or file, and not a Hub id such as google/gemma-4-12B-it")
    name, _, revision = text.partition("@")
    with hub_errors(name, revision):
        return _download(name, revision or None, report, plan_only)


def _check_folder(folder: Path, present: Collection[str]) -> None:
    """Raise ConversionError unless the files that are `present` can be a checkpoint."""
    if "adapter_config.json" in present and not any(
        n.endswith(".safetensors") for n in present if not n.startswith(ADAPTER)
    ):
        raise ConversionError(
            f"{folder}: is a LoRA adapter, not a model; merge it: give its base model as the source and this as lora"
        )
    if "config.json" not in present:
        raise ConversionError(
            f"{folder}: has no config.json, so it is no checkpoint folder; name the folder that has it"
        )


def _download(name: str, revision: str | None, report: Report, plan_only: bool) -> Origin:
    """Download a repository's small files, then the weights files that count, or with `plan_only` their headers."""
    import huggingface_hub as hub  # here, because it is slow to import

    title = name.partition("/")[2]
    bar = _silent_bar(report)

    def fetch(patterns: Sequence[str]) -> Path:
        return Path(str(hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns), tqdm_class=bar)))

    folder = fetch(NEEDED)
    present = _present(name, revision, folder)
    _check_folder(folder, present)
    files = choose(folder, present)
    if not plan_only:
        return Origin(fetch([*NEEDED, *map(glob.escape, files.names)]), title, repo=name)
    tables = []
    for file in files.names:
        header = hub.parse_safetensors_file_metadata(name, file, revision=revision)
        entries = {tensor: vars(entry) for tensor, entry in header.tensors.items() if not is_buffer(tensor)}
        tables.append(described(folder / file, entries))
    return Origin(folder, title, joined(folder, files, tables), name, files.notes)


def _present(name: str, revision: str | None, folder: Path) -> list[str]:
    """The names of a repository's files; without a network, of those that the cache holds."""
    import huggingface_hub as hub

    try:
        return hub.HfApi().list_repo_files(name, revision=revision)
    except Exception:  # of whichever HTTP client the Hub's library uses
        return [path.name for path in folder.iterdir()]


@contextmanager
def hub_errors(name: str, revision: str, *, looked_here: bool = True, missing: str = NO_WEIGHTS) -> Iterator[None]:
    """Turns the Hub client's errors into ours.

    `looked_here`: the name might have been a folder's. `missing`: what to say where the repository lacks a file.
    """
    from huggingface_hub import constants, errors

    broken = errors.HTTPError  # type: ignore[attr-defined]  # of the connection; its module differs by version
    try:
        yield
    except errors.GatedRepoError:
        raise ConversionError(
            f"{name}: access is granted on its page first, https://huggingface.co/{name}; then run `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ConversionError(f"{name}: has no revision {revision!r} on the Hub") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: {'no such folder here and ' if looked_here else ''}no such model on the Hub "
            "(a private one needs `hf auth login`)"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise ConversionError(f"{name}: {missing}") from None
    except (OSError, broken, errors.SafetensorsParsingError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        cure = "run the same command again, it goes on where it stopped"
        if constants.HF_HUB_OFFLINE:
            reason, cure = "offline mode is enabled", "unset HF_HUB_OFFLINE, or give a folder or file that is here"
        raise ConversionError(
            f"{name}: {'no such folder here, and it ' if looked_here else ''}cannot be downloaded ({reason}); {cure}"
        ) from None


def _silent_bar(report: Report) -> Any:
    """A progress bar class for the Hub's client that displays nothing and passes the bytes of all bars to `report`."""
    from huggingface_hub.utils.tqdm import tqdm

    start: Any = tqdm.__init__
    bars: list[Any] = []

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts = options.get("name") == "huggingface_hub.snapshot_download"  # the bar of bytes on disk
            self.done = 0
            start(self, *args, **(options | {"disable": True}))
            bars.extend([self] * self.counts)

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                self.done += int(n)
                done = sum(bar.done for bar in bars)
                report(done, max(done, sum(int(bar.total or 0) for bar in bars)))

    return Bar
