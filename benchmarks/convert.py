#!/usr/bin/env python3
"""Conversion against llama.cpp's converter and quantiser, in the same run on the same machine.

    benchmarks/convert.py CHECKPOINT DRAFTER WORK_FOLDER --converter PATH/convert_hf_to_gguf.py --python PYTHON
        [--quantize PATH/llama-quantize] [--types Q4_K_M,Q4_0,Q8_0]

PYTHON is an interpreter with torch and transformers, which llama.cpp's converter needs. Without --quantize, the
quantiser is the same C function, llama_model_quantize, from the installed llama-cpp-python. Prints one JSON object:
wall and processor seconds, peak private memory (not page cache) and bytes written of every step, and our ratio.
Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from converters import MIXTURES  # noqa: E402
from tests.support.private import watched  # noqa: E402

OURS = """
import sys
from converters import convert
convert(sys.argv[1], sys.argv[2], quant=sys.argv[3], drafter=sys.argv[4], drafter_quant="Q8_0", force=True)
"""
THEIRS = """
import ctypes, sys
import llama_cpp.llama_cpp as llama
silent = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(silent, None)
params = llama.llama_model_quantize_default_params()
params.ftype = int(sys.argv[3])
sys.exit(llama.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def measure(command: list[str], out: Path) -> dict[str, Any]:
    """Run a command; wall and processor seconds, peak private MB, and the bytes of the file it wrote."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with watched(process.pid) as peak:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: ended with {process.returncode}\n{said.decode(errors='replace')[-2000:]}")
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_private_mb": round(peak[0] / 1e6),
        "bytes": out.stat().st_size,
    }


def total(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": round(sum(s["seconds"] for s in steps), 1),
        "processor_seconds": round(sum(s["processor_seconds"] for s in steps), 1),
        "peak_private_mb": max(s["peak_private_mb"] for s in steps),
        "bytes": sum(s["bytes"] for s in steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("drafter", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--converter", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--quantize", type=Path)
    parser.add_argument("--types", default="Q4_K_M,Q4_0,Q8_0")
    options = parser.parse_args()
    work: Path = options.work

    def convert(source: Path, name: str, *more: str) -> dict[str, Any]:
        out = work / name
        command = [options.python, str(options.converter), str(source), "--outfile", str(out), *more]
        return measure(command, out)

    steps = {
        "text_bf16": convert(options.checkpoint, "text-bf16.gguf", "--outtype", "bf16"),
        "projector": convert(options.checkpoint, "mmproj.gguf", "--outtype", "bf16", "--mmproj"),
        "drafter_q8_0": convert(options.drafter, "drafter.gguf", "--outtype", "q8_0"),
    }
    results = {}
    for quant in options.types.split(","):
        ours, theirs = work / "ours.gguf", work / "theirs.gguf"
        command = [sys.executable, "-c", OURS, str(options.checkpoint), str(ours), quant, str(options.drafter)]
        our_step = measure(command, ours)
        if options.quantize:
            command = [str(options.quantize), str(work / "text-bf16.gguf"), str(theirs), quant]
        else:
            kind = str(MIXTURES[quant].file_type)
            command = [sys.executable, "-c", THEIRS, str(work / "text-bf16.gguf"), str(theirs), kind]
        quantize = measure(command, theirs)
        their_total = total([*steps.values(), quantize])
        results[quant] = {
            "ours": our_step,
            "llama.cpp": their_total | {"quantize": quantize},
            "ratio": round(our_step["seconds"] / their_total["seconds"], 3),
            "processor_ratio": round(our_step["processor_seconds"] / their_total["processor_seconds"], 3),
        }
        ours.unlink()
        theirs.unlink()
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0], "steps": steps, "types": results}, indent=2))


if __name__ == "__main__":
    main()
