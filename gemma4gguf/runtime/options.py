"""How one answer is made: the options a caller may give, checked by one table.

In: option names and values, and a file's generation config. Out: a frozen record, and what the sampler is told.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..arguments import real, whole
from ..errors import InputError
from ..native.sampler import SamplingOptions

# What the model card recommends, where a file does not say.
SAMPLING = {"temperature": ("temp", 1.0), "top_k": ("top_k", 64), "top_p": ("top_p", 0.95)}


@dataclass(frozen=True)
class Options:
    """How one answer is made. None: what the model's own generation config says.

    `max_tokens` None: until the context is full. `temperature` 0: greedy. `seed` None: a new one, told in the result.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float = 0.0
    seed: int | None = None
    stop: Sequence[str] | str | None = ()

    def __post_init__(self) -> None:
        limits: list[tuple[str, Callable[..., float], Callable[[float], bool], str]] = [
            ("max_tokens", whole, lambda v: v >= 1, "a whole number, at least 1"),
            ("temperature", real, lambda v: 0 <= v < float("inf"), "0 (greedy) or more"),
            ("top_k", whole, lambda v: 0 <= v < 1 << 31, "a whole number, 0 (off) to 2147483647"),
            ("top_p", real, lambda v: 0 < v <= 1, "above 0, at most 1"),
            ("min_p", real, lambda v: 0 <= v <= 1, "0 to 1"),
            ("seed", whole, lambda v: 0 <= v < 1 << 32, "a whole number, 0 to 4294967295"),
        ]
        for name, number, allowed, expected in limits:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, number(name, value, allowed, expected))
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        if not isinstance(stop, (list, tuple)):
            raise InputError(f"stop is {stop!r}, expected a text or a list of texts")
        object.__setattr__(self, "stop", tuple(stop))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options by name; an unknown name is an error that lists the known ones."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(f"unknown option {', '.join(unknown)}; the options are {', '.join(known)}")
        return cls(**given)

    def sampling(self, metadata: Mapping[str, Any]) -> SamplingOptions:
        """What is chosen here, else in a file's generation config, else by the model card; a seed in any case."""
        chosen = {name: getattr(self, name) for name in SAMPLING}
        for name, (key, neutral) in SAMPLING.items():
            if chosen[name] is None:
                chosen[name] = metadata.get(f"general.sampling.{key}", neutral)
        seed = secrets.randbits(32) if self.seed is None else self.seed
        return SamplingOptions(**chosen, min_p=self.min_p, seed=seed)
