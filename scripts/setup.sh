# Sourced by the other scripts: a virtual environment in .venv with this checkout and the extras named in $1.
# Does nothing when the same extras of the same pyproject.toml are already there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }

setup() {
  local extras=$1 python stamp
  python=$(command -v "${PYTHON:-python3}") || { say "Python 3.10 or newer is needed: install it, or set PYTHON"; exit 1; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { say "$python is too old: Python 3.10 or newer is needed"; exit 1; }
  stamp="$("$python" -V) [$extras] $(cksum < pyproject.toml)"
  if [ ! -x .venv/bin/python ]; then
    say "Making a virtual environment in .venv"
    "$python" -m venv .venv || { say "python3 -m venv failed (on Debian: apt-get install python3-venv)"; rm -rf .venv; exit 1; }
  fi
  touch .venv/installed
  if ! grep -qxF "$stamp" .venv/installed; then
    say "Installing gemma4gguf[$extras]. The first time llama.cpp is compiled: about 4 minutes on 2 cores."
    local log=.venv/install.log started=$SECONDS
    .venv/bin/python -m pip install --disable-pip-version-check -e ".[$extras]" > "$log" 2>&1 &
    local job=$!
    while kill -0 $job 2> /dev/null; do
      sleep 1
      if (((SECONDS - started) % 30 == 0)); then say "  still installing ($((SECONDS - started)) s)"; fi
    done
    wait $job || { tail -n 20 "$log" >&2; say "The installation failed; the whole log is in $log"; exit 1; }
    say "Installed in $((SECONDS - started)) s"
    printf '%s\n' "$stamp" >> .venv/installed
  fi
  PATH="$PWD/.venv/bin:$PATH"
}
