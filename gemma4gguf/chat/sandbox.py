"""Render an untrusted chat template in jinja2's sandbox: the inner wall. `template` decides in which process.

The template's source, which comes from a bundle, and plain data come in; the rendered text goes out. A template may use
the names that transformers defines for chat templates. Of Gemma 4, this module knows only its special tokens.

There are limits on steps (loop iterations and calls) and their time, on characters printed, and on the size of the
results of `+`, `~`, `*` and `**`. What a single filter takes, and the depth of the C stack, have none here: they are
the outer wall's business, the process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ..errors import FormatError, InputError
from ..limits import current

MAX_INTEGER_BITS = 1024
MAX_MESSAGE_CHARS = 300  # of an error's text, which the template may have written

SPECIAL_TOKEN_NAMES = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


class _RefusalError(TemplateError):
    """The template called `raise_exception` to reject the messages."""


class _Budget:
    """The steps and characters that one rendering has left."""

    def __init__(self) -> None:
        self.limits = limits = current()
        self.steps = limits.template_steps
        self.ends = time.thread_time() + limits.template_seconds
        self.chars = 4 * limits.text_chars  # a macro's text counts twice: there and where it is called

    def spend(self, steps: int = 0, chars: int = 0) -> None:
        self.steps -= steps
        self.chars -= chars
        if self.steps < 0 or self.chars < 0:
            raise TemplateError(
                f"it ran for more than {self.limits.template_steps} steps or printed more than "
                f"{self.limits.text_chars} characters"
            )
        if time.thread_time() > self.ends:
            raise TemplateError(f"it ran for more than {self.limits.template_seconds:g} seconds")


_budget: ContextVar[_Budget] = ContextVar("budget")


def _metered(items: Iterable[Any]) -> Iterator[Any]:
    budget = _budget.get()
    for item in items:
        budget.spend(steps=1)
        yield item


def _bounded(value: Any) -> Any:
    if isinstance(value, (str, list, tuple)) and len(value) > (most := _budget.get().limits.text_chars):
        raise TemplateError(f"it made a text or list longer than {most}")
    return value


def _printed(value: Any) -> Any:
    """jinja2 calls this with every printed value, also at compile time, when there is no budget."""
    budget = _budget.get(None)
    if budget is not None and isinstance(value, str):
        budget.spend(chars=len(value))
    return value


class _Metering(NodeTransformer):
    """Adds filters to a parsed template: `_metered` to what a loop iterates over, `_bounded` to the result of `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 (jinja2 calls it by this name)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _METERED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, _BOUNDED)


_METERED, _BOUNDED = " metered", " bounded"  # no template can name a filter with a space in it


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks the model's text for training. Only its content is rendered."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    # jinja2 does not compute constant expressions with intercepted operators at compile time.
    intercepted_binops = frozenset({"+", "*", "**"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metering().visit(tree)
        return tree

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget, most = _budget.get(), _budget.get().limits.text_chars
        budget.spend(steps=1)
        numbers_are_data = isinstance(obj, (Macro, type))  # a macro's arguments, namespace(n=…), dict(n=…)
        if not numbers_are_data and any(isinstance(arg, int) and abs(arg) > most for arg in (*args, *kwargs.values())):
            raise TemplateError(f"it called something with a number above {most}")
        return _bounded(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not _small_enough(operator, left, right, _budget.get().limits.text_chars):
            raise TemplateError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)


def _small_enough(operator: str, left: Any, right: Any, most: int) -> bool:
    sizes = [len(side) if isinstance(side, (str, list, tuple)) else None for side in (left, right)]
    numbers = [side if isinstance(side, int) else None for side in (left, right)]
    if operator == "+":
        return None in sizes or sum(size or 0 for size in sizes) <= most
    if None not in numbers:
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        return bool(bits <= MAX_INTEGER_BITS)
    length = next((size for size in sizes if size is not None), None)
    count = next((number for number in numbers if number is not None), None)
    return length is None or count is None or length * count <= most


def _raise_exception(message: Any = "") -> NoReturn:
    raise _RefusalError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


@lru_cache(maxsize=1)
def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
        finalize=_printed,
        optimized=False,  # a filter over constants would run while compiling, outside any budget
    )
    filters: dict[str, Callable[..., Any]] = {"tojson": _to_json, _METERED: _metered, _BOUNDED: _bounded}
    environment.filters.update(filters)
    environment.globals.pop("lipsum", None)
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


def compiled(source: str) -> Template:
    """A template ready to be rendered; nothing of it has run. Raises FormatError."""
    if len(source) > (most := current().template_chars):
        raise FormatError(f"the chat template has {len(source)} characters; at most {most} are accepted")
    return _compile(source)


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise FormatError(f"the chat template does not compile: line {error.lineno}: {_one_line(error)}") from error
    except Exception as error:  # nested too deeply, for instance
        raise FormatError(f"the chat template does not compile: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """An error's text as one short, printable line. The template may have written it."""
    if isinstance(error, MemoryError):
        return "it needs more memory than it may take"
    text = f"{error}" if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_MESSAGE_CHARS]).split())
    return text[:MAX_MESSAGE_CHARS]


def render(source: str, names: Mapping[str, Any]) -> str:
    """Render a chat template with the names that it may use, besides the special tokens'.

    The values must be plain data (texts, numbers, lists, mappings), because a template can call the methods of every
    object that it is given. Raises InputError if the template rejects the messages, FormatError if it does not compile
    or fails.
    """
    template = compiled(source)
    token = _budget.set(_Budget())
    pieces: list[str] = []
    left = most = current().text_chars
    try:
        for piece in template.generate({**SPECIAL_TOKEN_NAMES, **names}):
            left -= len(piece)
            if left < 0:
                raise TemplateError(f"it printed more than {most} characters")
            pieces.append(piece)
    except _RefusalError as error:
        raise InputError(f"the chat template refuses these messages: {_one_line(error)}") from error
    except Exception as error:
        raise FormatError(f"the chat template failed on these messages: {_one_line(error)}") from error
    finally:
        _budget.reset(token)
    return "".join(pieces)
