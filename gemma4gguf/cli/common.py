"""What commands have in common: how they fail, the options that several of them take, and JSON in the same form."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ..bundle.finding import find_model
from ..errors import Gemma4Error, InputError
from .show import tell_error

Function = Callable[..., Any]


def common(function: Function) -> Function:
    """For every command that prints a result: `--json`, and failures in one line."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
    return option(one_line_errors(function))


def debug_option(function: Function) -> Function:
    """For commands that run a model. The function gets `debug`; `one_line_errors` looks at it too."""
    return click.option("--debug", is_flag=True, help="Show llama.cpp's log, and tracebacks.")(function)


def found(*parameters: str) -> Callable[[Function], Function]:
    """For commands that take models: a path, a name in the models folder or a pulled Hub id becomes a path."""

    def paths(given: Any) -> Any:
        if given is None:
            return None
        return tuple(map(model_path, given)) if isinstance(given, tuple) else model_path(given)

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def command(*args: Any, **options: Any) -> Any:
            return function(*args, **options | {name: paths(options[name]) for name in parameters})

        return command

    return decorate


def model_path(given: Path) -> Path:
    """The file that is meant by a path, a name or a Hub id. Raises InputError where there is none."""
    path = find_model(given)
    if (path / "config.json").is_file():
        raise InputError(f"{path}: is a checkpoint; `gemma4gguf convert {path}` makes a bundle of it")
    return path


def one_line_errors(function: Function) -> Function:
    """Expected failures end the command with status 1 and one line; with `--json`, with one object."""

    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except BrokenPipeError:  # the reader of our output went away; click ends the program quietly
            raise
        except (Gemma4Error, OSError, ImportError) as error:
            context = click.get_current_context()
            if context.params.get("debug"):
                raise
            message = told(error, option_names(context.command))
            if context.params.get("as_json") or context.params.get("jsonl"):
                told_as = {"error": {"kind": type(error).__name__, "message": message}}
                print_json(told_as, indent=None if context.params.get("jsonl") else 2)
            else:
                tell_error(message)
            return 1

    return command


def told(error: Gemma4Error | OSError | ImportError, options: Mapping[str, str]) -> str:
    """One line, in the command line's words; of the system's errors, such as a full disk, with the file's name."""
    if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is None):  # a package's library
        return f"{' '.join(str(error).split())}; `gemma4gguf doctor` looks at the installation"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    return in_options(str(error), options)


def option_names(command: click.Command) -> dict[str, str]:
    """A command's parameters and the options that give them, such as `kv_type`: `--kv-type`."""
    options = (parameter for parameter in command.params if isinstance(parameter, click.Option))
    return {option.name: max(option.opts, key=len) for option in options if option.name}


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A library's message with its parameters as options: `kv_type is 5` becomes `--kv-type is 5`.

    Most names are words too. They are parameters at the beginning of a message, and before `=`.
    """
    if not options:
        return message
    names = "|".join(map(re.escape, options))
    message = re.sub(rf"^({names})(?= is |:|\[)", lambda found: options[found[1]], message)
    message = re.sub(rf"(?<![\w./-])({names})=(True\b)?(?=([\w'\"])?)", _assigned(options), message)
    long = "|".join(name for name in options if "_" in name)
    return (
        re.sub(rf"(?<![\w./-])({long})(?![\w/-]|\.\w)", lambda found: options[found[1]], message) if long else message
    )


def _assigned(options: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    """`force=True` is `--force`, `windows=5` is `--windows 5`, `context=` alone is `--context`."""
    return lambda found: options[found[1]] + (" " if found[3] and not found[2] else "")


def print_json(value: Any, indent: int | None = 2) -> None:
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8" if sys.stdout else True
    click.echo(json.dumps(value, ensure_ascii=ascii_only, indent=indent, default=str))


def require_extra(extra: str, command: str, *packages: str) -> None:
    """Raise InputError where the command's packages are not installed."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise InputError(f"{command} needs {', '.join(missing)}: pip install 'gemma4gguf[{extra}]'")


def standard_input() -> bytes:
    """All of it. Raises InputError where there is none."""
    if sys.stdin is None:
        raise InputError("standard input is closed")
    return sys.stdin.buffer.read()
