"""An area of `scripts/fuzz`: chat templates and conversations, changed."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

from gemma4gguf.chat.rendering import compose, default_template

from . import forkserver, templates
from .fuzzing import Case, Found, judged

ROOT = Path(__file__).parents[1]
TOKENS = ("<extra_0>", "<|im_end|>", "<x", "<|turn")  # of some vocabulary
WORDS = (
    *("", " ", "x", "<|turn>", "<turn|>", "<|image|>", "<|audio|>", '<|"|>', "<extra_0", "<|im_end|>", "<|tool_call>"),
    *("<|channel>thought\n", "<channel|>", "\ufdd0", "\U000f0000", "\ud800", "\0", "{{ 7 * 7 }}", "{% raw %}", "é😀"),
    *("<|tur", "n>", "user", "assistant", "system", "tool", "text", "image", "audio", "function", "null", "[" * 99_999),
    *("<" * 50_000, "<|turn>" * 20_000, "x" * 1_000_000, '{"a": ' * 20_000, "1" * 5000, "data:,x", "file:///dev/zero"),
)
NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, 10**400, 10**5000, 0.5, -0.0, 1e308, float("nan"), float("inf"), True, None)
KEYS = (
    *("role", "content", "type", "text", "tool_calls", "function", "arguments", "name", "tool_call_id", "image"),
    *("reasoning", "reasoning_content", "parameters", "properties", "description", "items", "image_url", "url", "x"),
)
PIECES = (
    *("{{", "}}", "{%", "%}", "{#", "#}", "{{-", "-%}", "|", "("),
    *(")", "[", "]", "'", '"', ",", ".", ":", "~", "*", "**"),
    *("{% for m in messages %}", "{% endfor %}", "{% if x %}", "{% endif %}", "{% set n = namespace(t=[]) %}", "loop"),
    *("{% set n.t = [n.t, n.t] %}", "{% macro f(x) %}", "{% endmacro %}", "{{ f(f) }}", "{{ messages }}", "{{ self }}"),
    *("{{ messages | tojson(indent=9) }}", "{{ raise_exception('no') }}", "{{ 'x' * 99999999 }}", "{{ 9 ** 9 ** 9 }}"),
    *(
        "{{ range(99999999) | list }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{{ cycler }}",
    ),
    *("{{ ''.__class__ }}", "{{ messages[0].items }}", "{{ x.y.z }}", "{{ messages[9] }}", "99999999999", "1e999"),
    *("| list", "| sort", "| unique", "| map('string')", "| join('x' * 9999)", "| center(99999999)", "| slice(3)"),
    *("| groupby('role')", "| batch(9)", "| format(1)", "| reverse", "| tojson", "| trim", "| string * 9999999"),
    *(
        "{% for a in range(9999) %}",
        "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "\0",
        "\ud800",
    ),
)


def chat(folder: Path) -> Case:
    """A conversation through a template to a prompt. The template is ours, or changed: then its own process renders."""
    known = [default_template(), (ROOT.parent / "models" / "tiny" / "chat_template.jinja").read_text("utf-8")]
    sources = [*known, *templates.KINDS.values()]
    said = json.loads((ROOT / "data" / "chat" / "chat_renderings.json").read_text("utf-8"))
    asked = [entry["input"] for entry in said.values()]
    usual = forkserver.here(lambda: prompt(asked[0], known[0]))
    assert usual.kind == "clean", usual

    def case(seed: int, number: int) -> Found:
        dice = random.Random(f"{seed}/{number}")
        given, template = copy.deepcopy(dice.choice(asked)), dice.choice(sources)
        hostile = dice.choice(("conversation", "template", "both"))
        if hostile != "template":
            for _ in range(dice.choice((1, 1, 2, 5))):
                odd(given, dice)
        if hostile != "conversation":
            template = (
                dice.choice(list(templates.ATTACKS.values())) if dice.random() < 0.002 else changed(template, dice)
            )
        return judged(hostile, forkserver.here(lambda: prompt(given, template)), usual)

    return case


def prompt(given: dict[str, Any], template: str) -> str:
    """What a model would be fed. A picture and a clip stand where the conversation has places for them."""
    more = {
        key: value
        for key, value in given.items()
        if isinstance(key, str) and key not in ("messages", "tools", "add_generation_prompt")
    }
    thinking = more.pop("enable_thinking", False)
    _filled(given.get("messages"))
    made = compose(
        given.get("messages"),  # type: ignore[arg-type]  # odd values are what is tried
        given.get("tools"),
        thinking,
        template,
        given.get("add_generation_prompt", True),
        special_tokens=TOKENS,
        local_files=False,
        **more,
    )
    return f"{len(made.segments)} segments"


def _filled(messages: Any) -> None:
    few = isinstance(messages, list) and len(messages) < 1000  # more are refused or copies
    for message in messages if few else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") in ("image", "audio"):
                part.setdefault(part["type"], b"x")


def odd(value: Any, dice: random.Random) -> None:
    """One place somewhere inside a list or mapping becomes something else, goes, or comes twice."""
    while True:
        places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not places:
            break
        place = dice.choice(places)
        if isinstance(value[place], (dict, list)) and dice.random() < 0.8:
            value = value[place]
            continue
        match dice.randrange(6):
            case 0:
                del value[place]
            case 1 if isinstance(value, list):
                value.extend([value[place]] * dice.choice((1, 10, 20_000)))
            case 2 if isinstance(value[place], str):
                at = dice.randrange(len(value[place]) + 1)
                value[place] = value[place][:at] + dice.choice(WORDS) + value[place][at:]
            case _:
                value[place] = _odd_value(dice)
        return
    if isinstance(value, dict):
        value[dice.choice((*KEYS, 1, None))] = _odd_value(dice)
    else:
        value.append(_odd_value(dice))


def _odd_value(dice: random.Random) -> Any:
    deep: Any = "x"
    for level in range(dice.choice((1, 3, 20, 70, 2000))):
        deep = {dice.choice(KEYS): deep} if level % 2 else [deep]
    many = {str(i): i for i in range(20_000)}
    return dice.choice(
        (dice.choice(WORDS), dice.choice(NUMBERS), deep, [], {}, (), b"x", object(), set(), many, [[]] * 999)
    )


def changed(template: str, dice: random.Random) -> str:
    """Pieces put in, taken out, numbers made larger, two places exchanged."""
    for _ in range(dice.choice((1, 1, 2, 4, 12))):
        at = dice.randrange(len(template) + 1)
        match dice.randrange(4):
            case 0:
                template = template[:at] + template[at + dice.choice((1, 2, 9, 200)) :]
            case 1:
                template = re.sub(r"\d+", lambda m: dice.choice((m[0], "9" * 12)), template)
            case 2:
                words = [m.span() for m in re.finditer(r"\{[{%].*?[%}]\}", template, re.DOTALL)] or [(0, 0)]
                (a, b), (c, d) = sorted((dice.choice(words), dice.choice(words)))
                template = template[:a] + template[c:d] + template[b:c] + template[a:b] + template[d:] if b <= c else ""
            case _:
                template = template[:at] + dice.choice(PIECES) + template[at:]
    return template
