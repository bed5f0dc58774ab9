"""The reference pages follow the code: any option's help and any public docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pytest

import gemma4gguf
from gemma4gguf.cli import cli
from scripts import make_docs

if TYPE_CHECKING:
    from typing_extensions import Unpack

FOLDERS = (
    "bundle",
    "media",
    "chat",
    "runtime",
    "native",
    "reference",
    "proof",
    "tools",
    "server",
)  # cli/ has a module for each command
ROOT = Path(__file__).parent.parent


class Choices(TypedDict, total=False):
    """What may be chosen."""

    width: int | None  # of the picture, in pixels
    name: str


def chosen(path: str, *, keep: bool = True, **options: Unpack[Choices]) -> str:
    """A function with options of its own and others from a TypedDict."""
    raise AssertionError


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    for name, made in make_docs.PAGES.items():
        (tmp_path / name).write_text(made(), encoding="utf-8")
    assert not make_docs.difference(tmp_path)
    return tmp_path


def test_the_pages_name_every_command_option_and_public_name() -> None:
    commands, names = make_docs.cli_page(), make_docs.api_page()
    for name, command in cli.commands.items():
        assert f"## gemma4gguf {name}\n" in commands
        for option in (o for p in command.params for o in p.opts if o.startswith("-")):
            assert option in commands
    assert all(f"## {name}\n" in names or f"| `{name}` |" in names for name in gemma4gguf.__all__)


def test_a_changed_help_shows(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = next(p for p in cli.commands["convert"].params if p.name == "quant")
    monkeypatch.setattr(option, "help", "Something else.")
    assert "+| `--quant TYPE` | Something else. |" in make_docs.difference(pages)


def test_a_changed_docstring_shows(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemma4gguf.Gemma4.generate, "__doc__", "Something else.")
    assert "+Something else." in make_docs.difference(pages)


def test_options_of_a_typed_dict_are_unfolded() -> None:
    assert make_docs.signature("chosen", chosen).split("\n") == [
        "    chosen(path: str, *, keep: bool = True, **options: Unpack[Choices]) -> str"
    ]
    assert make_docs.options_table(chosen).split("\n")[2:] == [
        "| `width` | `int \\| None` | of the picture, in pixels |",
        "| `name` | `str` |  |",
    ]


def _told(node: ast.expr) -> str:
    """The text of a string in the code, `…` for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_told, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """The first column, where it begins with a quotation that is not something to type."""
    files = [p for folder in ("gemma4gguf", "converters") for p in (ROOT / folder).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = [_told(node) for node in nodes if isinstance(node, (ast.JoinedStr, ast.Constant))]
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    quoted = [match for match in re.findall(r"^\| `([^`]+)`", page, re.MULTILINE) if " " in match]
    missing = [q for q in quoted if not any(q in text for text in texts) and "command not found" not in q]
    assert len(quoted) > 30
    assert not missing


def _places() -> list[str]:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (?:Where|What to touch).*$", page, re.MULTILINE)


@pytest.mark.parametrize("row", _places(), ids=lambda row: row.split("|")[1].strip())
def test_contributing_names_files_and_what_is_in_them(row: str) -> None:
    """Every file named is there, and what is named beside it is in one of them."""
    named = re.findall(r"`([^`]+)`", row)
    paths = [name for name in named if "/" in name or name.endswith(".py")]
    files = [next((p for p in (ROOT / n, ROOT / "gemma4gguf" / n) if p.exists()), None) for n in paths]
    assert all(files), paths
    text = "".join(p.read_text(encoding="utf-8") for f in files if f for p in ([f] if f.is_file() else f.glob("*.py")))
    assert not [name for name in named if name not in paths and name not in text]


def _pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")]


def _anchors(page: Path) -> set[str]:
    """What a heading is called in a link."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in (link for link in links if "://" not in link):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("folder", ["converters", "gemma4gguf", *(f"gemma4gguf/{name}" for name in FOLDERS)])
def test_contributing_s_map_names_every_module(folder: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listing = text[text.index("    converters/ ") : text.index("### Who imports whom")]
    modules = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
    assert modules <= set(re.findall(r"\w+", listing))
