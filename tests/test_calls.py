"""Tool calls in every form that the model is known to write: read where there is one meaning, else kept and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemma4gguf.chat.calls import read_calls
from gemma4gguf.chat.rendering import render
from gemma4gguf.chat.reply import Reply, ReplyParser, gather, parse_reply
from gemma4gguf.limits import Limits
from gemma4gguf.records import ToolCall

Q = '<|"|>'
TINY = (Path(__file__).parents[1] / "models" / "tiny" / "chat_template.jinja").read_text("utf-8")
# The official template's way with arguments: what is no text, boolean, mapping or list is printed, so null is `None`.
OFFICIAL_WAY = """
{%- macro value(v) -%}
    {%- if v is string -%}{{- '<|"|>' + v + '<|"|>' -}}
    {%- elif v is boolean -%}{{- 'true' if v else 'false' -}}
    {%- elif v is mapping -%}{{- '{' -}}
        {%- for k, item in v | dictsort -%}{{- ('' if loop.first else ',') + k + ':' + value(item) -}}{%- endfor -%}
    {{- '}' -}}
    {%- elif v is sequence -%}{{- '[' -}}
        {%- for item in v -%}{{- ('' if loop.first else ',') + value(item) -}}{%- endfor -%}
    {{- ']' -}}
    {%- else -%}{{- v -}}{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}{%- for call in message.tool_calls or [] -%}
{{- '<|turn>model\\n<|tool_call>call:' + call.function.name + value(call.function.arguments) + '<tool_call|>' -}}
{%- endfor -%}{%- endfor -%}
"""

# What stands between the marks, and what is right: calls, or None for text that is told to be an unreadable call.
FORMS: dict[str, tuple[str, list[tuple[str, dict[str, Any]]] | None]] = {
    "as it was trained": (f"call:f{{a:{Q}x, y{Q},n:1,o:{{p:[true,null]}}}}", [
        ("f", {"a": "x, y", "n": 1, "o": {"p": [True, None]}})
    ]),
    "None, True, False": ("call:f{a:None,b:True,c:[False]}", [("f", {"a": None, "b": True, "c": [False]})]),
    "single quotes": ("call:f{a:'it\\'s \"so\"','b c':1}", [("f", {"a": "it's \"so\"", "b c": 1})]),
    "JSON's quotes": ('call:f{"refs":["ds_1","a\\nb"]}', [("f", {"refs": ["ds_1", "a\nb"]})]),
    "a bare word": ("call:f{unit:celsius,city:[Oslo]}", [("f", {"unit": "celsius", "city": ["Oslo"]})]),
    "equals sign": (f"call:f{{path:{Q}a{Q},save_as={Q}r.docx{Q}}}", [("f", {"path": "a", "save_as": "r.docx"})]),
    "equals sign, colon in a string": ("call:f{a='x:y', b=1}", [("f", {"a": "x:y", "b": 1})]),
    "missing comma behind a quote": (f"call:f{{a:{Q}look{Q}angle:90}}", [("f", {"a": "look", "angle": 90})]),
    "missing comma, white space": ("call:f{a:1 b:true\nc:{}d:2}", [("f", {"a": 1, "b": True, "c": {}, "d": 2})]),
    "trailing commas": ("call:f{a:[1,2,],b:3,}", [("f", {"a": [1, 2], "b": 3})]),
    "leading zeros": ("call:f{zip:02139,n:-007,x:0.5}", [("f", {"zip": "02139", "n": "-007", "x": 0.5})]),
    "plus, bare points": ("call:f{a:+5,b:.5,c:5.,d:-.5}", [("f", {"a": 5, "b": 0.5, "c": 5.0, "d": -0.5})]),
    "no call:": ("f{a:1}", [("f", {"a": 1})]),
    "no braces": ("call:get_time", [("get_time", {})]),
    "parentheses": ("call:f(a=1, b='x')", [("f", {"a": 1, "b": "x"})]),
    "Python": ('get_weather(city="Oslo", days=None)', [("get_weather", {"city": "Oslo", "days": None})]),
    "a mapping in parentheses": ('f({"a": 1})', [("f", {"a": 1})]),
    "two in one": ("call:f{a:1}call:g{b:2}", [("f", {"a": 1}), ("g", {"b": 2})]),
    "two in one, parted": ("call:f{a:1}, call:g\n;call:h()", [("f", {"a": 1}), ("g", {}), ("h", {})]),
    "JSON": ('{"name":"f","arguments":{"a":[1,null]}}', [("f", {"a": [1, None]})]),
    "JSON, arguments as its text": ('call:{"name": "f", "parameters": "{\\"a\\": 1}"}', [("f", {"a": 1})]),
    "JSON, a list": ('[{"name":"f","arguments":{}},{"name":"g"}]', [("f", {}), ("g", {})]),
    "several bare words": ("call:f{city:New York}", None),
    "an argument without a name": ('f("Oslo", 3)', None),
    "no value of JSON": ("call:f{a:NaN,b:undefined}", None),
    "a quote in its own kind": ("call:f{note:'don't b:1}", None),
}  # fmt: skip


def test_there_are_26_forms() -> None:
    assert len(FORMS) == 26


@pytest.mark.parametrize("name", FORMS)
def test_each_form_whole_and_in_pieces(name: str) -> None:
    written, calls = FORMS[name]
    text = f"Well. <|tool_call>{written}<tool_call|> So."
    if calls is None:
        expected = Reply(text, unreadable_calls=(f"<|tool_call>{written}<tool_call|>",))
    else:
        expected = Reply("Well.  So.", "", tuple(ToolCall(*call, id=f"call_{i}") for i, call in enumerate(calls)))
    assert parse_reply(text) == expected
    assert repr(parse_reply(text).tool_calls) == repr(expected.tool_calls)  # 5 is not 5.0
    for cut in range(len(text)):
        parser = ReplyParser()
        deltas = parser.feed(text[:cut]) + parser.feed(text[cut:]) + parser.finish()
        assert gather(deltas) == expected


@pytest.mark.parametrize("template", [None, TINY, OFFICIAL_WAY], ids=["ours", "tiny", "official way"])
def test_null_and_its_relatives_come_back_from_the_template(template: str | None) -> None:
    arguments: dict[str, object] = {
        "a": None,
        "b": [None, True, {"c": None}],
        "d": {"e": False, "f": []},
        "g": "None",
        "h": "null",
    }
    function = {"name": "f", "arguments": arguments}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [{"function": function}]},
    ]
    written = render(messages, template=template)
    written = written.partition("<|turn>model\n")[2].removesuffix("<|tool_response>")
    assert parse_reply(written) == Reply("", "", (ToolCall("f", arguments, "call_0"),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call:f{}", {}),
        ("call:a.b/c-d_e{}", {}),
        (" call:f { } ", {}),
        (f"call:f{{a:{Q}{Q},b:{Q}x, y}}:{{ {Q}}}", {"a": "", "b": "x, y}:{ "}),
        ("call:f{a:true,b:false,c:null}", {"a": True, "b": False, "c": None}),
        ("call:f{a:0,b:-12,c:1.5,d:-2e3,e:1E-2}", {"a": 0, "b": -12, "c": 1.5, "d": -2000.0, "e": 0.01}),
        ("call:f{a:[],b:[1,[2,{c:3}]],d:{e:{}}}", {"a": [], "b": [1, [2, {"c": 3}]], "d": {"e": {}}}),
        ("call:f{ a : 1 ,\n b : [ 1 , 2 ] }", {"a": 1, "b": [1, 2]}),
        (f'call:f{{{Q}a b{Q}:1,"c":"d\\n}}",e f:2}}', {"a b": 1, "c": "d\n}", "e f": 2}),
        ("call:f{größe:1}", {"größe": 1}),
        ("call:f{size(mm):1,it's:2}", {"size(mm)": 1, "it's": 2}),
        ("call:f{a:truex}", {"a": "truex"}),
    ],
)
def test_calls_that_can_be_read(text: str, expected: dict[str, Any]) -> None:
    found = read_calls(text)
    assert found is not None
    [(_, arguments)] = found
    assert arguments == expected
    assert {name: type(value) for name, value in arguments.items()} == {n: type(v) for n, v in expected.items()}


@pytest.mark.parametrize(
    "text",
    [
        *("", "f", "f{a:1} and", "call:{}", "call:f{", "call:f}", "call:f{}}", "call:f{}x", "call:f{a}", "call:f{a:}"),
        *("call:f{:1}", "call:f{,a:1}", "call:f{a:1,,}", "call:f{a:5 kg b:2}", "call:f{a:1b:2}", "call:f{a==1}"),
        *("call:f{a:1e999}", "call:f{a:+-1}", "call:f{a:--1}", "call:f{a:1.2.3}", "call:f{a:2026-11-25}"),
        *("call:f{a:[1 2]}", "call:f{a:[1}}", "call:f{a:1,a:2}", 'call:f{a:"x}', "call:f{a:'x}", "call:f{a:-Infinity}"),
        *("call:f[1]", "call:f{a:1]", "call:f(a=1", "call:f(a=1}", "f({a:1)", "f({a:1}, 2)", "call:f{{a:1}}", "[]"),
        *('{"name":""}', '{"name":1}', '{"arguments":{}}', '{"name":"f","arguments":[1]}', '{"name":"f","args":{}}'),
        *('{"name":"f","arguments":"a"}', '{"name":"f","arguments":"{} x"}', '[{"name":"f"},1]', "call:f{a:'\\q'}"),
        *('call:f{a:"\\ud83d"}', "call:f{a:'\\ude00'}", 'call:f{"\\ud83d":1}'),
        *(f"call:f{{a:{Q}x}}", f"call:f{{{Q}a:1}}", "call:f{a:" + "9" * 5000 + "}"),
        "call:f{a:" + "[" * (Limits().depth + 1) + "]" * (Limits().depth + 1) + "}",
        "call:f" + "{a:" * 100_000,
        "call:x" * 20_000 + "(",
        '{"name":' * 100_000,
    ],
)
def test_calls_that_cannot_be_read_stay_in_the_text(text: str) -> None:
    assert read_calls(text) is None
    written = f"<|tool_call>{text}<tool_call|>"
    assert parse_reply(written) == Reply(written, unreadable_calls=(written,))
