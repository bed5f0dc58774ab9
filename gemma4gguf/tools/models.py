"""The models in the models folder: listed and removed.

Names go in; files, sizes and records come out. Files that were put there by hand count as much as pulled ones. No model
is opened.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..bundle.finding import (
    LOCK,
    RECORD,
    SUFFIX,
    Record,
    find_model,
    hidden_folder,
    model_names,
    models_folder,
    read_record,
)
from ..bundle.newfile import lock
from ..errors import InputError


@dataclass(frozen=True)
class Model:
    """A model. `size`: bytes of the bundle, 0 until it is whole; `parts`: bytes of parts that are kept or not whole."""

    name: str
    path: Path
    size: int
    parts: int
    record: Record | None


def models() -> list[Model]:
    """Every model in the models folder, finished or not, by name."""
    folder = models_folder()
    hidden = (path.name[1:] for path in folder.glob(".*") if (path / RECORD).is_file())
    return [_model(name) for name in sorted({*model_names(), *hidden})]


def _model(name: str) -> Model:
    path = models_folder() / (name + SUFFIX)
    parts = [p for p in hidden_folder(name).rglob("*") if p.is_file() and p.name not in (LOCK, RECORD)]
    size = path.stat().st_size if path.is_file() else 0
    return Model(name, path, size, sum(p.stat().st_size for p in parts), read_record(name))


def remove(name: str) -> Model:
    """Delete a model and everything that is kept of it; returns what it was.

    Raises InputError (no such name), ConversionError (it is being pulled).
    """
    name = name.removesuffix(SUFFIX)
    if name not in {model.name for model in models()}:
        if name != Path(name).name:
            raise InputError(f"{name}: is a path, expected a name that `gemma4gguf list` shows")
        find_model(name)  # says what is not there, and what is close
        raise InputError(f"{name}: is no model in {models_folder()}; `gemma4gguf list` shows those that are there")
    model, hidden = _model(name), hidden_folder(name)
    if hidden.is_dir():
        with open(hidden / LOCK, "wb") as file:
            lock(file, model.path, "pull")
            model.path.unlink(missing_ok=True)
            shutil.rmtree(hidden)
    model.path.unlink(missing_ok=True)
    return model
