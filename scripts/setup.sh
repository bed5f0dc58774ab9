# Sourced by the other scripts: a virtual environment in .venv with this checkout and the extras named in $1.
# Does nothing when the same extras of the same pyproject.toml are already there.
# GEMMA4GGUF_WHOLE=1 compiles all of llama-cpp-python, also what gemma4gguf does not use. CMAKE_ARGS is passed on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }

setup() {
  local extras=$1 python stamp
  python=$(command -v "${PYTHON:-python3}") || { say "Python 3.10 or newer is needed: install it, or set PYTHON"; exit 1; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { say "$python is too old: Python 3.10 or newer is needed"; exit 1; }
  stamp="$("$python" -V) [$extras] $(cksum < pyproject.toml)"
  if [ ! -x .venv/bin/python ]; then
    needs_compiler
    say "Making a virtual environment in .venv"
    "$python" -m venv .venv || { say "python3 -m venv failed (on Debian: apt-get install python3-venv)"; rm -rf .venv; exit 1; }
  fi
  touch .venv/installed
  if ! grep -qxF "$stamp" .venv/installed; then
    local started=$SECONDS
    install_llama_cpp
    follow "Installing gemma4gguf[$extras]" .venv/install.log install -e ".[$extras]"
    say "Installed in $((SECONDS - started)) s"
    printf '%s\n' "$stamp" >> .venv/installed
  fi
  PATH="$PWD/.venv/bin:$PATH"
}

needs_compiler() {
  local tool
  for tool in "${CC:-cc}" "${CXX:-c++}"; do
    # Split as CMake does: CXX may hold options. On macOS c++ is there before the tools are, and fails.
    # shellcheck disable=SC2086
    $tool --version > /dev/null 2>&1 && continue
    say "A C and C++ compiler is needed ($tool does not run): apt-get install g++, dnf install gcc-c++, or on macOS xcode-select --install"
    exit 1
  done
}

# llama-cpp-python goes first, by a pip cache of its own: pip knows a wheel by its version, not by how it was compiled.
# Ours must not be what another project gets, nor another's what we get.
install_llama_cpp() {
  local wanted cache arguments=${CMAKE_ARGS:-}
  wanted=$(sed -n 's/.*"\(llama-cpp-python [^"]*\)".*/\1/p' pyproject.toml)
  if [ -z "${GEMMA4GGUF_WHOLE:-}" ]; then
    arguments="-DLLAVA_BUILD=OFF '-DCMAKE_PROJECT_llama.cpp_INCLUDE=$PWD/scripts/core.cmake' $arguments"
  fi
  cache="${GEMMA4GGUF_CACHE:-$HOME/.cache/gemma4gguf}/pip-$({ printf '%s\n' "${GEMMA4GGUF_WHOLE:+whole}" "${CMAKE_ARGS:-}"; cat scripts/core.cmake; } | cksum | cut -d ' ' -f 1)"
  CMAKE_ARGS=$arguments follow "Installing $wanted (the first time it is compiled: about 3 minutes on 2 cores)" \
    .venv/llama-cpp.log install -v --cache-dir "$cache" "$wanted"
}

# follow TITLE LOG ARGUMENT...: runs pip, and says every 15 seconds how far it is.
follow() {
  local title=$1 log=$2 started=$SECONDS job
  shift 2
  say "$title; log: $log"
  .venv/bin/python -m pip --disable-pip-version-check "$@" > "$log" 2>&1 &
  job=$!
  while kill -0 $job 2> /dev/null; do
    sleep 1
    if (((SECONDS - started) % 15 == 0)); then say "  $(stage "$log") ($((SECONDS - started)) s)"; fi
  done
  wait $job || { tail -n 20 "$log" >&2; say "The installation failed; the whole log is in $log"; exit 1; }
}

# What pip does, by its log: the last line that says it.
stage() {
  sed -n -E \
    -e 's/^ *\[([0-9]+)\/([0-9]+)\].*/compiling \1 of \2/p' \
    -e 's/^ *\[ *([0-9]+%)\].*/compiling, \1/p' \
    -e 's/^ *(Collecting|Downloading|Using cached) .*/downloading/p' \
    -e 's/^ *(Created wheel|Installing collected packages).*/installing/p' "$1" | tail -n 1 | grep . || echo starting
}
