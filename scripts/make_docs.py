#!/usr/bin/env python3
"""The reference pages, docs/cli.md and docs/api.md, from the code.

In: the click commands, and the public names of the package. Out: two Markdown pages, or with --check the difference
between them and what is in docs/, and exit status 1 where there is one. The same code gives the same pages on every
supported Python: annotations stay as they are written.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin, is_typeddict

import click

import gemma4gguf
from gemma4gguf import cli

DOCS = Path(__file__).parent.parent / "docs"
MADE = "<!-- Made by scripts/docs from the code: change the code and run it again. -->"
WIDTH = 100  # characters of a signature on one line


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table, the first row its head, without columns that stay empty; nothing where only a head is given."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in zip(*columns, strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([*lines[:1], "|" + "---|" * len(columns), *lines[1:]]) if columns else ""


def prose(text: str | None) -> str:
    """A docstring as Markdown: paragraphs whose columns line up keep their line breaks, what click keeps is code."""
    out = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        kept = paragraph.startswith("\b\n")
        lined_up = re.search(r"\S {2,}\S", paragraph) and not paragraph.startswith("    ")
        lines = paragraph.removeprefix("\b\n").splitlines()
        out.append("\n".join(f"    {line.strip()}" for line in lines) if kept or lined_up else paragraph)
    return "\n\n".join(out)


def page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", MADE, *filter(None, parts)]) + "\n"


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


def cli_page() -> str:
    """Every command with its arguments, options and exit status."""
    statuses = re.search(r"Exit status: (.*)", " ".join((cli.__doc__ or "").split()))
    assert statuses, "gemma4gguf.cli: its docstring must say `Exit status: …`"
    told = table(("exit status", "meaning"), *(tuple(s.split(" ", 1)) for s in statuses[1].rstrip(".").split(", ")))
    same = "`convert-to-gguf` is `gemma4gguf convert` under a name of its own; `python -m gemma4gguf` is `gemma4gguf`."
    root = click.Context(cli.cli, **cli.SETTINGS)
    return page("Command line", prose(cli.cli.help), same, told, *_commands(cli.cli, root, ()))


def _commands(group: click.Group, parent: click.Context, path: tuple[str, ...]) -> Iterator[str]:
    for name in (n for n in group.list_commands(parent) if not group.commands[n].hidden):
        command = group.commands[name]
        context, words = click.Context(command, parent=parent, info_name=name), (*path, name)
        yield f"## gemma4gguf {' '.join(words)}"
        yield f"    gemma4gguf {' '.join([*words, *command.collect_usage_pieces(context)])}"
        yield prose(command.help)
        records = (p.get_help_record(context) for p in command.params if isinstance(p, click.Option))
        yield table(("option", "meaning"), *((f"`{names}`", text) for names, text in filter(None, records)))
        if isinstance(command, click.Group):
            yield from _commands(command, context, words)


# ── the package ──────────────────────────────────────────────────────────────────────────────────────────────────


def api_page() -> str:
    """Every public name: classes, functions, types, errors."""
    names = [(name, getattr(gemma4gguf, name)) for name in gemma4gguf.__all__]
    errors = [(name, value) for name, value in names if inspect.isclass(value) and issubclass(value, Exception)]
    rest = [(name, value) for name, value in names if (name, value) not in errors]
    rest.sort(key=lambda pair: (get_origin(pair[1]) is not None, not inspect.isclass(pair[1]), pair[0].lower()))
    errors.sort(key=lambda pair: len(pair[1].__mro__))
    rows = (
        (f"`{name}`", ", ".join(f"`{base.__name__}`" for base in e.__bases__), prose(e.__doc__)) for name, e in errors
    )
    told = table(("error", "is a", "meaning"), *rows)
    links = ", ".join(f"[{name}](#{name.lower()})" for name in [*(name for name, _ in rest), "Errors"])
    parts = [part for name, value in rest for part in (f"## {name}", *_entry(name, value))]
    return page("Python reference", prose(gemma4gguf.__doc__), links, *parts, "## Errors", told)


def _entry(name: str, value: Any) -> Iterator[str]:
    if get_origin(value) is not None:  # an alias
        yield f"    {name} = {value}"
    elif inspect.isclass(value):
        if not is_dataclass(value) and not is_typeddict(value) and "__init__" in vars(value):
            yield signature(name, value.__init__)
        yield prose(value.__doc__)
        yield _fields(value)
        yield from _methods(value)
    else:
        yield signature(name, value)
        yield prose(value.__doc__)
        yield options_table(value)


def _methods(kind: type) -> Iterator[str]:
    ours = [base for base in kind.__mro__ if base.__module__.startswith("gemma4gguf.")]
    for name, member in (pair for base in ours for pair in vars(base).items()):
        function = getattr(member, "__func__", getattr(member, "func", getattr(member, "fget", member)))
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        yield f"### {kind.__name__}.{name}"
        attribute = function is not member and not isinstance(member, (classmethod, staticmethod))
        returned = function.__annotations__.get("return", "")
        yield f"    {name}: {returned}" if attribute else signature(name, function)
        yield prose(function.__doc__)
        yield options_table(function)


class Bare(str):
    """A text that `inspect` shows as it is, without quotes."""

    __repr__ = str.__str__


def signature(name: str, function: Any) -> str:
    """A function's signature as an indented block, one parameter a line where it is long."""
    told, parts, positional = inspect.signature(function), [], True
    for p in told.parameters.values():
        if positional and p.kind is p.KEYWORD_ONLY:
            parts.append("*")
        positional = p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        default = Bare("…") if callable(p.default) and p.default is not p.empty else p.default
        annotation = Bare(p.annotation) if isinstance(p.annotation, str) else p.annotation
        parts.append(str(p.replace(annotation=annotation, default=default)))
    parts = [part for part in parts if part not in ("self", "cls")]
    end = ")" if told.return_annotation in (told.empty, "None") else f") -> {told.return_annotation}"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        name = f"async {name}"
    line = f"{name}({', '.join(parts)}{end}"
    if len(line) > WIDTH:
        line = "\n".join([f"{name}(", *(f"    {part}," for part in parts), end])
    return "\n".join(f"    {row}" for row in line.splitlines())


