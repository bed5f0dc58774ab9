"""Imports go one way, folder by folder; C is touched in one place; importing costs nothing; modules are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import gemma4gguf

ROOT = Path(__file__).parent.parent
PACKAGES = ("gemma4gguf", "converters", "training")
# What each place may import besides itself. A place is a folder, or a module that lies beside the folders.
BASE = {f"gemma4gguf.{name}" for name in ("errors", "arguments", "version", "records", "machine", "limits")}
FILES = BASE | {"gemma4gguf.bundle", "gemma4gguf.native"}
STAGES = FILES | {"gemma4gguf.media", "gemma4gguf.chat", "gemma4gguf.forms"}
ENGINE = STAGES | {"gemma4gguf.runtime"}
SPEECH = {"gemma4gguf.tools.listening", "gemma4gguf.tools.subtitles"}
COMMANDS_SHARE = {f"gemma4gguf.cli.{name}" for name in ("signals", "show", "common", "options", "answering", "bundled")}
ALLOWED: Mapping[str, set[str]] = {
    "gemma4gguf.errors": set(),
    "gemma4gguf.version": set(),
    "gemma4gguf.records": set(),
    "gemma4gguf.machine": set(),
    "gemma4gguf.arguments": {"gemma4gguf.errors"},
    "gemma4gguf.limits": {"gemma4gguf.errors"},
    "gemma4gguf.bundle": BASE,
    "gemma4gguf.native": BASE,
    "gemma4gguf.media": BASE | {"gemma4gguf.bundle"},
    "gemma4gguf.chat": BASE,
    "gemma4gguf.forms": BASE | {"gemma4gguf.chat"},
    "gemma4gguf.runtime": STAGES,
    "gemma4gguf.isolated": ENGINE,
    "gemma4gguf.listening": ENGINE | {"gemma4gguf.transcription"},
    "gemma4gguf.conversation": ENGINE | {"gemma4gguf.listening", "gemma4gguf.transcription"},
    "gemma4gguf.answers": ENGINE,
    "gemma4gguf.coroutines": ENGINE,
    "gemma4gguf.transcription": ENGINE,
    "gemma4gguf.model": ENGINE
    | {f"gemma4gguf.{name}" for name in ("isolated", "answers", "conversation", "coroutines", "transcription")},
    "converters": FILES,
    "gemma4gguf.reference": BASE | {"gemma4gguf.bundle", "converters"},
    "gemma4gguf": ENGINE
    | {f"gemma4gguf.{name}" for name in ("model", "conversation", "listening", "transcription", "tools")}
    | {"converters"},
    "gemma4gguf.tools": ENGINE
    | {
        f"gemma4gguf.{name}"
        for name in ("model", "conversation", "listening", "transcription", "tools.subtitles", "reference")
    }
    | {"converters"},
    "gemma4gguf.tools.listening": ENGINE | {f"gemma4gguf.{name}" for name in ("model", "conversation", "listening")},
    "gemma4gguf.tools.subtitles": {"gemma4gguf.transcription"},
    "gemma4gguf.proof": ENGINE | {"gemma4gguf.reference", "converters"},
    "gemma4gguf.server": ENGINE
    | {f"gemma4gguf.{name}" for name in ("answers", "model", "conversation", "listening", "transcription")}
    | SPEECH,
    "gemma4gguf.batch": ENGINE | {"gemma4gguf.model", "gemma4gguf.server"},
    "gemma4gguf.cli.signals": set(),
    "gemma4gguf.cli.show": set(),
    "gemma4gguf.cli.common": {"gemma4gguf.errors", "gemma4gguf.bundle", "gemma4gguf.cli.show"},
    "gemma4gguf.cli.options": {"gemma4gguf.runtime", "gemma4gguf.errors", "gemma4gguf.arguments"},
    "gemma4gguf.cli.bundled": {"gemma4gguf.errors", "converters"},
    "gemma4gguf.cli.answering": {"gemma4gguf.records", "gemma4gguf.cli.show"},
    "gemma4gguf.cli.chat": ENGINE | {"gemma4gguf.model"} | COMMANDS_SHARE,
    "gemma4gguf.cli": ENGINE
    | {f"gemma4gguf.{name}" for name in ("model", "listening", "tools", "proof", "cli.chat", "server", "batch")}
    | SPEECH
    | {"converters"}
    | COMMANDS_SHARE,
    "gemma4gguf.__main__": {"gemma4gguf.cli"},
    "training": ENGINE | {"gemma4gguf", "converters"},
}


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, a package's own name for its `__init__`."""
    found = {}
    for path in sorted(p for package in PACKAGES for p in (root / package).glob("**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> Iterator[str]:
    """Absolute names that a file imports, at any depth, type-checking blocks included.

    The top `__init__` loads by name what its type-checking block imports: a test holds the two together.
    """
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of this project whose names it uses. A name out of a package's `__init__` is its own."""
    known = modules(root)
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        edges[name] = set()
        for used in imports(name, path):
            while used and used not in known:
                used = used.rpartition(".")[0]
            if used and used != name:
                edges[name].add(used)
    return edges


def place(module: str) -> str:
    """The entry of ALLOWED that holds a module: itself, or its folder. The top folder holds nothing but folders."""
    found = module if module in ALLOWED else module.rpartition(".")[0]
    if found not in ALLOWED or (found == "gemma4gguf" != module):
        raise LookupError(f"{module} is a new place: say in ALLOWED what it may import")
    return found


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, the first one repeated at the end; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for used in sorted(edges[name]):
            found = walk(used, [*trail, name])
            if found:
                return found
        done.add(name)
        return []

    return next(filter(None, (walk(name, []) for name in sorted(edges))), [])


def misplaced(edges: Mapping[str, set[str]]) -> list[str]:
    """Imports that ALLOWED does not name, as "module -> module"."""
    return [
        f"{name} -> {used}"
        for name, all_used in sorted(edges.items())
        for used in sorted(all_used)
        if place(used) != place(name) and place(used) not in ALLOWED[place(name)]
    ]


EDGES = graph(ROOT)


def test_every_folder_may_import_only_what_lies_below_it() -> None:
    assert not misplaced(EDGES)


def test_no_circles() -> None:
    assert not circle(EDGES)
    assert not circle(ALLOWED)


def test_what_is_shipped_needs_nothing_that_is_not() -> None:
    for name, path in modules(ROOT).items():
        assert not {"tests", "benchmarks", "scripts"} & {used.split(".")[0] for used in imports(name, path)}, name


def test_names_loaded_late_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "gemma4gguf" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        a.name: "." * n.level + (n.module or "") for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names
    }
    assert seen == gemma4gguf._HOME


def _write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_circle_through_a_package_is_found(tmp_path: Path) -> None:
    """As it was once: the package's lazy names -> converters -> their metadata -> the package's version."""
    root = _write(
        tmp_path,
        {
            "gemma4gguf/__init__.py": "if 0:\n    from converters import convert\n__version__ = '1'\n",
            "converters/__init__.py": "from .metadata import pairs\n",
            "converters/metadata.py": "from gemma4gguf import __version__\n",
        },
    )
    assert circle(graph(root)) == ["converters", "converters.metadata", "gemma4gguf", "converters"]


def test_a_module_in_the_wrong_folder_is_found(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        {
            "gemma4gguf/media/decode.py": "from ..runtime import pace\n",
            "gemma4gguf/runtime/pace.py": "",
            "gemma4gguf/runtime/__init__.py": "",
        },
    )
    assert misplaced(graph(root)) == ["gemma4gguf.media.decode -> gemma4gguf.runtime.pace"]


@pytest.mark.parametrize(
    ("module", "wrong"),
    [
        ("gemma4gguf.runtime.session", "gemma4gguf.media.session"),
        ("gemma4gguf.tools.quality", "gemma4gguf.bundle.quality"),
        ("gemma4gguf.media.image", "gemma4gguf.cli.image"),
        ("converters.plan", "gemma4gguf.tools.plan"),
        ("gemma4gguf.native.weights", "training.weights"),
    ],
)
def test_a_module_of_ours_moved_to_another_folder_is_found(module: str, wrong: str) -> None:
    assert module in EDGES
    moved = {
        wrong if name == module else name: {wrong if used == module else used for used in all_used}
        for name, all_used in EDGES.items()
    }
    assert misplaced(moved)


@pytest.mark.parametrize("module", ["gemma4gguf.stray", "gemma4gguf.cellar.wine", "gemma4gguf.media.deep.down"])
def test_a_module_beside_the_folders_or_in_a_new_one_is_found(module: str) -> None:
    with pytest.raises(LookupError, match="is a new place"):
        misplaced({**EDGES, module: {"gemma4gguf.errors"}})


def test_only_the_top_and_converters_open_with_names() -> None:
    """A folder's `__init__` says what it is for; the names are in its modules."""
    folders = [p for n, p in modules(ROOT).items() if p.name == "__init__.py" and n not in ("gemma4gguf", "converters")]
    for path in folders:
        if path.parent.name != "cli":
            (docstring,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert isinstance(docstring, ast.Expr)


@pytest.mark.parametrize("name", [n for n in EDGES if n.startswith(("gemma4gguf", "converters"))])
def test_one_boundary_to_c(name: str) -> None:
    if not name.startswith("gemma4gguf.native"):
        assert not {"ctypes", "llama_cpp"} & {used.split(".")[0] for used in imports(name, modules(ROOT)[name])}


def test_no_module_is_longer_than_400_lines() -> None:
    folders = (*PACKAGES, "tests", "benchmarks", "scripts")
    long = [p for folder in folders for p in (ROOT / folder).glob("**/*.py") if p.read_text("utf-8").count("\n") > 400]
    assert not long


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, gemma4gguf; print(sorted({'numpy', 'llama_cpp', 'PIL', 'gguf'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_loads_no_command_and_a_command_no_other() -> None:
    code = (
        "import sys; from gemma4gguf.cli import cli, run; run(cli, sys.argv[1:]); "
        "print(sorted(n for n in sys.modules if n.startswith('gemma4gguf.cli.')), file=sys.stderr)"
    )

    def loaded(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr.strip()

    assert loaded("--help") == "['gemma4gguf.cli.signals']"
    of_one = loaded("inspect", "--help")
    assert "gemma4gguf.cli.examine" in of_one
    assert "gemma4gguf.cli.batch" not in of_one


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_neither_torch_nor_transformers(library: str) -> None:
    used = {n: imports(n, p) for n, p in modules(ROOT).items() if not n.startswith("training")}
    assert not [n for n, names in used.items() if library in {name.split(".")[0] for name in names}]
