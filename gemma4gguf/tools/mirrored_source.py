"""A checkpoint on the Hub, of which only some tensors are fetched: its small files, and weights' files with holes.

In: a Hub id, then names of tensors. Out: a folder that reads like the checkpoint's where it was filled. Knows nothing
of what the tensors mean.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace

from converters.origin import Origin, locate
from converters.weights import read_folder

from ..bundle.finding import hidden_folder
from .hub import look_up
from .mirror import Mirror, Range

WEIGHTS = ".safetensors"


class MirroredSource:
    """The part of a checkpoint that is here. Raises InputError and ConversionError, as `locate` does."""

    def __init__(self, name: str) -> None:
        found = locate(name, plan_only=True)
        repo, _, revision = name.partition("@")
        repository = look_up(repo, revision or None, ending=WEIGHTS)
        folder = hidden_folder("mirrors") / repository.commit[:16] / found.name
        folder.mkdir(parents=True, exist_ok=True)
        for path in found.path.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHTS):
                shutil.copyfile(path, folder / path.name)
        used = {stored.path.name for stored in (found.tensors or {}).values()}
        self.mirrors = {file.name: Mirror(file, folder) for file in repository.files if file.path in used}
        for mirror in self.mirrors.values():
            length = int.from_bytes(mirror[0:8], "little")
            mirror.fetch([(0, min(len(mirror), 8 + length))])
        self.origin: Origin = replace(found, path=folder, tensors=None)
        self.tensors, _ = read_folder(folder)

    @property
    def fetched(self) -> int:
        """Bytes that came in this run."""
        return sum(mirror.fetched for mirror in self.mirrors.values())

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(map(len, self.mirrors.values()))

    def fetch(self, names: Iterable[str], report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Fetch tensors. `report` is told (done, in all) bytes of one file after another."""
        wanted: dict[str, list[Range]] = {}
        for tensor in map(self.tensors.__getitem__, names):
            wanted.setdefault(tensor.path.name, []).append((tensor.offset, tensor.offset + tensor.nbytes))
        for file, ranges in wanted.items():
            self.mirrors[file].fetch(ranges, report)
