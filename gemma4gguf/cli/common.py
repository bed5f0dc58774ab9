"""What every command has: the same options, and JSON in the same form."""

from __future__ import annotations

import json
from typing import Any

import click


def common(command: Any) -> Any:
    """Options that every command takes."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(command)
    return click.option("--debug", is_flag=True, help="Show llama.cpp's log, and tracebacks.")(command)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))
