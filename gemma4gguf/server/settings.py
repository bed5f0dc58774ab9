"""What one request may cost: a table of limits, with the option that sets each and its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """What one limit is: the option that sets it, its type and its help."""

    option: str
    kind: type
    help: str


def _limit(option: str, default: Any, help: str) -> Any:
    return field(default=default, metadata={"limit": Limit(option, type(default), help)})


@dataclass(frozen=True)
class Limits:
    """The most that a request may cost; what is above is refused, or the answer ends."""

    body: int = _limit("max-body", 32 << 20, "Bytes of a request.")
    body_seconds: float = _limit("max-body-time", 60.0, "Seconds that a request may take to arrive.")
    pictures: int = _limit("max-images", 32, "Pictures in a request.")
    pixels: int = _limit("max-pixels", 50_000_000, "Pixels of a picture.")
    sound: float = _limit("max-sound", 900.0, "Seconds of sound in a request.")
    tokens: int = _limit("max-answer", 16_384, "Tokens of an answer.")
    silence: float = _limit("max-silence", 300.0, "Seconds that one who is listened to may say nothing.")
    seconds: float = _limit("max-time", 1800.0, "Seconds until an answer is cut off.")
    grammars: bool = _limit("allow-grammar", False, "Take raw grammars (GBNF) in requests.")
    queue: int = _limit("queue", 32, "Requests that may wait; further ones are told to come back (429).")


LIMITS: Mapping[str, Limit] = {f.name: f.metadata["limit"] for f in fields(Limits)}
