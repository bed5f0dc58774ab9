"""What llama.cpp says in its log of the memory that it takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.private import ROOT

MIB = 2**20
LOG = """
import sys
from gemma4gguf import Gemma4
how = {name: int(value) if value.isdecimal() else value for name, value in (part.split("=") for part in sys.argv[2:])}
with Gemma4(sys.argv[1], draft="off", debug=True, **how) as model:
    model.load()
"""


def said(path: Path, what: str, **how: object) -> list[float]:
    """Sizes in MiB that llama.cpp's log gives for one kind of buffer. `how`: options of Gemma4, numbers and words."""
    given = [f"{name}={value}" for name, value in how.items()]
    ended = subprocess.run(
        [sys.executable, "-c", LOG, str(path), *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [float(n) for n in re.findall(rf"{what} buffer size =\s+([\d.]+) MiB", ended.stderr)]
