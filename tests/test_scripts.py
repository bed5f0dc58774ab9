"""The programs that make the documents' figures start, and can be started as the documents say."""

from __future__ import annotations

import os
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
