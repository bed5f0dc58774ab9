"""Failures on the command line: in its own words, as JSON where asked for, with a traceback only by --debug."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gemma4gguf.cli import cli, run
from gemma4gguf.cli.common import in_options, option_names

OPTIONS = {
    "kv_type": "--kv-type",
    "context": "--context",
    "force": "--force",
    "windows": "--windows",
    "draft": "--draft",
}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("kv_type is 5, expected f16", "--kv-type is 5, expected f16"),
        ("context is 4, the model was made for 2", "--context is 4, the model was made for 2"),
        ("the context is full", "the context is full"),
        ("x.gguf: exists; choose another name or use force=True", "x.gguf: exists; choose another name or use --force"),
        ("ask for a larger one (context=)", "ask for a larger one (--context)"),
        ("count fewer windows (windows=5)", "count fewer windows (--windows 5)"),
        ("with draft='off' or a kv_type of f16", "with --draft 'off' or a --kv-type of f16"),
        ("/tmp/my_context=1/kv_type.gguf: no such file", "/tmp/my_context=1/kv_type.gguf: no such file"),
        ("gemma4.context is 5", "gemma4.context is 5"),
    ],
)
def test_parameters_are_told_as_options(message: str, shown: str) -> None:
    assert in_options(message, OPTIONS) == shown


def test_every_option_is_known_by_its_parameter() -> None:
    names = option_names(cli.commands["generate"])
    assert names["images"] == "--image"
    assert names["kv_type"] == "--kv-type"
    assert "file" not in names


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["inspect", "nowhere.gguf", "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["kind"] == "InputError"
    assert "nowhere.gguf" in json.loads(shown.out)["error"]["message"]
    assert shown.err == ""


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_debug_is_taken_only_where_a_model_runs(name: str) -> None:
    takes = any("--debug" in option.opts for option in cli.commands[name].params)
    assert takes == (name in {"generate", "demo", "chat", "run", "batch", "serve", "transcribe", "listen"})


def test_debug_gives_a_traceback_by_its_place_not_by_its_letters() -> None:
    """A prompt that reads --debug is a prompt."""
    command = [sys.executable, "-m", "gemma4gguf", "generate", "nowhere.gguf", "-p"]
    plain = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    debugged = subprocess.run([*command, "x", "--debug"], capture_output=True, text=True, check=False)
    assert "Traceback" not in plain.stderr
    assert plain.stderr.startswith("error: ")
    assert "Traceback" in debugged.stderr


def test_every_command_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's own way to a missing file or folder, with the arguments that its help asks for."""
    for name, command in cli.commands.items():
        arguments = [
            str(tmp_path / "no" / "where") for p in command.params if isinstance(p, click.Argument) and p.required
        ]
        needed = {"generate": ["-p", "x"], "export": ["--for", "ollama"], "quality": ["--reference", "nowhere"]}
        if not arguments or name in ("demo", "verify"):
            continue
        assert run(cli, [name, *arguments, *needed.get(name, [])]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("error: ")
        assert shown.count("\n") == 1
