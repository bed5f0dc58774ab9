"""Prompts: as the reference renders them, and with nobody's text turned into special tokens."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf.chat import rendering as chat
from gemma4gguf.chat.guards import GUARDS, SPECIAL_TOKENS
from gemma4gguf.chat.rendering import (
    AudioSegment,
    ImageSegment,
    Prompt,
    TextSegment,
    compose,
    raw_segments,
    render,
    segments,
)
from gemma4gguf.errors import FormatError, InputError

# Conversations and what the official template renders for them: facts, made with that template and jinja2.
CASES: dict[str, Any] = json.loads((Path(__file__).parent / "data/chat/chat_renderings.json").read_text("utf-8"))
SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
GUARD = "\ufdd0"  # the first that is tried


def case(name: str) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    options = copy.deepcopy(CASES[name]["input"])
    messages = options.pop("messages")
    options["thinking"] = options.pop("enable_thinking", False)
    return messages, options, CASES[name]["rendered"]


def with_media(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages with a source in each picture and clip: its number."""
    number = 0
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] in ("image", "audio"):
                part[part["type"]] = f"{number}"
                number += 1
    return messages


def joined(found: Any) -> str:
    """Segments as one text, with the tokens that stand for media: the prompt with its placeholders expanded."""
    signs = {ImageSegment: "<|image|>", AudioSegment: "<|audio|>"}
    return "".join(item.text if isinstance(item, TextSegment) else signs[type(item)] for item in found)


def expanded(text: str) -> str:
    return re.sub(r"<\|(image|audio)\|>", r"<|\1><|\1|><\1|>", text)


def specials(prompt: Prompt) -> list[str]:
    """The special tokens that a tokeniser finds: each text by itself, look-alikes and all."""
    return [token for item in prompt.segments if isinstance(item, TextSegment) for token in SPECIAL.findall(item.text)]


@pytest.mark.parametrize("name", CASES)
def test_renders_as_the_reference(name: str) -> None:
    messages, options, expected = case(name)
    assert render(messages, **options) == expected


@pytest.mark.parametrize("name", sorted(set(CASES) - {"assistant_text_and_call"}))
def test_composes_as_the_reference(name: str) -> None:
    messages, options, expected = case(name)
    prompt = compose(with_media(messages), **options)
    assert prompt.text == expected
    assert joined(prompt.segments) == expanded(expected)
    assert prompt.thinking_open == expected.endswith("<|channel>thought\n")
    media = [item.medium for item in prompt.segments if not isinstance(item, TextSegment)]
    assert media == [f"{number}" for number in range(len(re.findall(r"<\|(?:image|audio)\|>", expected)))]
    texts = [item for item in prompt.segments if isinstance(item, TextSegment)]
    assert len(texts) == len(media) + 1  # without look-alikes a text is cut at media only


@pytest.mark.parametrize("thinking", [False, True])
def test_a_closed_turn_is_opened_again(thinking: bool) -> None:
    messages, options, expected = case("assistant_text_and_call")
    plain = compose(messages, options["tools"], thinking, add_generation_prompt=False)
    opened = compose(messages, options["tools"], thinking)
    assert plain.text.endswith("Let me look.<turn|>\n")
    assert opened.text == plain.text + "<|turn>model\n" + ("" if thinking else "<|channel>thought\n<channel|>")
    assert thinking or plain.text == expected


def test_segments_of_media() -> None:
    parts = [
        {"type": "image", "image": "a.png"},
        {"type": "image", "image": b"b"},
        {"type": "text", "text": " and "},
        {"type": "audio", "audio": "c.wav"},
    ]
    assert compose([{"role": "user", "content": parts}]).segments == (
        TextSegment("<bos><|turn>user\n<|image>"),
        ImageSegment("a.png"),
        TextSegment("<image|><|image>"),
        ImageSegment(b"b"),
        TextSegment("<image|>and<|audio>"),
        AudioSegment("c.wav"),
        TextSegment("<audio|><turn|>\n<|turn>model\n<|channel>thought\n<channel|>"),
    )


def in_user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def in_tools(text: str) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": "text", "text": text}]},
        {
            "role": "assistant",
            "content": text,
            "reasoning_content": text,
            "tool_calls": [{"id": text, "function": {"name": "f" + text, "arguments": {text: [text, {text: text}]}}}],
        },
        {"role": "tool", "tool_call_id": text, "content": text},
        {"role": "assistant", "content": [{"type": "text", "text": text}]},
        {"role": "user", "content": text},
    ]


