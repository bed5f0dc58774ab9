"""Read the headers of what is to be planned: a bundle, a checkpoint folder, a checkpoint or GGUF files on the Hub.

What somebody typed comes in. A `Source` goes out: the model's facts, the types it can be had in, and the commands that
get it and run it. Nothing but headers is read, and of the Hub nothing else is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converters import mixture
from converters.checkpoint import read_checkpoint
from converters.contents import Contents
from converters.gguf_source import read_gguf
from converters.mixture import FLOATS, MIXTURES
from converters.origin import Origin, locate
from converters.plan import plan_section

from ..arguments import local_path
from ..bundle.finding import HUB_ID, find_model
from ..bundle.reading import Bundle, Section
from ..bundle.validation import check_text
from ..bundle.writing import planned_section
from ..errors import InputError
from ..runtime.memory import Facts
from .hub import look_up
from .hub_parts import candidates
from .offer import look

TYPE, DRAFTER_TYPE = "Q4_K_M", "Q8_0"  # what a conversion makes where nobody asks for another
QUANTISED = tuple(name for name, kind in MIXTURES.items() if kind.default not in FLOATS)  # the best first
Progress = Callable[[int, int], None]  # bytes so far, bytes in all


@dataclass(frozen=True)
class Source:
    """`type` is that of the facts' tensors, `types` those that it can be had in, the best first.

    `trained_for`: a type that is better for this model than better ones. `get(type)` is the command that makes the
    bundle `named(type)`, or None where it is there already or is not to be had; `get_mix(size)`, such as "6.5GB", one
    that makes a bundle of that size, where types can be chosen.
    """

    facts: Facts
    type: str
    types: tuple[str, ...]
    named: Callable[[str], str]
    get: Callable[[str], list[str] | None]
    trained_for: str | None = None
    get_mix: Callable[[str], list[str] | None] = lambda _: None


def read_source(source: str | Path, drafter: str | Path | None, progress: Progress) -> Source:
    """Read a source, perhaps with a type after a colon. Raises InputError, FormatError and ConversionError."""
    text = str(source)
    name, colon, kind = text.rpartition(":")
    if local_path(text).is_dir():
        return _checkpoint(text, None, drafter, progress)
    if colon and local_path(name).is_dir():
        return _checkpoint(name, kind, drafter, progress)
    hub_id = HUB_ID.fullmatch(text)
    if hub_id and not Path(text).exists() and not Path(hub_id["repo"]).parent.exists():
        repository = look_up(hub_id["repo"], hub_id["revision"])
        if not repository.is_checkpoint:
            types = [candidate.type for candidate in candidates(repository)]
            return _published(text, hub_id["type"], types, drafter)
        place = hub_id["repo"] + (f"@{hub_id['revision']}" if hub_id["revision"] else "")
        return _checkpoint(place, hub_id["type"], drafter, progress)
    return _bundle(find_model(source), drafter)


def _bundle(path: Path, drafter: str | Path | None) -> Source:
    if drafter is not None:
        raise InputError(f"drafter: {path} is a finished bundle; add one with `gemma4gguf pack`")
    bundle = Bundle.open(path)
    check_text(bundle.text)
    kind = _stored(bundle.text)
    return Source(Facts.of(bundle.sections), kind, (kind,), lambda _: str(path), lambda _: None)


def _stored(text: Section) -> str:
    """The name of a text section's mixture."""
    number = text.metadata.get("general.file_type")
    return next((name for name, kind in MIXTURES.items() if kind.file_type == number), "its types")


def _checkpoint(place: str, wanted: str | None, drafter: str | Path | None, progress: Progress) -> Source:
    kind = mixture.mixture("source", wanted).name if wanted else None
    origin = locate(place, progress, plan_only=True)
    contents = _contents(origin)
    sections = [_planned(origin, contents, i, kind or TYPE) for i in range(len(contents.sections))]
    more = []
    if drafter is not None:
        other = locate(drafter, progress, plan_only=True)
        sections.append(_planned(other, _contents(other, drafter=True), 0, DRAFTER_TYPE))
        more = ["--drafter", str(drafter)]

    def named(chosen: str) -> str:
        return f"{origin.name}-{chosen}.gguf"

    def get(chosen: str) -> list[str]:
        return ["convert-to-gguf", place, named(chosen), "--quant", chosen, *more]

    def get_mix(size: str) -> list[str] | None:
        return None if kind else ["convert-to-gguf", place, named(size), "--target-size", size, *more]

    types = (kind,) if kind else QUANTISED
    return Source(Facts.of(sections), kind or TYPE, types, named, get, contents.trained_for, get_mix)


def _contents(origin: Origin, *, drafter: bool = False) -> Contents:
    return (read_gguf if origin.is_gguf else read_checkpoint)(origin, drafter=drafter)


def _planned(origin: Origin, contents: Contents, index: int, kind: str) -> Section:
    part = plan_section(contents.sections[index], MIXTURES[kind]).part(threads=1)
    return planned_section(part, origin.path)


def _published(source: str, wanted: str | None, offered: list[str], drafter: str | Path | None) -> Source:
    """GGUF parts on the Hub: the facts are of the text model that a pull would take, the types those of the files."""
    given = None if drafter is None else str(drafter)
    offer = look(source, drafter=given)
    kind = offer.record.type
    there = [name for name in QUANTISED if name in offered]
    there = there if kind in there else [kind, *there]
    repo = source.partition(":")[0]
    more = [] if given is None else ["--drafter", given]

    def get(chosen: str) -> list[str] | None:
        if chosen not in there:
            return None
        return ["gemma4gguf", "pull", f"{repo}:{wanted if wanted and chosen == kind else chosen}", *more]

    types = (kind,) if wanted else tuple(there)
    return Source(Facts.of(offer.sections), kind, types, lambda chosen: offer.name.replace(kind, chosen), get)
