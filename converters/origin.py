"""Finds a source: a folder, a GGUF file, or a Hub id, which is downloaded once into the Hub's cache.

In: the caller's argument. Out: an `Origin`, a local folder or file with a name. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4gguf.errors import ConversionError, InputError

from .safetensors import StoredTensor, described, weight_files

Report = Callable[[int, int], None]  # bytes done, total bytes

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
WEIGHTS = "model*.safetensors"
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
    "model.safetensors.index.json",
    WEIGHTS,
)


@dataclass(frozen=True)
class Origin:
    """A folder with a checkpoint, or a GGUF file. `name` is the folder's or file's name, without the Hub's owner.

    `tensors`: the tensor tables, where only the headers of the weights were downloaded (enough for a plan); else None.
    `repo`: the Hub id that it came from, or None.
    """

    path: Path
    name: str
    tensors: Mapping[str, StoredTensor] | None = None
    repo: str | None = None

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()


def locate(source: str | Path, report: Report = lambda done, total: None, *, plan_only: bool = False) -> Origin:
    """Find a checkpoint, downloading it when `source` is a Hub id (`owner/name`, or `owner/name@revision`).

    `plan_only` downloads the small files and the headers of the weights only, a few megabytes.
    Raises InputError when there is no such source, ConversionError when it is incomplete or cannot be downloaded.
    """
    path = Path(source).expanduser()
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(4) == b"GGUF":
                return Origin(path, path.stem)
        raise InputError(f"{path}: is a file but no GGUF; name the folder of the checkpoint, or a .gguf file")
    if path.is_dir():
        _check_folder(path)
        return Origin(path, path.resolve().name)
    text = str(source)
    if path.suffix == ".gguf" or (len(path.parts) > 1 and Path(path.parts[0]).exists()):  # a local path, not a Hub id
        raise InputError(f"{source}: no such folder or file")
    if not HUB_ID.fullmatch(text) or isinstance(source, Path):
        raise InputError(f"{source}: no such folder or file, and not a Hub id such as google/gemma-4-12B-it")
    name, _, revision = text.partition("@")
    with _hub_errors(name, revision):
        folder, tensors = _download(name, revision or None, report, plan_only)
    _check_folder(folder)
    return Origin(folder, name.partition("/")[2], tensors, name)


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors")):
        raise ConversionError(
            f"{folder}: is a LoRA adapter, not a model; merge it into its base model first (peft: merge_and_unload)"
        )
    if not (folder / "config.json").is_file():
        raise ConversionError(
            f"{folder}: has no config.json, so it is no checkpoint folder; name the folder that has it"
        )


def _download(
    name: str, revision: str | None, report: Report, plan_only: bool
) -> tuple[Path, Mapping[str, StoredTensor] | None]:
    import huggingface_hub as hub  # here, because it is slow to import

    wanted = [pattern for pattern in NEEDED if not plan_only or pattern != WEIGHTS]
    bar = _silent_bar(report)
    folder = Path(str(hub.snapshot_download(name, revision=revision, allow_patterns=wanted, tqdm_class=bar)))
    if not plan_only:
        return folder, None
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        header = hub.parse_safetensors_file_metadata(name, file, revision=revision)
        tensors |= described(folder / file, {tensor: vars(entry) for tensor, entry in header.tensors.items()})
    return folder, tensors


@contextmanager
def _hub_errors(name: str, revision: str) -> Iterator[None]:
    """Turns the Hub client's errors into ours."""
    from huggingface_hub import errors

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
            f"{name}: no such folder here and no such model on the Hub (a private one needs `hf auth login`)"
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise ConversionError(f"{name}: has no safetensors weights on the Hub; take a checkpoint that has") from None
    except (OSError, errors.HfHubHTTPError, errors.SafetensorsParsingError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConversionError(
            f"{name}: no such folder here, and it cannot be downloaded ({reason}); "
            "run the same command again, it goes on where it stopped"
        ) from None


def _silent_bar(report: Report) -> Any:
    """A progress bar class for the Hub's client that displays nothing and passes the bytes to `report`."""
    from huggingface_hub.utils.tqdm import tqdm

    start: Any = tqdm.__init__

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts = options.get("name") == "huggingface_hub.snapshot_download"  # the bar of bytes on disk
            self.done = 0
            start(self, *args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                self.done += int(n)
                report(self.done, max(self.done, int(self.total or 0)))

    return Bar