def declared(text: str) -> list[dict[str, Any]]:
    node = {"type": "string", "description": text, "enum": [text]}
    parameters = {"type": "object", "properties": {"a" + text: node}, "required": [text]}
    return [{"type": "function", "function": {"name": "f" + text, "description": text, "parameters": parameters}}]


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("build", [in_user, in_tools])
@pytest.mark.parametrize("around", ["{}", "a {} b", " {}\n", "<{}>", "{0}{0}"])
def test_nobodys_text_becomes_a_special_token(token: str, build: Callable[..., Any], around: str) -> None:
    def prompt(text: str) -> Prompt:
        return compose(build(text), declared(text), thinking=True, preserve_thinking=True)

    text = around.format(token)
    found = prompt(text)
    assert specials(found) == specials(prompt("harmless"))
    assert joined(found.segments) == found.text
    assert GUARD not in found.text
    assert found.text == render(build(text), declared(text), thinking=True, preserve_thinking=True)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_texts_that_the_template_joins_make_no_special_token(token: str) -> None:
    for cut in range(1, len(token)):
        for gap in ("", " \n"):  # the template trims it away
            parts = [{"type": "text", "text": part} for part in ("a" + token[:cut] + gap, gap + token[cut:] + "b")]
            prompt = compose([{"role": "user", "content": parts}])
            assert specials(prompt) == specials(compose(in_user("harmless")))
            assert "a" + token + "b" in prompt.text
        # The template takes thoughts out of what a model said, and joins what was around them.
        said = "a" + token[:cut] + "<|channel>thought\nx<channel|>" + token[cut:] + "b"
        prompt = compose([*in_user("q"), {"role": "assistant", "content": said}, *in_user("r")])
        assert "a" + token + "b" in prompt.text
        expected = compose([*in_user("q"), {"role": "assistant", "content": "ab"}, *in_user("r")])
        assert specials(prompt) == specials(expected)


def test_random_texts_make_no_special_token() -> None:
    random_ = random.Random(7)
    alphabet = [*SPECIAL_TOKENS, *'<|>"', "<|", "|>", "turn", "image", "bos", " ", "\n", "x", GUARD, "\ufdd1"]
    for _ in range(300):
        texts = ["".join(random_.choices(alphabet, k=random_.randrange(9))) for _ in range(4)]
        parts = [{"type": "text", "text": text} for text in texts[:2]]
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": texts[2]},
            *in_user(texts[3]),
        ]
        prompt = compose(messages)
        expected = compose([*in_user("a"), {"role": "assistant", "content": "b"}, *in_user("c")])
        assert specials(prompt) == specials(expected)
        assert joined(prompt.segments) == prompt.text == render(messages)


def test_text_without_special_tokens_is_never_cut() -> None:
    for text in ("a < b", "x <", "<", "<|", "if (a <\n", "<b>", "<turn>", "|turn>", "<end_of_turn>", "</s>", "a<|turn"):
        prompt = compose(in_user(text))
        assert len(prompt.segments) == 1, text


def test_every_guard_used_up() -> None:
    used = "".join(map(chr, GUARDS))
    assert compose(in_user("<turn|>" + used[:100])).text == render(in_user("<turn|>" + used[:100]))
    with pytest.raises(InputError, match="private character"):
        compose(in_user(used))


def test_template_that_leaves_media_out() -> None:
    message = {"role": "user", "content": [{"type": "image", "image": "a"}]}
    with pytest.raises(InputError, match=r"places for 0 media, in this order, but was given 1 media \(image\)"):
        compose([message], template="{{ bos_token }}no eyes")
    with pytest.raises(InputError, match=r"places for 2 media \(image, audio\)"):
        segments("<|image|><|audio|>", [("audio", "a"), ("image", "b")])


def test_raw_prompts_keep_their_special_tokens() -> None:
    found = raw_segments("<|turn>user\n<|audio|>Same as <|image|>?<turn|>\n", images=["a.png"], audio=["b.wav"])
    assert found == [
        TextSegment("<|turn>user\n<|audio>"),
        AudioSegment("b.wav"),
        TextSegment("<audio|>Same as <|image>"),
        ImageSegment("a.png"),
        TextSegment("<image|>?<turn|>\n"),
    ]
    assert raw_segments("plain") == [TextSegment("plain")]
    assert raw_segments("") == []


