"""Chat templates of the kinds that people publish, in our own words, and hostile ones that only the end of a process
stops. Between them the first use what the public ones use: namespaces, macros, filters, tests, slices, loop controls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "templates"
CALL = {"name": "get_weather", "arguments": {"city": "Oslo", "days": [1, 2.5, None, True]}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Wie kalt ist es?\n<b>“é” 😀</b> "},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "a1", "function": CALL}]},
    {"role": "tool", "content": '{"celsius": -3}', "tool_call_id": "a1"},
    {"role": "assistant", "content": "<think>cold</think>Minus three."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather at a place.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "array", "items": {"type": "number"}, "default": []},
                },
                "required": ["city"],
            },
        },
    }
]
OPTIONS: dict[str, Any] = {"add_generation_prompt": True, "enable_thinking": False, "today": "2026-11-25"}

KINDS = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.jinja"))}

_DEEPER = "{% set n.t = " + "(" * 50 + "n.t" + ",)" * 50 + " %}"
_TUPLES = "{% set n = namespace(t=()) %}{% for i in range(5000) %}" + _DEEPER + "{% endfor %}"
_SHARED = "{% set n = namespace(t=[1]) %}{% for i in range(60) %}{% set n.t = [n.t, n.t] %}{% endfor %}"
ENDLESS = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
ATTACKS: dict[str, str] = {
    "a deep tuple as a key": _TUPLES + "{{ {n.t: 1} }}",
    "a deep tuple looked for": _TUPLES + "{{ n.t in {} }}",
    "a deep tuple made unique": _TUPLES + "{{ [n.t] | unique | list }}",
    "a deep tuple compared": _TUPLES + "{% set a = n.t %}" + _TUPLES + "{{ a == n.t }}",
    "a deep tuple printed": _TUPLES + "{{ n.t }}",
    "macro recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro recursion that branches": ENDLESS,
    "macro recursion through filters": "{% macro f(x) %}{{ [x] | map('string') | join(f(x)) }}{% endmacro %}{{ f(1) }}",
    "center": "{{ 'x' | center(9999999999) }}",
    "center by a text's method": "{{ 'x'.center(16000000).center(16777216) | list | map('center', 9999999) | list }}",
    "tojson(indent)": "{{ range(99999) | list | tojson(indent=16000000) }}",
    "tojson(separators)": "{{ range(99999) | list | tojson(separators=('x' * 9999999, ':')) }}",
    "slice": "{{ [1] | slice(9999999999) | list }}",
    "batch": "{{ [1] | batch(9999999999, 'x') | list }}",
    "% with a width": "{{ '%16000000000d' % 1 }}",
    "% with a precision": "{{ '%.*f' % (2000000000, 1.5) }}",
    "format": "{{ '{:16000000000}'.format(1) }}",
    "format as a filter": "{{ '%16000000000s' | format(1) }}",
    "indent": "{{ 'x' | indent(9999999999) }}",
    "replace": "{{ ('x' * 9999999).replace('x', 'y' * 9999999) }}",
    "join": "{{ ('x' * 9999999) | list | join('y' * 9999) }}",
    "wordwrap": "{{ ('x ' * 8000000) | wordwrap(1) | length }}",
    "shared lists printed": _SHARED + "{{ n.t }}",
    "shared lists as JSON": _SHARED + "{{ n.t | tojson }}",
    "lists kept": "{% set n = namespace() %}{% for i in range(9) %}{% set n.t = [n.t, [1] * 9999999] %}{% endfor %}",
    "a sum of lists": "{{ ([[1] * 9999] * 9999) | sum(start=[]) | length }}",
    "printed without end": "{% for a in range(99999) %}{{ 'x' * 9999999 }}{% endfor %}",
    "a long sum": "{{ 1" + " + 1" * 200_000 + " }}",
    "deep parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "deep blocks": "{% if 1 %}" * 90_000,
}
