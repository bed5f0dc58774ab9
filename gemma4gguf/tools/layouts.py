"""Plan an export: the files, their names, the set-up files and the commands that each runtime needs.

A bundle and the place for its parts come in. A plan goes out: files to make, commands to type, notes on what differs
there. Nothing is written here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.container import padded
from ..bundle.reading import DRAFTER, EMBEDDER, TEXT, Bundle, Section
from ..bundle.settings import end_tokens

PREFIXES = {TEXT: "", EMBEDDER: "mmproj-", DRAFTER: "mtp-"}  # what llama.cpp and LM Studio look for beside a model
MICRO_BATCH = 512  # llama.cpp's own
# A picture's budget in soft tokens -> llama.cpp's --image-min-tokens. llama.cpp rounds sizes up to this limit and down
# to --image-max-tokens; the reference always rounds down. With these values most pictures get the reference's size (75,
# 84, 99, 93 and 77 % of those with a camera's or screen's aspect ratio), and those that have it already keep it.
MIN_TOKENS = {70: 54, 140: 118, 280: 250, 560: 512, 1120: 1048}
OVERSHOOT = 1.3  # times the budget: llama.cpp's rounding gives at most this for aspect ratios up to 100


@dataclass(frozen=True)
class Order:
    """A file to make: a section, or a set-up file's bytes. `link`: a hard link to the bundle will do."""

    path: Path
    content: Section | bytes
    link: bool = False

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.size


@dataclass(frozen=True)
class Job:
    """Everything that a target's plan depends on. `name` is the bundle's, made safe for file names everywhere."""

    bundle: Bundle
    name: str
    folder: Path
    image_tokens: int
    link: bool

    def file(self, architecture: str) -> str:
        return f"{PREFIXES[architecture]}{self.name}.gguf"

    def has(self, architecture: str) -> bool:
        return self.bundle.section(architecture) is not None

    def orders(self, folder: Path, architectures: Sequence[str], *, whole: bool) -> Iterator[Order]:
        """The parts to make. `whole`: the target reads a bundle as a text model, so a hard link to it will do."""
        for architecture in architectures:
            section = self.bundle.section(architecture)
            if section is not None:
                enough = architecture == TEXT and (whole or len(self.bundle.sections) == 1)
                yield Order(folder / self.file(architecture), section, self.link and enough)

    @property
    def micro_batch(self) -> int:
        return max(MICRO_BATCH, padded(int(OVERSHOOT * self.image_tokens), 64))


ExportPlan = tuple[list[Order], list[str], list[str]]  # files, commands, notes


def safe(name: str) -> str:
    """A name that needs no quotes in a shell, a URL or a Modelfile."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "gemma4"


# ── llama.cpp ────────────────────────────────────────────────────────────────────────────────────────────────────


def _llama_cpp(job: Job) -> ExportPlan:
    orders = list(job.orders(job.folder, (TEXT, EMBEDDER, DRAFTER), whole=True))
    words = ["llama-server", "--model", str(job.folder / job.file(TEXT)), "--ctx-size", "8192"]
    notes = []
    if job.has(EMBEDDER):
        words += ["--mmproj", str(job.folder / job.file(EMBEDDER)), *image_options(job.image_tokens)]
        words += ["--ubatch-size", str(job.micro_batch)]
        notes += [*MTMD_NOTES]
    if job.has(DRAFTER):
        words += ["--spec-type", "draft-mtp", "--spec-draft-model", str(job.folder / job.file(DRAFTER))]
    return orders, [shlex.join(words)], notes


def image_options(image_tokens: int) -> list[str]:
    """llama.cpp's options for a picture's budget: see MIN_TOKENS."""
    return ["--image-min-tokens", str(MIN_TOKENS[image_tokens]), "--image-max-tokens", str(image_tokens)]


MTMD_NOTES = (
    "llama.cpp b9503 or later is needed for pictures and sound (older ones: unknown projector type gemma4uv)",
    "most pictures get the size of the reference there, the rest one row or column of patches more or less; it adds "
    "black borders where the reference stretches: for exact soft tokens give pictures at the reference's size "
    "(gemma4gguf.patchify tells it)",
    "transparent pictures turn black there; here they turn white, as in the reference",
)


# ── LM Studio ────────────────────────────────────────────────────────────────────────────────────────────────────


def _lm_studio(job: Job) -> ExportPlan:
    folder = job.folder / _publisher(job.bundle.text.metadata) / job.name
    orders = list(job.orders(folder, (TEXT, EMBEDDER), whole=True))
    orders.append(Order(folder / "README.md", _readme(job).encode()))
    notes = [_LM_STUDIO_VERSION] if job.has(EMBEDDER) else []
    if job.has(DRAFTER):
        notes.append("the MTP drafter stays behind: LM Studio is not known to load one")
    models = "~/.lmstudio/models"
    source = shlex.quote(str(folder.parent))
    return orders, [f"mkdir -p {models}", f"cp -R {source} {models}/", "lms ls"], notes


_LM_STUDIO_VERSION = (
    "LM Studio 0.4.12 and older refuse the projector (unknown projector type gemma4uv): its llama.cpp runtime must be "
    "b9503 or later"
)


def _publisher(metadata: Mapping[str, Any]) -> str:
    """LM Studio's folder for the model: its maker, if the file names one."""
    for key in ("general.organization", "general.base_model.0.organization", "general.author"):
        value = metadata.get(key)
        if isinstance(value, str) and value.strip():
            return safe(value.strip().lower())
    return "gemma4gguf"