def options_table(function: Any) -> str:
    """The TypedDict that a function's keyword arguments are unpacked from: its table, or a link where it is public."""
    told = [str(p.annotation) for p in inspect.signature(function).parameters.values()]
    unpacked = (re.fullmatch(r"(?:\w+\.)?Unpack\[(\w+)\]", annotation) for annotation in told)
    name = next((found[1] for found in unpacked if found), "")
    if name in gemma4gguf.__all__:
        return f"Options: [{name}](#{name.lower()})"
    return _fields(function.__globals__[name]) if name else ""


def _fields(kind: type) -> str:
    """The fields of a dataclass or TypedDict: type, default, and the comment at the line's end or the field's `option`.

    A TypedDict takes these from the dataclass in its module that has the same fields.
    """
    if not is_dataclass(kind) and not is_typeddict(kind):
        return ""
    types = {name: getattr(t, "__forward_arg__", t) for name, t in kind.__annotations__.items()}
    beside = [c for c in vars(sys.modules[kind.__module__]).values() if is_dataclass(c)]
    twin = next((c for c in [kind, *beside] if is_dataclass(c) and [f.name for f in fields(c)] == list(types)), None)
    given = {f.name: f for f in fields(twin)} if twin else {}
    defaults = {
        n: f"`{f.default!r}`" for n, f in given.items() if f.default is not MISSING and len(repr(f.default)) < 40
    }
    options = {name: f.metadata["option"] for name, f in given.items() if "option" in f.metadata}
    meanings = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(kind), re.MULTILINE))
    meanings |= {name: f"{option.help} Allowed: {option.expected}." for name, option in options.items()}
    rows = [(f"`{name}`", f"`{told}`", defaults.get(name, ""), meanings.get(name, "")) for name, told in types.items()]
    return table(("name", "type", "default", "meaning"), *rows)


PAGES = {"cli.md": cli_page, "api.md": api_page}


def difference(docs: Path = DOCS) -> str:
    """What the pages in a folder and those of the code differ in, as a unified diff; empty where they agree."""
    out: list[str] = []
    for name, made in PAGES.items():
        old = (docs / name).read_text(encoding="utf-8") if (docs / name).is_file() else ""
        out += difflib.unified_diff(old.splitlines(), made().splitlines(), f"docs/{name}", "the code", lineterm="", n=1)
    return "\n".join(out)


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write docs/cli.md and docs/api.md from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the pages are out of date")
    if parser.parse_args().check:
        sys.exit(f"{found}\nThe reference pages are out of date: run scripts/docs" if (found := difference()) else 0)
    for name, made in PAGES.items():
        (DOCS / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
