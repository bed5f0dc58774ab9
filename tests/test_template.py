"""Templates are untrusted: what they may use, and that none escapes, hangs or floods. Here: the sandbox alone."""

from __future__ import annotations

import pytest

from gemma4gguf.chat import sandbox
from gemma4gguf.errors import FormatError, InputError
from gemma4gguf.limits import Limits, limited

HI = [{"role": "user", "content": "Hi"}]


def render(source: str, **variables: object) -> str:
    return sandbox.render(source, {"messages": HI, "tools": None, "documents": None, **variables})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<bos>Hi<eos>"),
        ("{{ {'b': 'é<', 'a': [1, none]} | tojson }}", '{"b": "é<", "a": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% for m in messages %}\n  {% if m.role == 'user' %}\nx\n  {% endif %}\n{% endfor %}", "x\n"),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% for c in 'abc' %}{{ loop.index }}{{ c }}{{ '' if loop.last else ',' }}{% endfor %}", "1a,2b,3c"),
        ("{% for c in nothing %}x{% else %}empty{% endfor %}", "empty"),
        ("{% for c in 'abcd' if c > 'b' %}{{ c ~ loop.length }}{% endfor %}", "c2d2"),
        ("a{% generation %}{{ messages[0].content }}{% endgeneration %}b", "aHib"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ tools is none and documents is none }}", "True"),
        ("{{ mood }}", "calm"),
        ("{% macro f(n) %}{{ n }}{% endmacro %}{{ f(1764000000123) }}", "1764000000123"),
        ("{% set n = namespace(i=99999999) %}{{ n.i }}{{ dict(a=99999999) }}", "99999999{'a': 99999999}"),
    ],
)
def test_what_chat_templates_use(source: str, expected: str) -> None:
    assert render(source, mood="calm") == expected


HOSTILE = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}{{ messages.__class__.__mro__ }}",
    "changes messages": "{{ messages.append(1) }}",
    "changes a message": "{{ messages[0].update(role='system') }}",
    "include": "{% include '/etc/passwd' %}",
    "range": "{% for i in range(1000000000) %}{% endfor %}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops that print": "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}",
    "loops over text": "{% set s = 'x' * 9999 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "multiplied text": "{{ 'x' * 100000000000 }}",
    "multiplied list": "{{ [1] * 100000000000 }}",
    "doubled text": "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "doubled by ~": "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubled list": "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "doubled by printing": (
        "{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}{% set n = namespace(s='x') %}"
        "{% for i in range(99) %}{% set n.s = d(n.s) %}{% endfor %}"
    ),
    "power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "squares": "{% set n = namespace(i=3) %}{% for i in range(99) %}{% set n.i = n.i * n.i %}{% endfor %}",
    "padding": "{{ 'x'.center(100000000000) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "lipsum": "{{ lipsum(n=1000) }}",
    "deep nesting": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "syntax": "{% if %}",
    "unknown filter": "{{ 1 | nonsense }}",
    "undefined": "{{ messages[0].content.nothing.more }}",
    "too long": "x" * (Limits().template_chars + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_template_ends_in_one_line(name: str) -> None:
    with limited(template_steps=50_000, text_chars=100_000), pytest.raises(FormatError) as caught:
        render(HOSTILE[name])
    assert str(caught.value).startswith("the chat template ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_output_is_capped() -> None:
    source = "{% for i in range(n) %}0123456789{% endfor %}"
    with limited(text_chars=1000):
        assert len(render(source, n=100)) == 1000
        with pytest.raises(FormatError, match="more than 1000 characters"):
            render(source, n=101)


def test_time_is_capped() -> None:
    with limited(template_seconds=0), pytest.raises(FormatError, match="more than 0 seconds"):
        render("{% for i in range(1) %}{% endfor %}")


def test_a_budget_is_for_one_rendering() -> None:
    with limited(template_steps=1000):
        for _ in range(5):
            assert render("{% for i in range(600) %}{% endfor %}done") == "done"


def test_refusal_is_the_callers_to_mend() -> None:
    with pytest.raises(InputError) as caught:
        render("{{ raise_exception('roles must\\n\x1b[31malternate') }}")
    assert str(caught.value) == "the chat template refuses these messages: roles must [31malternate"


def test_syntax_error_names_the_line() -> None:
    with pytest.raises(FormatError, match="does not compile: line 3: "):
        render("a\nb\n{% endfor %}")
