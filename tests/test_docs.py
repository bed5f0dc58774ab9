"""The reference pages follow the code: any option's help and any public docstring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pytest

import gemma4gguf
from gemma4gguf.cli import cli
from scripts import make_docs

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
        "| `width` | `int \\| None` |  | of the picture, in pixels |",
        "| `name` | `str` |  |  |",
    ]