def _readme(job: Job) -> str:
    metadata, sees = job.bundle.text.metadata, job.has(EMBEDDER)
    able = "reads text, sees pictures and hears sound" if sees else "reads text (this bundle has no embedder)"
    lines = [
        f"# {metadata.get('general.name') or job.name}",
        "",
        f"Laid out for LM Studio by gemma4gguf. The model {able}.",
        "",
        "| file | what it is |",
        "|---|---|",
        f"| `{job.file(TEXT)}` | the text model |",
        *(
            [f"| `{job.file(EMBEDDER)}` | what pictures and sound need; LM Studio finds it by its name |"]
            if sees
            else []
        ),
        "",
        "Put this folder and the one above it into LM Studio's models folder (`~/.lmstudio/models`), so that the files",
        f"lie in `models/{_publisher(metadata)}/{job.name}/`.",
        "",
    ]
    if sees:
        lines += [
            "Needed: an LM Studio newer than 0.4.12, with a llama.cpp runtime of b9503 or later. Older ones stop with",
            "`unknown projector type: gemma4uv`.",
            "",
        ]
    lines += [
        "Not there: drafts. LM Studio is not known to load this model's MTP drafter, so it was left out.",
        "Its context, sampling and chat template come from the file.",
        "",
    ]
    if metadata.get("general.license"):
        lines += [f"Licence of the model: {metadata['general.license']}.", ""]
    return "\n".join(lines)


# general.sampling's key -> Ollama's parameter
PARAMETERS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}


# ── Ollama ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _ollama(job: Job) -> ExportPlan:
    # Ollama copies whole files into its store. It gets parts: with the bundle, the other parts would be stored twice.
    orders = list(job.orders(job.folder, (TEXT, EMBEDDER, DRAFTER), whole=False))
    orders.append(Order(job.folder / "Modelfile", modelfile(job.bundle, job.name).encode()))
    name = job.name.lower()
    commands = [
        f"ollama create {name} -f {shlex.quote(str(job.folder / 'Modelfile'))}",
        f"ollama show {name}",
        f'ollama run {name} "What is in this picture? ./cat.jpg"' if job.has(EMBEDDER) else f"ollama run {name}",
    ]
    notes = [
        "Ollama prepares pictures by llama.cpp's rules and its own budget: their sizes differ from the reference's"
    ]
    return orders, commands, notes if job.has(EMBEDDER) else []


def modelfile(bundle: Bundle, name: str) -> str:
    """A Modelfile for a bundle's parts in the same folder.

    RENDERER is set because Ollama would choose by the number of parameters and treat the 12B as a small model. The
    small models' prompt lacks the empty thought that the 12B was trained to see when thinking is off. A TEMPLATE would
    replace the renderer and lose its tool calls.
    """
    metadata = bundle.text.metadata
    lines = [f"FROM ./{PREFIXES[TEXT]}{name}.gguf"]
    if bundle.section(EMBEDDER) is not None:
        lines.append(f"FROM ./{PREFIXES[EMBEDDER]}{name}.gguf")
    if bundle.section(DRAFTER) is not None:
        lines.append(f"DRAFT ./{PREFIXES[DRAFTER]}{name}.gguf")
    lines += ["RENDERER gemma4-large", "PARSER gemma4"]
    for key, option in PARAMETERS.items():
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            lines.append(f"PARAMETER {option} {value:.6g}")
    lines += [f'PARAMETER stop "{token}"' for token in _stops(metadata)]
    return "\n".join([*lines, ""])


def _stops(metadata: Mapping[str, Any]) -> list[str]:
    """Texts that Ollama must stop at. It stops at <eos> by itself, and a Modelfile cannot hold some characters."""
    return [text for text in end_tokens(metadata) if text != "<eos>" and not {'"', "\n", "\\"} & set(text)]


LAYOUTS: dict[str, Callable[[Job], ExportPlan]] = {"llama.cpp": _llama_cpp, "lmstudio": _lm_studio, "ollama": _ollama}
