"""Imports go one way, C is touched in one place, and `import gemma4gguf` costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = (  # noqa: SIM905 - a line of words reads better than a column
    "errors checks newfile container bundle sections native image audio embedder template messages reply chat session "
    "pace drafter decode stream prompt answer model layouts export pack quality examine doctor show cli"
).split()
BELOW_CONVERTERS = {"errors", "newfile", "container", "bundle", "sections", "native"}
SOURCES = sorted([*ROOT.glob("gemma4gguf/**/*.py"), *ROOT.glob("converters/**/*.py")])


def imports(path: Path) -> Iterator[str]:
    """Absolute names of the modules a file imports, at any depth, type-checking blocks included."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def stage(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "gemma4gguf" and len(parts) > 1 and parts[1] in ORDER else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    used = {s for s in map(stage, imports(path)) if s}
    if parts[0] == "converters":
        assert used <= BELOW_CONVERTERS
    elif parts[1] != "__init__":
        assert parts[1] in ORDER, "a new module: give it its place in ORDER"
        later = {s for s in used if ORDER.index(s) > ORDER.index(parts[1])}
        assert not later, f"{parts[1]} imports what comes after it: {later}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_boundary_to_c(path: Path) -> None:
    if "native" not in path.parts:
        assert not {"ctypes", "llama_cpp"} & {name.split(".")[0] for name in imports(path)}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, gemma4gguf; print(sorted({'numpy', 'llama_cpp', 'PIL', 'gguf'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_neither_torch_nor_transformers(module: str) -> None:
    assert not [p for p in SOURCES if module in {name.split(".")[0] for name in imports(p)}]
