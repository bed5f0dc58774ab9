"""A bundle's parts under the names that other runtimes look for, and what to type there.

In: a bundle and a folder. Out: files, each a section byte for byte (or the whole file under a second name, where a
text model is enough), the runtime's own set-up file, and exact commands. What a runtime does differently is said.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .bundle import COPY_BYTES, DRAFTER, EMBEDDER, NAMES, SECTION_ALIGNMENT, TEXT, Bundle, Section, new_file
from .container import LazyStrings, padded
from .errors import ConversionError, FormatError, InputError
from .image import DEFAULT_BUDGET, check_budget

PREFIXES = {TEXT: "", EMBEDDER: "mmproj-", DRAFTER: "mtp-"}  # what llama.cpp and LM Studio look for beside a model
MICRO_BATCH = 512  # llama.cpp's own
# Soft tokens a picture may take -> llama.cpp's --image-min-tokens. It rounds sizes up below that limit and down above
# the other one, the reference always down: these values make most sizes equal (of pictures with the aspect ratios of
# cameras and screens 75, 84, 99, 93 and 77 %), and leave alone what has the reference's size already.
BUDGETS = {70: 54, 140: 118, 280: 250, 560: 512, 1120: 1048}
OVERSHOOT = 1.3  # times the budget: what llama.cpp's rounding up makes of pictures up to 100 times as long as wide
LLAMA_CPP, LM_STUDIO, OLLAMA = TARGETS = ("llama.cpp", "lmstudio", "ollama")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class File:
    """One file that was made. `how`: cut (copied), linked (the whole bundle's second name), written, or there."""

    path: Path
    what: str
    size: int
    how: str


@dataclass(frozen=True)
class Exported:
    """What was made, what to type (one command a line), and what differs there from gemma4gguf."""

    target: str
    folder: Path
    files: tuple[File, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Order:
    """A file to be made: a section, or a text that was written here."""

    path: Path
    content: Section | bytes
    link: bool = False

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.size


@dataclass(frozen=True)
class _Job:
    """Everything a target's plan depends on. `name` is the bundle's, safe as a file name everywhere."""

    bundle: Bundle
    name: str
    folder: Path
    image_tokens: int
    link: bool

    def file(self, architecture: str) -> str:
        return f"{PREFIXES[architecture]}{self.name}.gguf"

    def has(self, architecture: str) -> bool:
        return self.bundle.section(architecture) is not None

    def orders(self, folder: Path, architectures: Sequence[str], *, whole: bool) -> Iterator[_Order]:
        """`whole`: the target reads the whole bundle as a text model, so that a second name of it will do."""
        for architecture in architectures:
            section = self.bundle.section(architecture)
            if section is not None:
                enough = architecture == TEXT and (whole or len(self.bundle.sections) == 1)
                yield _Order(folder / self.file(architecture), section, self.link and enough)

    @property
    def micro_batch(self) -> int:
        return max(MICRO_BATCH, padded(int(OVERSHOOT * self.image_tokens), 64))


_Plan = tuple[list[_Order], list[str], list[str]]  # files, commands, notes


def export(
    file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    target: str,
    *,
    image_tokens: int | None = None,
    link: bool = True,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Lay a bundle out for `target` (llama.cpp, lmstudio, ollama) in `folder`, which is made if need be.

    `image_tokens`: the budget of a picture there [the bundle's own, else 280]. `link` False: no hard links, every
    file stands for itself. `progress` is told (bytes written, in all). Nothing that exists is touched without `force`,
    and each file appears only when it is complete. Raises InputError, FormatError and ConversionError.
    """
    if target not in TARGETS:
        raise InputError(f"a layout for {target!r}; the known ones are {', '.join(TARGETS)}")
    bundle = Bundle.open(file)
    if bundle.missing:
        raise FormatError(f"{bundle.path}: {bundle.absence(bundle.missing[0])}")
    budget = image_tokens or bundle.text.metadata.get("gemma4gguf.image.max_soft_tokens", DEFAULT_BUDGET)
    check_budget(budget)
    job = _Job(bundle, _safe(bundle.path.stem), Path(folder), budget, link)
    orders, commands, notes = _PLANS[target](job)
    todo = [order for order in orders if not _is_there(order, bundle.path)]
    _check(todo, force=force)
    total = sum(order.size for order in todo)
    made, done = [], 0

    def report(n: int) -> None:
        progress(done + n, total)

    for order in orders:
        how = "there"
        if order in todo:
            order.path.parent.mkdir(parents=True, exist_ok=True)
            how = _make(order, bundle.path, force=force, progress=report)
            done += order.size
        what = NAMES[order.content.architecture] if isinstance(order.content, Section) else "set-up"
        made.append(File(order.path, what, order.path.stat().st_size, how))
    return Exported(target, Path(folder), tuple(made), tuple(commands), tuple(notes))


def _safe(name: str) -> str:
    """A name that needs no quotes in a shell, a URL or a Modelfile."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "gemma4"


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_there(order: _Order, source: Path) -> bool:
    """The bundle itself lies where its text model is wanted, as in its own folder."""
    if not any(_same_entry(order.path, name) for name in (source, source.resolve())):
        return False
    if order.link:
        return True
    raise InputError(f"{order.path}: is the bundle itself, which the export would replace; choose another folder")


def _same_entry(path: Path, other: Path) -> bool:
    """Whether both name one entry of one folder: a second hard link is another entry, and may be replaced."""
    if not path.exists() or path.name.casefold() != other.name.casefold():
        return False
    return path.parent.samefile(other.parent) and path.samefile(other)


def _check(orders: Sequence[_Order], *, force: bool) -> None:
    """Everything that can be refused is refused before the first file is made."""
    needed = sum(order.size for order in orders if not order.link)
    for order in orders:
        if order.path.is_dir():
            raise ConversionError(f"{order.path}: is a folder where a file must go; choose another folder")
        if order.path.exists() and not force:
            raise ConversionError(f"{order.path}: exists already; choose another folder or use --force")
        for parent in order.path.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise ConversionError(f"{parent}: is a file where a folder must go; choose another folder")
                free = shutil.disk_usage(parent).free
                if needed > free:
                    raise ConversionError(
                        f"{order.path.parent}: the parts need {needed:,} bytes and the disk has {free:,}; make room"
                    )
                break


def _make(order: _Order, source: Path, *, force: bool, progress: Callable[[int], None]) -> str:
    if order.link and _linked(source, order.path):
        return "linked"
    with new_file(order.path, order.size, force=force) as out:
        if isinstance(order.content, bytes):
            out.write(order.content)
            return "written"
        _cut(order.content, out, progress)
        return "cut"


def _linked(source: Path, path: Path) -> bool:
    """Give the whole bundle a second name; False where the file system cannot."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        partial.hardlink_to(source.resolve())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        return False
    return True


def _cut(section: Section, out: IO[bytes], progress: Callable[[int], None]) -> None:
    """Copy a section. File systems that can share blocks do so: sections begin at whole blocks."""
    done = 0
    with open(section.path, "rb") as file:
        room = os.fstat(file.fileno()).st_size - section.offset
        wanted = min(padded(section.size, SECTION_ALIGNMENT), room)  # up to a whole block, cut off again below
        with suppress(AttributeError, OSError):  # another system, or a file system that cannot
            while done < wanted:
                step = min(COPY_BYTES, wanted - done)
                n = os.copy_file_range(file.fileno(), out.fileno(), step, section.offset + done, done)
                if n == 0:
                    break
                done += n
                progress(min(done, section.size))
    if done < section.size:
        out.seek(0)
        done = 0
        for piece in section.copy():
            out.write(piece)
            done += len(piece)
            progress(done)
        out.flush()
    out.truncate(section.size)


# ── llama.cpp ────────────────────────────────────────────────────────────────────────────────────────────────────


def _llama_cpp(job: _Job) -> _Plan:
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
    """llama.cpp's options for a picture's budget, see BUDGETS."""
    return ["--image-min-tokens", str(BUDGETS[image_tokens]), "--image-max-tokens", str(image_tokens)]


MTMD_NOTES = (
    "llama.cpp b9503 or later is needed for pictures and sound (older ones: unknown projector type gemma4uv)",
    "most pictures get the size of the reference there, the rest one row or column of patches more or less; it adds "
    "black borders where the reference stretches: for exact soft tokens give pictures at the reference's size "
    "(gemma4gguf.patchify tells it)",
    "transparent pictures turn black there; here they turn white, as in the reference",
)


# ── LM Studio ────────────────────────────────────────────────────────────────────────────────────────────────────


def _lm_studio(job: _Job) -> _Plan:
    folder = job.folder / _publisher(job.bundle.text.metadata) / job.name
    orders = list(job.orders(folder, (TEXT, EMBEDDER), whole=True))
    orders.append(_Order(folder / "README.md", _readme(job).encode()))
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
    """The folder LM Studio files a model under: who made it, where the file says so."""
    for key in ("general.organization", "general.base_model.0.organization", "general.author"):
        value = metadata.get(key)
        if isinstance(value, str) and value.strip():
            return _safe(value.strip().lower())
    return "gemma4gguf"


def _readme(job: _Job) -> str:
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


# ── Ollama ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _ollama(job: _Job) -> _Plan:
    # Whole files are hashed and stored there: parts, never the bundle, or the rest would be stored twice.
    orders = list(job.orders(job.folder, (TEXT, EMBEDDER, DRAFTER), whole=False))
    orders.append(_Order(job.folder / "Modelfile", modelfile(job.bundle, job.name).encode()))
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
    """A Modelfile for a bundle's parts, which lie beside it.

    RENDERER names the large family's layout: left to itself, Ollama chooses by the number of parameters and takes the
    12B for a small one, whose prompt lacks the empty thought that this model was trained to see when it is not asked
    to think. A TEMPLATE would bypass the renderer and its tool calls.
    """
    metadata = bundle.text.metadata
    lines = [f"FROM ./{PREFIXES[TEXT]}{name}.gguf"]
    if bundle.section(EMBEDDER) is not None:
        lines.append(f"FROM ./{PREFIXES[EMBEDDER]}{name}.gguf")
    if bundle.section(DRAFTER) is not None:
        lines.append(f"DRAFT ./{PREFIXES[DRAFTER]}{name}.gguf")
    lines += ["RENDERER gemma4-large", "PARSER gemma4"]
    for key, option in (("temp", "temperature"), ("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p")):
        value = metadata.get(f"general.sampling.{key}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            lines.append(f"PARAMETER {option} {value:.6g}")
    lines += [f'PARAMETER stop "{token}"' for token in _stops(metadata)]
    return "\n".join([*lines, ""])


def _stops(metadata: Mapping[str, Any]) -> list[str]:
    """Texts of the tokens that end an answer; <eos> ends it in any case and is no text."""
    ids, tokens = metadata.get("gemma4gguf.eos_token_ids"), metadata.get("tokenizer.ggml.tokens")
    own: list[str] = []
    if isinstance(ids, list) and isinstance(tokens, LazyStrings):
        own = [tokens[i] for i in ids if type(i) is int and 0 <= i < len(tokens)]
    found = [text for text in own or ("<turn|>", "<|tool_response>") if text != "<eos>"]
    return [text for text in found if not {'"', "\n", "\\"} & set(text)]


_PLANS: dict[str, Callable[[_Job], _Plan]] = {LLAMA_CPP: _llama_cpp, LM_STUDIO: _lm_studio, OLLAMA: _ollama}
