#!/usr/bin/env python3
"""Each fact of llama.cpp that the code leans on, and whether it holds for the llama-cpp-python that is installed.

A fact is a test in tests/canaries, named after it. Each runs in a process of its own, because an engine that has
changed may end it. Two comparisons with others follow, which take a minute: logits and bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
COMPARISONS = {
    "tests/test_golden.py": "logits, ids and answers equal those of transformers",
    "tests/test_quant_bytes.py": "types and bytes equal those of llama_model_quantize",
}
WIDTH = 84


def canaries() -> dict[str, str]:
    """Test -> the fact that it is named after, in the order of the files."""
    listing = [*PYTEST, "--collect-only", "-o", "addopts=--import-mode=importlib", "tests/canaries"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    names = dict.fromkeys(line.partition("[")[0] for line in listed.stdout.splitlines() if "::" in line)
    if not names:
        sys.exit(f"pytest found no canaries:\n{listed.stdout}{listed.stderr}")
    return {name: name.partition("::test_")[2].replace("_", " ") for name in names}


def complaint(test: str, seconds: int) -> str:
    """Why a test fails, in one line; empty if it passes."""
    try:
        ran = subprocess.run([*PYTEST, test], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds} s"
    if ran.returncode == 0:
        return ""
    if ran.returncode < 0:
        return f"the process ended with signal {-ran.returncode}"
    errors = [line.removeprefix("E").strip() for line in ran.stdout.splitlines() if line.startswith("E ")]
    return errors[0] if errors else f"pytest ended with status {ran.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=int, default=600, help="seconds that a test may take [600]")
    given = parser.parse_args()
    print(f"{'llama-cpp-python ' + version('llama-cpp-python'):{WIDTH}} holds")
    failed = 0
    for test, fact in (canaries() | COMPARISONS).items():
        why = complaint(test, given.timeout)
        failed += bool(why)
        print(f"{fact:{WIDTH}} {f'NO   {test}: {why}' if why else 'yes'}", flush=True)
    sys.exit(f"{failed} do not hold" if failed else 0)


if __name__ == "__main__":
    main()
