#!/usr/bin/env python3
"""Run llama.cpp's own tests of chat completions, tool calls and schemas against our server.

Their files are run out of the sources of scripts/peers, as they are; tests/support/llama_server.py begins our server in
place of theirs, and has the tables of what is adapted and what is left out, with the reasons.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.support.llama_server import EXCEPTIONS, FILES

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="the tiny model as a bundle")
    parser.add_argument("--sources", type=Path, help="of llama.cpp [those of scripts/peers]")
    args = parser.parse_args()
    sources = args.sources or _peers() / "llama.cpp"
    tests = sources / "tools" / "server" / "tests"
    files = [f"unit/{name}" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.llama_server", "-p", "no:cacheprovider"]
    command += [
        "--rootdir",
        str(tests),
        "-c",
        str(tests / "pytest.ini"),
        "--bundle",
        str(args.bundle.absolute()),
        *files,
    ]
    print(f"{len(EXCEPTIONS)} exceptions:")
    for name, why in EXCEPTIONS.items():
        print(f"  {name}: {why}")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    sys.exit(subprocess.run(command, cwd=tests, env=environment).returncode)


def _peers() -> Path:
    run = subprocess.run([ROOT / "scripts" / "peers"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
