"""Examine this machine: versions, processor, memory, what would keep gemma4gguf from running, and what fits.

Nothing comes in, or a bundle; findings go out, each with a name, a value and maybe a problem. Knows nothing of what
fits: that is `plan`'s.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..bundle.finding import model_names, models_folder
from ..errors import Gemma4Error
from ..machine import memory_limit, physical_cores

PACKAGES = {  # required package -> (the beginning of the version it was tested with, its module)
    "llama-cpp-python": ("0.3.36", ""),  # `_llama` loads it
    "gguf": ("0.19", "gguf"),
    "numpy": ("", "numpy"),
    "pillow": ("", "PIL.Image"),
    "soundfile": ("", "soundfile"),
    "soxr": ("", "soxr"),
    "huggingface-hub": ("", "huggingface_hub"),
    "click": ("", "click"),
    "jinja2": ("", "jinja2"),
}


@dataclass(frozen=True)
class Finding:
    name: str
    value: str
    problem: str = ""


def examine() -> list[Finding]:
    """Look at Python, packages, processor, memory, disk and llama.cpp."""
    return [
        Finding("python", platform.python_version()),
        Finding("system", f"{platform.system()} {platform.machine()}"),
        *_packages(),
        *_llama(),
        Finding("memory", _memory()),
        Finding("models folder", _models()),
        Finding("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB"),
    ]


def fitting(file: Path | None = None) -> list[Finding]:
    """What fits this machine's memory with each context: a bundle, or which type of the 12B with its drafter.

    Nothing where the memory is unknown, or a package does not load: `examine` says so. Raises FormatError.
    """
    if memory_limit() is None:
        return []
    try:
        from converters.mixture import UNDER_FOUR_BITS

        from .plan import for_each_context, plan
        from .released import released
    except (Gemma4Error, ImportError, OSError, RuntimeError):
        return []
    found, whose = plan(released() if file is None else file), "12B" if file is None else "model"
    return [
        Finding(
            f"{whose}, {at.context:,} tokens",
            f"{kind}: {at.fit}, takes {at.takes / 1e9:.2f} of {found.room / 1e9:.2f} GB"
            + (", fewer than 4 bits a weight" if kind in UNDER_FOUR_BITS else ""),
        )
        for kind, at in for_each_context(found)
    ]


def _models() -> str:
    count = len(model_names())
    return f"{models_folder()}, {count} {'model' if count == 1 else 'models'}"


def _packages() -> list[Finding]:
    out = [Finding("gemma4gguf", version("gemma4gguf"))]
    for name, (tested, module) in PACKAGES.items():
        try:
            have = version(name)
        except PackageNotFoundError:
            out.append(Finding(name, "not installed", f"install it: {sys.executable} -m pip install {name}"))
            continue
        problem = "" if have.startswith(tested) else f"gemma4gguf was tested with {tested}"
        out.append(Finding(name, have, _load(name, module) or problem))
    return out


def _load(name: str, module: str) -> str:
    """Import a package's module, if one is named. The problem, where it cannot be."""
    try:
        if module:
            import_module(module)
    except Exception as error:  # of any type: whatever is broken there
        return f"does not load ({' '.join(str(error).split())}); {_again(name)}"
    return ""


def _again(name: str) -> str:
    return f"install it again: {sys.executable} -m pip install --force-reinstall --no-cache-dir {name}"


def _llama() -> list[Finding]:
    try:
        from ..native import library  # may fail, which is a finding

        features = [part.strip() for part in library.system_info().split("|") if "= 1" in part]
        return [
            Finding("llama.cpp", library.version()),
            Finding("processor", ", ".join(f.split(" = ")[0].replace("CPU : ", "") for f in features) or "no extras"),
            Finding("gpu", _gpu(library.supports_gpu(), library.gpus())),
            Finding("threads", f"{physical_cores()} of {os.cpu_count()} logical processors"),
        ]
    except (Gemma4Error, ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        return [Finding("llama.cpp", "does not start", f"{reason}; {_again('llama-cpp-python')}")]


def _gpu(supported: bool, names: list[str]) -> str:
    if not supported:
        return "none in this build: decoding on the processor"
    return ", ".join(names) or "none found: decoding on the processor"


def _memory() -> str:
    limit = memory_limit()
    return "unknown on this system" if limit is None else f"{limit / 1e9:.1f} GB"
