"""The command line as a person meets it: results, errors, exit statuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from PIL import Image

from gemma4gguf.cli import cli, run
from gemma4gguf.cli.show import Table, width
from gemma4gguf.tools import doctor

COMMAND = [sys.executable, "-c", "from gemma4gguf.cli import main; main()"]
ASK = ["--temperature", "0", "--max-tokens", "6", "--context", "1024", "--image-tokens", "70"]


@pytest.fixture
def media(tmp_path: Path) -> tuple[Path, Path]:
    picture, clip = tmp_path / "a picture.png", tmp_path / "clip.wav"
    Image.fromarray(np.arange(96 * 96 * 3, dtype=np.uint8).reshape(96, 96, 3)).save(picture)
    soundfile.write(clip, np.sin(np.arange(8000) / 5), 16_000)
    return picture, clip


def test_generate_prints_the_answer_and_nothing_else_on_standard_output(
    bundle: Path, media: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(bundle), "-p", "What?", "--image", str(media[0]), "--audio", str(media[1]), *ASK]
    assert run(cli, [*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"text", "thought", "finish_reason", "tokens", "timings", "draft"} <= set(report)
    assert {"prompt", "image", "audio", "completion"} <= set(report["tokens"])
    names = {"load_s", "prefill_s", "time_to_first_token_s", "decode_s", "tokens_per_s"}
    assert names <= set(report["timings"])
    assert run(cli, command) == 0
    shown = capsys.readouterr()
    assert shown.out == report["text"] + "\n" * (not report["text"].endswith("\n"))
    told = shown.err.splitlines()  # after 10 seconds, as a slow machine takes, how far the prompt was read
    assert [line for line in told if not line.startswith("reading ")] == []


def test_the_prompt_and_one_medium_may_come_from_standard_input(bundle: Path, media: tuple[Path, Path]) -> None:
    ask = [*COMMAND, "generate", str(bundle), *ASK, "--json"]
    piped = subprocess.run([*ask, "-p", "-"], input="Hello there\n", capture_output=True, text=True, check=True)
    given = subprocess.run([*ask, "-p", "Hello there"], capture_output=True, text=True, check=True)
    assert json.loads(piped.stdout)["text"] == json.loads(given.stdout)["text"]
    with open(media[0], "rb") as picture:
        seen = subprocess.run([*ask, "-p", "x", "--image", "-"], stdin=picture, capture_output=True, check=True)
    assert json.loads(seen.stdout)["tokens"]["image"] == 64


WRONG = {
    "no command": ([], 2, "generate"),
    "unknown command": (["generat"], 2, "No such command"),
    "unknown option": (["generate", "{bundle}", "-p", "x", "--max-token", "3"], 2, "--max-tokens"),
    "no prompt": (["generate", "{bundle}"], 2, "--prompt"),
    "two readers": (["generate", "{bundle}", "-p", "-", "--image", "-"], 2, "standard input"),
    "not a number": (["generate", "{bundle}", "-p", "x", "--seed", "abc"], 2, "abc"),
    "gpu layers": (["generate", "{bundle}", "-p", "x", "--gpu-layers", "many"], 1, "auto"),
    "no such file": (["generate", "nowhere.gguf", "-p", "x"], 1, "nowhere.gguf: no such file"),
    "no such picture": (["generate", "{bundle}", "-p", "x", "--image", "nowhere.png"], 1, "nowhere.png"),
    "a folder": (["inspect", "{folder}"], 1, "is a folder"),
    "a checkpoint": (["generate", "{checkpoint}", "x"], 1, "gemma4gguf convert"),
    "an address": (["chat", "https://huggingface.co/a/b"], 1, "gemma4gguf pull a/b"),
    "a Hub id": (["chat", "a/b:Q8_0"], 1, "gemma4gguf pull a/b:Q8_0"),
    "another file": (["inspect", "{picture}"], 1, "not a GGUF"),
    "budget": (["generate", "{bundle}", "-p", "x", "--image-tokens", "100"], 1, "70, 140, 280, 560, 1120"),
    "context": (["generate", "{bundle}", "-p", "x", "--context", "4"], 1, "--context"),
    "picture to a text model": (["generate", "{text}", "-p", "x", "--image", "{picture}"], 1, "no multimodal embedder"),
    "no checkpoint": (["convert", "nowhere/at/all", "{folder}/x.gguf"], 1, "nowhere"),
    "wrong type": (["convert", "{checkpoint}", "{folder}/x.gguf", "--quant", "Q9_9"], 1, "Q8_0"),
    "output exists": (["convert", "{checkpoint}", "{bundle}", "--quant", "Q8_0"], 1, "--force"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes(
    name: str,
    bundle: Path,
    checkpoint: Path,
    media: tuple[Path, Path],
    tmp_path: Path,
    make_bundle: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, status, word = WRONG[name]
    places = {"bundle": bundle, "folder": tmp_path, "picture": media[0], "checkpoint": checkpoint}
    places["text"] = make_bundle("Q8_0", text_only=True)
    before = sorted(tmp_path.iterdir())
    assert run(cli, [argument.format(**places) for argument in arguments]) == status
    shown = capsys.readouterr()
    assert word in shown.err + shown.out
    if status == 1:
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_convert_inspect_verify(
    checkpoint: Path, drafter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.gguf"
    convert = ["convert", str(checkpoint), str(out), "--quant", "Q8_0", "--drafter", str(drafter)]
    assert run(cli, [*convert, "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert not out.exists()
    assert run(cli, convert) == 0
    assert "MTP drafter" in capsys.readouterr().out
    assert run(cli, ["inspect", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [s["architecture"] for s in report["sections"]] == ["gemma4", "clip", "gemma4-assistant"]
    assert run(cli, ["inspect", str(out)]) == 0
    assert "multimodal embedder" in capsys.readouterr().out
    assert run(cli, ["verify", str(out)]) == 0
    assert "sound" in capsys.readouterr().out
    raw = bytearray(out.read_bytes())
    raw[len(raw) // 2] ^= 1
    out.write_bytes(raw)
    assert run(cli, ["verify", str(out)]) == 1
    assert "SHA-256" in capsys.readouterr().out


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "llama.cpp" in shown
    assert "none in this build" in shown
    *_, last = shown.splitlines()
    assert re.match(r"12B, 262,144 tokens  I?Q\d_\w+: (fits|tight|no), takes \d+\.\d\d of \d+\.\d\d GB", last)


def test_doctor_without_a_known_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (10**9, None):
        monkeypatch.setattr(doctor, "memory_limit", lambda known=known: known)
        told = {finding.name: finding.value for finding in doctor.examine()}["memory"]
        assert told == ("1.0 GB" if known else "unknown on this system")
    assert doctor.fitting() == []


def test_doctor_tells_how_a_file_fits(bundle: Path) -> None:
    (found,) = doctor.fitting(bundle)
    assert (found.name, found.problem) == ("model, 8,192 tokens", "")
    assert re.match(r"\w+: fits, takes 0\.\d\d of ", found.value)


@pytest.mark.parametrize(("names", "word"), [(["A", "B"], "A, B"), ([], "none found")])
def test_doctor_names_the_gpus(names: list[str], word: str) -> None:
    assert doctor._gpu(True, names).startswith(word)


def test_a_reader_that_goes_away_is_no_error(bundle: Path) -> None:
    command = subprocess.list2cmdline([*COMMAND, "generate", str(bundle), "-p", "x", "--max-tokens", "200"])
    shown = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -c 1"], capture_output=True, check=False, env=os.environ
    )
    assert b"Traceback" not in shown.stderr
    assert b"Exception" not in shown.stderr
    assert shown.returncode == 0


@pytest.mark.parametrize(
    ("redirected", "status", "message"),
    [
        ("> /dev/full", 1, "error: No space left on device"),
        ("<&- -p -", 1, "error: standard input is closed"),
        (">&-", 0, ""),
    ],
)
def test_streams_that_are_not_there(bundle: Path, redirected: str, status: int, message: str) -> None:
    command = subprocess.list2cmdline([*COMMAND, "generate", str(bundle), "-p", "x", "--max-tokens", "20"])
    shown = subprocess.run(["bash", "-c", f"{command} {redirected}"], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr.strip()) == (status, message)


def test_characters_that_a_log_cannot_hold(tiny_bundle: Path) -> None:
    """Windows gives a redirected program an encoding of 256 characters; JSON stays whole, text loses what it must."""
    old = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    command = [*COMMAND, "inspect", str(tiny_bundle)]
    assert subprocess.run(command, env=old, capture_output=True, check=True).stdout
    said = subprocess.run([sys.executable, "-c", SAYS], env=old, capture_output=True, check=True).stdout
    text, escaped = said.splitlines()
    assert (text, json.loads(escaped)) == ("café ?".encode("cp1252"), "café 日")


SAYS = """
import click
from gemma4gguf.cli import common, run
run(click.Command("c", callback=lambda: (click.echo("café 日"), common.print_json("café 日"))), [])
"""


def test_a_thought_and_the_answer_have_lines_of_their_own(tiny_bundle: Path) -> None:
    command = [*COMMAND, "generate", str(tiny_bundle), "-p", "What is 47 + 38?", "--thinking", "--temperature", "0"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    thought, answer = shown.stdout.splitlines()
    assert thought
    assert answer == "47 + 38 = 85"


@pytest.mark.parametrize("wish", ["", "1"])
def test_no_color(bundle: Path, tmp_path: Path, wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", wish)
    asked = []
    run(click.Command("c", callback=lambda: asked.append(click.get_current_context().color)), [])
    assert asked == [False if wish else None]


@pytest.mark.parametrize(
    "stub", ["raise OSError('libgomp.so.1: cannot open shared object file')", "raise ImportError('no such module')"]
)
def test_a_broken_installation_is_a_finding(bundle: Path, tmp_path: Path, stub: str) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text(stub)
    broken = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for arguments, word in (["doctor"], "does not start"), (["generate", str(bundle), "-p", "x"], "doctor"):
        shown = subprocess.run([*COMMAND, *arguments], env=broken, capture_output=True, text=True, check=False)
        assert shown.returncode == 1
        assert word in shown.stdout + shown.stderr
        assert "Traceback" not in shown.stderr


def test_both_commands_have_the_same_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (cli, cli.commands["convert"]):
        assert run(command, ["-h"]) == 0
        assert capsys.readouterr().out.startswith("Usage:")


def test_a_system_s_error_names_the_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["inspect", str(tmp_path / ("x" * 300))]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "File name too long" in shown
    assert shown.count("\n") == 1


def test_a_table_in_a_narrow_window_keeps_its_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("名前", "types")
    table.row("ひらがな", "1 F32, 2 Q8_0, 3 Q4_K, 4 Q6_K, 5 BF16")
    table.row("x", "1 F32")
    table.print()
    lines = capsys.readouterr().out.splitlines()
    assert all(width(line) <= 40 for line in lines)
    starts = {width(line[: line.index("1 F32")]) for line in lines if "1 F32" in line}
    assert starts == {10}
