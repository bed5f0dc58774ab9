"""How one answer is made: every option with its type, its range and its help.

In: options by name, and a file's generation config. Out: a frozen record, and what the sampler is told. The command
line and the documents are made from the same record.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..arguments import real, shown, whole
from ..chat.messages import plain
from ..chat.stream import StopStrings
from ..errors import InputError

if TYPE_CHECKING:
    from ..native.sampler import SamplingOptions

SEEDS = 1 << 32
# What the model card recommends, where a file does not say.
SAMPLING = {
    "temperature": ("temp", 1.0),
    "top_k": ("top_k", 64),
    "top_p": ("top_p", 0.95),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("penalty_repeat", 1.0),
}


class GenerateOptions(TypedDict, total=False):
    """The options of one answer by name, for editors and type checkers; `Options` says what each may be."""

    max_tokens: int | None
    max_thinking_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    logprobs: bool | Literal["sampled"] | None
    top_logprobs: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    response_format: Mapping[str, object] | None
    grammar: str | None
    wait: bool | float


@dataclass(frozen=True)
class Option:
    """What one option may be: its check, the same in words, and its help. None is always allowed: the default."""

    check: Callable[[str, Any, str], Any]
    expected: str
    help: str


def _option(check: Callable[[str, Any, str], Any], expected: str, help: str, default: object = None) -> Any:
    return field(default=default, metadata={"option": Option(check, expected, help)})


def _whole(allowed: Callable[[int], bool]) -> Callable[[str, Any, str], int]:
    return lambda name, value, expected: whole(name, value, allowed, expected)


def _real(allowed: Callable[[float], bool]) -> Callable[[str, Any, str], float]:
    return lambda name, value, expected: real(name, value, allowed, expected)


def _texts(name: str, value: Any, expected: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise InputError(f"{name} is {shown(value)}, expected {expected}")
    StopStrings(texts)  # checks each of them
    return tuple(texts)


def _biases(name: str, value: Any, expected: str) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {shown(value)}, expected {expected}")
    found = {}
    for token, bias in value.items():
        number = int(token) if isinstance(token, str) and token.isdecimal() else token  # JSON has texts for keys
        number = whole(f"{name}: a token", number, lambda v: v >= 0, "a token's id")
        found[number] = real(f"{name}[{number}]", bias, lambda v: -100 <= v <= 100, "-100 to 100")
    return found


def _logprobs(name: str, value: Any, expected: str) -> bool | str:
    if not isinstance(value, bool) and value != "sampled":
        raise InputError(f"{name} is {shown(value)}, expected {expected}")
    found: bool | str = value
    return found


def _formatted(name: str, value: Any, expected: str) -> Mapping[str, object]:
    from ..forms.response import response_grammar

    response_grammar(value, name)
    return dict(plain(value, name))


def _grammatical(name: str, value: Any, expected: str) -> str:
    from ..forms.automaton import checked_grammar

    if not isinstance(value, str):
        raise InputError(f"{name} is {shown(value)}, expected {expected}")
    return checked_grammar(value)


def _waiting(name: str, value: Any, expected: str) -> bool | float:
    return value if isinstance(value, bool) else real(name, value, lambda v: 0 <= v < float("inf"), expected)


@dataclass(frozen=True)
class Options:
    """Checked options of one answer. None: what the model's own generation config says.

    `max_tokens` None: until the context is full. `max_thinking_tokens` None: no limit of its own. `seed` None: a new
    one, told in the result.
    """

    max_tokens: int | None = _option(
        _whole(lambda v: v >= 1), "a whole number, at least 1", "Longest answer in tokens [until the context is full]."
    )
    max_thinking_tokens: int | None = _option(
        _whole(lambda v: v >= 0), "a whole number, at least 0", "Longest thought in tokens; then the answer follows."
    )
    temperature: float | None = _option(
        _real(lambda v: 0 <= v < float("inf")), "0 (greedy) or more", "0 is greedy [the model's own]."
    )
    top_k: int | None = _option(
        _whole(lambda v: 0 <= v < 1 << 31),
        "a whole number, 0 (off) to 2147483647",
        "Choose among the K likeliest [the model's own].",
    )
    top_p: float | None = _option(
        _real(lambda v: 0 < v <= 1),
        "above 0, at most 1",
        "Choose among the likeliest that make up P [the model's own].",
    )
    min_p: float | None = _option(
        _real(lambda v: 0 <= v <= 1),
        "0 to 1",
        "Leave out what is less than P times as likely as the best [the model's own].",
    )
    repetition_penalty: float | None = _option(
        _real(lambda v: 0 < v < float("inf")), "above 0; 1 is off", "Make what was said less likely [the model's own]."
    )
    frequency_penalty: float | None = _option(
        _real(lambda v: -2 <= v <= 2), "-2 to 2; 0 is off", "Take R from a token for each time the answer has it [0]."
    )
    presence_penalty: float | None = _option(
        _real(lambda v: -2 <= v <= 2), "-2 to 2; 0 is off", "Take R once from tokens that the answer has [0]."
    )
    logit_bias: Mapping[int, float] | None = _option(
        _biases, "a mapping of token ids to numbers, -100 to 100", "Added to the logits of tokens, by id."
    )
    logprobs: bool | Literal["sampled"] | None = _option(
        _logprobs, 'true, false or "sampled"', "Tell how likely each token was to the model, or as it was sampled."
    )
    top_logprobs: int | None = _option(
        _whole(lambda v: 0 <= v <= 20), "a whole number, 0 to 20", "Tell as many of the likeliest tokens at each place."
    )
    seed: int | None = _option(
        _whole(lambda v: 0 <= v < SEEDS), "a whole number, 0 to 4294967295", "The same seed gives the same answer."
    )
    stop: tuple[str, ...] | None = _option(_texts, "a text or a list of texts", "End before this text.")
    response_format: Mapping[str, object] | None = _option(
        _formatted, "a mapping as the OpenAI API has it", "Answer in JSON, of a schema or of any."
    )
    grammar: str | None = _option(_grammatical, "a text in GBNF", "Answer in what this grammar writes.")
    wait: bool | float = _option(
        _waiting, "true, false or seconds", "How long to wait while the model is at work for others.", True
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, option.check(name, value, option.expected))
        if self.grammar and self.form != self.grammar:
            raise InputError("grammar: response_format says what an answer must be, too; use one of them")
        if self.top_logprobs and not self.logprobs:
            raise InputError(f"top_logprobs is {self.top_logprobs}, and logprobs is off; give logprobs=True too")

    @cached_property
    def form(self) -> str | None:
        """The grammar that the answer's text must follow, as GBNF; None where there is none."""
        from ..forms.response import response_grammar  # loads numpy, which the table of options does without

        return (response_grammar(self.response_format) if self.response_format else None) or self.grammar

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options by name; an unknown name is an error that lists the known ones."""
        unknown = sorted(set(given) - set(OPTIONS))
        if unknown:
            raise InputError(f"unknown option {', '.join(unknown)}; the options are {', '.join(OPTIONS)}")
        return cls(**given)

    def numbered(self, number: int) -> Options:
        """The same for an answer to a prompt that has several: seeds follow each other, and only the first hurries."""
        first = secrets.randbits(32) if self.seed is None else self.seed
        one = copy(self)  # what has been checked is not checked again: a schema may be long
        vars(one).update(seed=(first + number) % SEEDS, wait=True if number else self.wait)
        return one

    def sampling(self, metadata: Mapping[str, Any]) -> SamplingOptions:
        """What is chosen here, else in a file's generation config, else by the model card; a seed in any case."""
        from ..native.sampler import SamplingOptions  # loads llama.cpp, which the table of options does without

        chosen = {}
        for name, (key, neutral) in SAMPLING.items():
            own = getattr(self, name)
            chosen[name] = metadata.get(f"general.sampling.{key}", neutral) if own is None else own
        return SamplingOptions(
            **chosen,
            seed=self.numbered(0).seed or 0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=self.logit_bias or {},
        )


OPTIONS: Mapping[str, Option] = {f.name: f.metadata["option"] for f in fields(Options)}
