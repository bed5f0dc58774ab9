"""Where generate's question comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gemma4gguf.cli import cli, run
from gemma4gguf.cli.question import joined, question
from gemma4gguf.errors import InputError

ASK = "import sys, gemma4gguf.cli.question as q; print(repr(q.question(*eval(sys.argv[1]), stdin_taken=False)))"


@pytest.mark.parametrize(
    ("given", "piped", "asked"),
    [
        ("Summarise", "a text", "Summarise\n\na text"),
        ("Summarise", " \n", "Summarise"),
        ("Summarise", "", "Summarise"),
        (None, "a text", "a text"),
        (None, "", ""),
    ],
)
def test_what_is_piped_in_follows_the_question(given: str | None, piped: str, asked: str) -> None:
    assert joined(given, piped) == asked


def _asked(given: tuple[str | None, str | None], data: bytes | None) -> str:
    words = [sys.executable, "-c", ASK, repr(given)]
    return str(eval(subprocess.run(words, input=data, capture_output=True, check=True).stdout))


def test_standard_input() -> None:
    assert _asked(("Summarise", None), b"a text\n") == "Summarise\n\na text"
    assert _asked((None, "Summarise"), "\ufeffä".encode()) == "Summarise\n\nä"
    assert _asked((None, None), b"a text") == "a text"
    assert _asked((None, "-"), b"a \xff text") == "a \ufffd text"


def test_a_file_may_be_standard_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    with (tmp_path / "a.txt").open() as text:
        shown = subprocess.check_output([sys.executable, "-c", ASK, "('Summarise', None)"], stdin=text, text=True)
    assert shown == "'Summarise\\n\\na text'\n"


def test_no_standard_input_is_no_text() -> None:
    for redirected in ("<&-", "</dev/null"):
        line = f"{subprocess.list2cmdline([sys.executable, '-c', ASK])} \"('x', None)\" {redirected}"
        assert subprocess.check_output(["bash", "-c", line], text=True) == "'x'\n"


def test_who_waits_is_told_for_what() -> None:
    code = "import gemma4gguf.cli.question as q; q.PATIENCE_S = 0; q.question('x', None, stdin_taken=False)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert b"waiting for text on standard input" in process.stderr.readline()
    process.communicate(b"")
    assert process.returncode == 0


def test_a_question_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "question.txt"
    path.write_text("What is in it?\n")
    assert question(None, f"@{path}", stdin_taken=True) == "What is in it?"
    assert question("@home is a word", None, stdin_taken=True) == "@home is a word"
    with pytest.raises(InputError, match="goes after FILE"):
        question(None, "@nowhere", stdin_taken=True)


@pytest.mark.parametrize(
    ("argument", "option", "word"), [("a", "b", "twice"), (None, None, "--prompt"), ("", None, "no question")]
)
def test_one_question(argument: str | None, option: str | None, word: str) -> None:
    with pytest.raises(click.UsageError, match=word):
        question(argument, option, stdin_taken=True)


def test_an_answers_form_is_read_from_a_file(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "schema.json").write_text('{"enum": ["yes", "no"]}', "utf-8")
    (tmp_path / "grammar.gbnf").write_text('root ::= "maybe"', "utf-8")
    ask = ["generate", str(tiny_bundle), "-p", "Is it?", "--seed", "1"]
    assert run(cli, [*ask, "--schema", str(tmp_path / "schema.json")]) == 0
    assert json.loads(capsys.readouterr().out) in ("yes", "no")
    assert run(cli, [*ask, "--grammar", str(tmp_path / "grammar.gbnf")]) == 0
    assert capsys.readouterr().out == "maybe\n"


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        ("--schema", '{"not": {}}', "--schema: schema: not cannot be held by a grammar"),
        ("--schema", "{", "not JSON"),
        ("--schema", "[1]", "--schema: schema: expected a JSON schema, found list"),
        ("--grammar", "root ::= a", "--grammar: rule a is used and not defined"),
    ],
)
def test_a_form_that_is_none_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, text: str, told: str
) -> None:
    (tmp_path / "form").write_text(text, "utf-8")
    assert run(cli, ["generate", str(bundle), "-p", "Is it?", option, str(tmp_path / "form")]) == 1
    assert told in capsys.readouterr().err
    (tmp_path / "form").unlink()
    assert run(cli, ["generate", str(bundle), "-p", "Is it?", option, str(tmp_path / "form")]) == 1
    assert "no such file" in capsys.readouterr().err
