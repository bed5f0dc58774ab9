"""Find the models folder, and the file that is meant by a name.

What somebody gave as a model comes in: a path, the name of a model in the models folder, or the Hub id that it was
pulled from. A path goes out, or an InputError that says what to type. This module opens no model.

A model NAME is the file NAME.gguf. The folder .NAME beside it holds where it was pulled from (RECORD) and what is not
finished of it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..arguments import local_path
from ..errors import InputError

VARIABLE = "GEMMA4GGUF_MODELS"
SUFFIX = ".gguf"
# Where users' data lies, if not in XDG_DATA_HOME or ~/.local/share: a variable, and the default where it is not set.
_DATA = {"win32": ("LOCALAPPDATA", "~/AppData/Local"), "darwin": ("", "~/Library/Application Support")}
RECORD, LOCK = "pulled.json", "lock"

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<type>[\w./-]+))?")
_HUB_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[\w-][\w.-]*/[\w-][\w.-]*(?::[\w.-]+)?)"
    r"(?:/(?:resolve|blob|raw)/[^/]+/(?P<file>[^?#]+\.gguf))?.*"
)


def models_folder() -> Path:
    """Where models are kept: GEMMA4GGUF_MODELS, or a folder for the user's data. It need not exist."""
    variable, default = _DATA.get(sys.platform, ("XDG_DATA_HOME", "~/.local/share"))
    data = os.environ.get(variable) or default
    given = os.environ.get(VARIABLE) or f"{data}/gemma4gguf/models"
    return local_path(given).absolute()


def model_names() -> list[str]:
    """The names of the models in the models folder, in order."""
    files = models_folder().glob(f"*{SUFFIX}")
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.is_file() and not file.name.startswith("."))


def hidden_folder(name: str) -> Path:
    """What is kept beside a model, finished or not."""
    return models_folder() / f".{name}"


@dataclass(frozen=True)
class Record:
    """Where a model was pulled from: repository, type of the text model, commit, licence, SHA-256 digests of its files
    in the order of their sections.
    """

    repo: str
    type: str
    commit: str
    licence: str
    sha256: tuple[str, ...]


def read_record(name: str) -> Record | None:
    """The record of a model that was pulled; None for others, and where the record is damaged."""
    try:
        found = json.loads((hidden_folder(name) / RECORD).read_text("utf-8"))
        repo, kind, commit, licence = (str(found[key]) for key in ("repo", "type", "commit", "licence"))
        return Record(repo, kind, commit, licence, tuple(map(str, found["sha256"])))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def find_model(given: str | os.PathLike[str]) -> Path:
    """The path that is meant by `given`: an existing file, else a name in the models folder, else a pulled Hub id.

    A path that leads nowhere comes back as it is. Raises InputError for names, addresses and Hub ids of no model here.
    """
    path, text = local_path(given), os.path.expanduser(given)  # noqa: PTH111 (a Path would lose "./")
    if _is_file(path):
        return path
    text = re.sub(r"^(\w{2,}):/+", r"\1://", text)  # a Path keeps one slash of an address
    address = _HUB_ADDRESS.fullmatch(text)
    if address or "://" in text:
        what = f"{address['id']}:{address['file']}" if address and address["file"] else address and address["id"]
        cure = f"`gemma4gguf pull {what}` fetches it" if what else "download it first"
        raise InputError(f"{text}: is an address, expected a file or the name of a model; {cure}")
    if text == path.name and text not in ("", ".", ".."):
        return _named(text, path)
    hub_id = HUB_ID.fullmatch(text)
    if hub_id and not text.endswith(SUFFIX) and _mode(Path(path.parts[0])) is None:
        return _pulled(hub_id)
    return path


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(_mode(path) or 0)


def _mode(path: Path) -> int | None:
    """What lies at a path; None for nothing, and for a name that is too long or holds a NUL."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def _named(text: str, path: Path) -> Path:
    name = text.removesuffix(SUFFIX)
    found = models_folder() / (name + SUFFIX)
    if _is_file(found):
        return found
    if name != text or _mode(path) is not None:
        return path
    close = difflib.get_close_matches(name, model_names(), 1, 0.5)
    cure = f"did you mean {close[0]}?" if close else "`gemma4gguf list` shows those that are there"
    raise InputError(f"{text}: no such file, and no model of this name in {models_folder()}; {cure}")


def _pulled(hub_id: re.Match[str]) -> Path:
    found = pulled_models(hub_id["repo"], hub_id["type"])
    if len(found) == 1:
        return models_folder() / (found[0] + SUFFIX)
    if found:
        raise InputError(f"{hub_id[0]}: was pulled as {' and as '.join(found)}; name one of them")
    raise InputError(f"{hub_id[0]}: no such file; for the model on the Hub, `gemma4gguf pull {hub_id[0]}` fetches it")


def pulled_models(repo: str, kind: str | None) -> list[str]:
    """The names of finished models that were pulled from a repository, those of one type, or of any."""

    def matching() -> Iterator[str]:
        for name in model_names():
            record = read_record(name)
            same = record and record.repo.lower() == repo.lower()
            if record and same and (kind is None or record.type.lower() == kind.lower()):
                yield name

    return list(matching())
