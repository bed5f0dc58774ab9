"""The programs that make the documents' figures start, and can be started as the documents say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDS_TORCH = {"make_golden.py"}
PROGRAMS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("scripts/*.py")])


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_can_be_executed(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("path", [p for p in PROGRAMS if p.name not in NEEDS_TORCH], ids=lambda path: path.name)
def test_says_how_it_is_used(path: Path) -> None:
    shown = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"usage: {path.name}")


def test_a_missing_compiler_is_named_before_anything_is_done(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    run = subprocess.run(
        [tmp_path / "scripts" / "demo"], capture_output=True, text=True, env={**os.environ, "CXX": "/no/such/c++"}
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    for part in ("/no/such/c++", "apt-get install g++", "dnf install gcc-c++", "xcode-select --install"):
        assert part in run.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("log", "stage"),
    [
        ("", "starting"),
        ("Collecting llama-cpp-python\n  Downloading llama_cpp_python.tar.gz\n", "downloading"),
        ("Collecting numpy\n  [7/83] /usr/bin/c++ -c a.cpp\n  [12/83] /usr/bin/c++ -c b.cpp\n", "compiling 12 of 83"),
        ("Collecting numpy\n  [ 40%] Building CXX object a.o\n", "compiling, 40%"),  # make's way
        ("  [83/83] link\n  Created wheel for llama-cpp-python\n", "installing"),
    ],
)
def test_setup_says_how_far_it_is(log: str, stage: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log, encoding="utf-8")
    script = f'source "{ROOT}/scripts/setup.sh"; stage "{tmp_path}/log"'
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == f"{stage}\n"
