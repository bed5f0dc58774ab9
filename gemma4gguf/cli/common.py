"""What every command has: the same options, and JSON in the same form."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ..errors import InputError


def common(command: Any) -> Any:
    """Options that every command takes."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(command)
    return click.option("--debug", is_flag=True, help="Show llama.cpp's log, and tracebacks.")(command)


def print_json(value: Any) -> None:
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8" if sys.stdout else True
    click.echo(json.dumps(value, ensure_ascii=ascii_only, indent=2, default=str))


def standard_input() -> bytes:
    """All of it. Raises InputError where there is none."""
    if sys.stdin is None:
        raise InputError("standard input is closed")
    return sys.stdin.buffer.read()