@pytest.mark.parametrize(
    ("prompt", "images", "audio", "expected"),
    [
        ("<|image|>", [], [], "1 image placeholders, but 0 were given"),
        ("no place", ["a"], [], "0 image placeholders, but 1 were given; write <|image|>"),
        ("<|image|>", ["a"], ["b"], "0 audio placeholders, but 1 were given"),
        ("<|video|>", [], [], "1 video placeholders, but 0 were given"),
        ("\ud800", [], [], "half a surrogate pair at character 0"),
    ],
)
def test_refused_raw_prompts(prompt: str, images: list[str], audio: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        raw_segments(prompt, images, audio)


def test_template_options() -> None:
    assert render(in_user("a"), template="{{ mood }}{{ enable_thinking }}{{ add_generation_prompt }}", mood="x") == (
        "xFalseTrue"
    )
    with pytest.raises(InputError, match="enable_thinking is no template option"):
        render(in_user("a"), enable_thinking=True)
    with pytest.raises(FormatError, match="does not compile"):
        render(in_user("a"), template="{% if %}")


def test_templates_get_no_objects() -> None:
    class Picture:
        touched = False

        def save(self) -> None:
            Picture.touched = True

    message = {"role": "user", "content": [{"type": "image", "image": Picture()}]}
    template = "{% for p in messages[0].content %}{{ p.keys() | list }}{{ p.image.save() }}<|image|>{% endfor %}"
    with pytest.raises(FormatError, match=r"undefined|no attribute"):
        compose([message], template=template)
    assert not Picture.touched


def test_default_template_is_one_that_llama_cpp_knows() -> None:
    """llama.cpp looks for these two to parse Gemma 4's tool calls, and to leave tool messages as they are."""
    assert "'<|tool_call>call:'" in chat.default_template()
    assert "{#- OpenAI Chat Completions:" in chat.default_template()


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "b": {"type": "string", "nullable": True, "default": "dropped"},
        "A": {"type": "array", "items": {"type": ["string", "null"], "enum": ["x", {"k": 1}], "title": None}},
        "c": {
            "type": "object",
            "description": "d",
            "properties": {"z": {"type": "integer", "enum": [1]}},
            "required": ["z"],
        },
        "e": {"anyOf": [{"type": "string"}]},
    },
}


def test_default_template_renders_schemas() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "D", "parameters": SCHEMA}}]
    rendered = render(in_user("a"), tools)
    quoted = rendered.replace('<|"|>', "'")
    assert (
        "<|tool>declaration:f{description:'D',parameters:{properties:{"
        "A:{items:{enum:['x',{'k':1}],type:['STRING','NULL']},type:'ARRAY'},"
        "b:{nullable:true,type:'STRING'},"
        "c:{description:'d',properties:{z:{type:'INTEGER'}},required:['z'],type:'OBJECT'},"
        "e:{type:''}},type:'OBJECT'}}<tool|>"
    ) in quoted


def test_default_template_turns() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": {"x": None, "y": 0.5}}}
    messages = [
        *in_user("q"),
        {"role": "assistant", "content": "", "reasoning": "r1", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "t"}, {"type": "image"}]},
        {"role": "assistant", "content": "", "reasoning": "r2", "tool_calls": [call]},
    ]
    first = "<|channel>thought\nr1\n<channel|><|tool_call>call:f{x:null,y:0.5}<tool_call|>"
    answer = '<|tool_response>response:f{value:<|"|>t<|"|>}<tool_response|><|image|>'
    second = "<|channel>thought\nr2\n<channel|><|tool_call>call:f{x:null,y:0.5}<tool_call|><|tool_response>"
    turn = "<bos><|turn>user\nq<turn|>\n<|turn>model\n" + first + answer + second
    assert render(messages) == turn
    asked = [*messages, *in_user("again")]
    assert "<|channel>thought\nr" not in render(asked)
    assert "<|channel>thought\nr1\n<channel|>" in render(asked, preserve_thinking=True)
    apart = [*in_user("q"), {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert render(apart, add_generation_prompt=False) == "<bos><|turn>user\nq<turn|>\n<|turn>model\nab<turn|>\n"


@pytest.mark.parametrize("template", [None, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"])
@pytest.mark.parametrize("said", ["It is", "", None, [{"type": "text", "text": "It is"}]])
def test_an_answer_is_not_continued(said: Any, template: str | None) -> None:
    messages = [*in_user("Is it?"), {"role": "assistant", "content": said}]
    with pytest.raises(InputError, match=r"messages\[1\]: the last message is the assistant's") as caught:
        compose(messages, template=template)
    assert "\n" not in str(caught.value)
    assert compose(messages, template=template, add_generation_prompt=False).segments
    assert compose([*messages, *in_user("So?")], template=template).segments
