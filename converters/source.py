"""Where a checkpoint comes from: a folder, a Hub id (downloaded once, resumable), or a GGUF file.

In: what the caller typed. Out: a local folder or file, and what to call it. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4gguf.errors import ConversionError, InputError

Report = Callable[[int, int], None]  # bytes so far, bytes in all

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
# All that a conversion reads: never pickles, images, other formats of the weights.
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
    "model*.safetensors",
    "model.safetensors.index.json",
)


@dataclass(frozen=True)
class Origin:
    """A folder with a checkpoint, or a GGUF file; `name` is what it is called, without its owner."""

    path: Path
    name: str

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()


def locate(source: str | Path, report: Report = lambda done, total: None) -> Origin:
    """Find a checkpoint, downloading it when `source` is a Hub id (`owner/name`, or `owner/name@revision`).

    Raises InputError when there is no such thing, ConversionError when it is no whole checkpoint or cannot be fetched.
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
    if not HUB_ID.fullmatch(text) or isinstance(source, Path):
        raise InputError(f"{source}: no such folder or file, and not a Hub id such as google/gemma-4-12B-it")
    name, _, revision = text.partition("@")
    folder = _download(name, revision or None, report)
    _check_folder(folder)
    return Origin(folder, name.partition("/")[2])


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors")):
        raise ConversionError(
            f"{folder}: is a LoRA adapter, not a model; merge it into its base model first (peft: merge_and_unload)"
        )
    if not (folder / "config.json").is_file():
        raise ConversionError(
            f"{folder}: has no config.json, so it is no checkpoint folder; name the folder that has it"
        )


def _download(name: str, revision: str | None, report: Report) -> Path:
    import huggingface_hub as hub  # slow to import, and only needed here
    from huggingface_hub import errors

    patterns = list(NEEDED)
    try:
        files: Any = hub.snapshot_download(name, revision=revision, allow_patterns=patterns, dry_run=True)
        total = sum(f.file_size for f in files if f.will_download)
        folder = hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, tqdm_class=_bar(report, total) if total else None
        )
    except errors.GatedRepoError:
        raise ConversionError(
            f"{name}: access is granted on its page first, https://huggingface.co/{name}; then run `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ConversionError(f"{name}: has no revision {revision!r} on the Hub") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: no such folder here and no such model on the Hub (or `hf auth login` first)"
        ) from None
    except (OSError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(
            f"{name}: cannot be downloaded ({first}); run the same command again, it goes on where it stopped"
        ) from None
    return Path(str(folder))


def _bar(report: Report, total: int) -> Any:
    """A progress bar class that shows nothing and tells us the bytes."""
    import huggingface_hub.utils as utils

    base: Any = vars(utils)["tqdm"]
    done = 0

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts = options.get("name") == "huggingface_hub.snapshot_download"  # the bar of bytes on disk
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if self.counts and n:
                done += int(n)
                report(min(done, total), total)

    return Bar
