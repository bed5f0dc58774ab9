"""Messages as clients send them: what is taken, what is refused and where, and that no template gets an object."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf.chat.messages import prepare_messages, prepare_tools
from gemma4gguf.chat.rendering import render
from gemma4gguf.errors import InputError
from gemma4gguf.limits import Limits

PNG = b"\x89PNG\r\n\x1a\n and so on"
B64 = base64.b64encode(PNG).decode()
CALL: dict[str, Any] = {
    "id": "c1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"city": "Oslo", "n": [1, null]}'},
}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


class Picture:
    """Stands for any picture object: nothing of it may be touched here."""


PICTURE = Picture()


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image", "image": "cat.jpg"}, ("image", "cat.jpg")),
        ({"type": "image", "path": "C:\\pictures\\cat.jpg"}, ("image", "C:\\pictures\\cat.jpg")),
        ({"type": "image", "image": Path("cat.jpg")}, ("image", Path("cat.jpg"))),
        ({"type": "image", "image": PNG}, ("image", PNG)),
        ({"type": "image", "image": bytearray(PNG)}, ("image", PNG)),
        ({"type": "image", "image": PICTURE}, ("image", PICTURE)),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + B64, "detail": "high"}}, ("image", PNG)),
        ({"type": "image_url", "image_url": "DATA:;BASE64," + B64}, ("image", PNG)),
        ({"type": "image_url", "image_url": "data:image/png;base64," + B64.rstrip("=")}, ("image", PNG)),
        ({"type": "image_url", "image_url": "data:image/svg+xml,%3Csvg%3E"}, ("image", b"<svg>")),
        ({"type": "image_url", "image_url": {"url": "file:///tmp/a%20b.png"}}, ("image", "/tmp/a b.png")),
        ({"type": "audio", "audio": "note.wav"}, ("audio", "note.wav")),
        ({"type": "audio", "audio": ([0.0], 16_000)}, ("audio", ([0.0], 16_000))),
        ({"type": "input_audio", "input_audio": {"data": B64, "format": "wav"}}, ("audio", PNG)),
        ({"type": "input_audio", "input_audio": {"data": "data:audio/mpeg;base64," + B64}}, ("audio", PNG)),
        ({"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}, ("audio", PNG)),
        ({"type": "video", "video": "clip.mp4"}, ("video", "clip.mp4")),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + B64}}, ("video", PNG)),
        ({"type": "input_video", "input_video": {"data": B64, "format": "mp4"}}, ("video", PNG)),
    ],
)
def test_media_parts(part: dict[str, Any], expected: tuple[str, Any]) -> None:
    prepared, media = prepare_messages([user({"type": "text", "text": "see"}, part)])
    assert media == [expected]
    assert prepared == [user({"type": "text", "text": "see"}, {"type": expected[0]})]


def test_media_come_in_the_order_of_the_template() -> None:
    messages = [
        user({"type": "image", "image": "1"}, {"type": "text", "text": "?"}, {"type": "audio", "audio": "2"}),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "image", "image": "3"}]},
        user({"type": "image", "image": "4"}),
    ]
    assert [source for _, source in prepare_messages(messages)[1]] == ["1", "2", "3", "4"]


def test_arguments_become_mappings_and_the_callers_messages_stay_as_they_were() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [CALL]},
    ]
    prepared, _ = prepare_messages(messages)
    assert prepared[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo", "n": [1, None]}
    assert prepared[1]["content"] == ""
    assert CALL["function"]["arguments"] == '{"city": "Oslo", "n": [1, null]}'
    assert "refusal" in messages[1]


CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    "fields",
    [
        CACHED,
        {"id": "msg_1", "status": "completed", "created": 5},
        {"annotations": [{"type": "url_citation"}], "provider_specific_fields": {"a": object()}},
        {"refusal": None, "function_call": None, "audio": None, "images": []},
        {"prefix": True, "weight": 1, 5: 6},
    ],
)
def test_what_other_vendors_add_is_ignored(fields: dict[Any, Any]) -> None:
    part: dict[str, Any] = {"type": "text", "text": "a"}
    picture = {"url": "data:image/png;base64," + B64}
    function = {"name": "f", "arguments": "{}"}

    def conversation(more: dict[Any, Any]) -> list[dict[str, Any]]:
        extra = {key: value for key, value in more.items() if key != "id"}
        return [
            {"role": "system", "content": "s", **more},
            {**user({**part, **CACHED, **extra}, {"type": "image_url", "image_url": {**picture, **extra}}), **more},
            {"role": "assistant", "tool_calls": [{"function": {**function, **extra}, **extra}], **more},
            {"role": "tool", "content": [{**part, **extra}], **more},
        ]

    assert prepare_messages(conversation(fields)) == prepare_messages(conversation({}))


@pytest.mark.parametrize("arguments", ["", "{}", None, {}])
def test_no_arguments(arguments: Any) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    prepared, _ = prepare_messages([{"role": "assistant", "tool_calls": [call]}])
    assert prepared[0]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]


def calling(**function: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "tool_calls": [{"function": function}]}]


deep: Any = 1
for _ in range(Limits().depth + 2):
    deep = [deep]

REFUSED: dict[str, tuple[Any, str]] = {
    "no list": ("hi", "messages: expected a list"),
    "one message": ({"role": "user", "content": "hi"}, "messages: expected a list"),
    "none": ([], "messages: the list is empty"),
    "no mapping": (["hi"], r"messages\[0\]: expected a mapping"),
    "role": ([{"role": "robot", "content": "a"}], r"messages\[0\]\.role: expected one of system, .*found 'robot'"),
    "no role": ([{"content": "a"}], r"messages\[0\]\.role"),
    "role of another type": ([{"role": ["user"], "content": "a"}], r"messages\[0\]\.role"),
    "key": ([{"role": "user", "content": "a", "contents": "b"}], "unknown key 'contents' for role user"),
    "key of another role": ([{"role": "user", "content": "a", "tool_calls": [CALL]}], "unknown key 'tool_calls'"),
    "audio reply": ([{"role": "assistant", "content": "a", "audio": {"id": "x"}}], "unknown key 'audio'"),
    "no content": ([{"role": "user"}], r"messages\[0\]\.content: expected a text or a list"),
    "content": ([{"role": "user", "content": {"type": "text"}}], r"messages\[0\]\.content: expected"),
    "part": ([user("hi")], r"messages\[0\]\.content\[0\]: expected a mapping"),
    "part type": ([user({"type": "file"})], r"content\[0\]\.type: expected one of text, image, .*found 'file'"),
    "no video": ([user({"type": "video_url"})], "no video given; expected one of the keys video_url"),
    "a video's data": ([user({"type": "input_video", "input_video": PNG})], "input_video: expected {"),
    "part key": ([user({"type": "text", "text": "a", "image": "b"})], "found 'text', 'image'"),
    "pictures beside the content": ([{"role": "user", "content": "a", "images": ["b"]}], "unknown key 'images'"),
    "an older call": ([{"role": "assistant", "function_call": {"name": "f"}}], "unknown key 'function_call'"),
    "no text": ([user({"type": "text"})], r"content\[0\]\.text: expected a text"),
    "two pictures in a part": ([user({"type": "image", "image": "a", "path": "b"})], "expected one of the keys"),
    "no picture": ([user({"type": "image"})], "no image given"),
    "no address": ([user({"type": "image_url", "image_url": {"detail": "low"}})], "expected the keys url, detail"),
    "no sound": ([user({"type": "input_audio", "input_audio": {"format": "wav"}})], "expected the keys data, format"),
    "sound as text": ([user({"type": "input_audio", "input_audio": B64})], r"input_audio: expected \{"),
    "http": ([user({"type": "image_url", "image_url": "http://localhost/a.png"})], "addresses are not fetched"),
    "https": ([user({"type": "image", "url": "HTTPS://example.org/a.png"})], "addresses are not fetched"),
    "ftp": ([user({"type": "image", "image": "ftp://example.org/a.png"})], "addresses are not fetched"),
    "empty path": ([user({"type": "image", "image": ""})], "path is empty"),
    "data without comma": ([user({"type": "image", "image": "data:image/png;base64"})], "without a comma"),
    "data of another kind": ([user({"type": "image", "image": "data:text/html,x"})], "expected data:image/"),
    "bad base64": ([user({"type": "image", "image": "data:image/png;base64,@@@@"})], "not base64"),
    "empty base64": ([user({"type": "image", "image": "data:image/png;base64,"})], "data is empty"),
    "picture by the system": ([{"role": "system", "content": [{"type": "image", "image": "a"}]}], "role system"),
    "picture by the model": ([{"role": "assistant", "content": [{"type": "image", "image": "a"}]}], "role assistant"),
    "answer to nothing": ([{"role": "tool", "content": "a"}], "must follow an assistant message with tool_calls"),
    "answer to a user": (
        [{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}],
        r"messages\[1\]: a tool",
    ),
    "answer to another call": (
        [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c2", "content": "a"}],
        r"messages\[1\]\.tool_call_id: expected one of 'c1', found 'c2'",
    ),
    "calls": ([{"role": "assistant", "tool_calls": "f()"}], "tool_calls: expected a list"),
    "call": ([{"role": "assistant", "tool_calls": ["f()"]}], r"tool_calls\[0\]: expected"),
    "call without name": (calling(arguments="{}"), r"tool_calls\[0\]\.function\.name: expected"),
    "call with another key": (calling(name="f", args={}), "unknown key 'args'"),
    "arguments that are no JSON": (calling(name="f", arguments="{city: Oslo}"), "arguments: not JSON"),
    "arguments that are a list": (calling(name="f", arguments="[1]"), "expected a JSON object, found list"),
    "an object in arguments": (calling(name="f", arguments={"x": PICTURE}), "expected JSON"),
    "not a number": (calling(name="f", arguments={"x": float("nan")}), "expected JSON"),
    "a key that is no text": (calling(name="f", arguments={1: 2}), r"\(a key\): expected a text"),
    "many": ([{"role": "user", "content": "-"}] * 100_001, "messages: expected at most 10,000, found 100,001"),
    "digits": (calling(name="f", arguments={"x": 10**10_000}), "a number of at most 4096 bits, found 33,220"),
    "digits as text": (calling(name="f", arguments='{"x": %s}' % ("1" * 10_000)), "arguments: not JSON"),
    "deep": (calling(name="f", arguments={"x": deep}), "nested more than"),
    "very deep": (calling(name="f", arguments='{"a":' + "[" * 100_000), "not JSON"),
    "half a character": ([{"role": "user", "content": "ab\ud83d"}], "half a surrogate pair at character 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_says_where(name: str) -> None:
    messages, expected = REFUSED[name]
    with pytest.raises(InputError, match=expected) as caught:
        prepare_messages(messages)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["/etc/passwd", "file:///etc/passwd", "cat.png", "", Path("cat.png")])
def test_paths_from_a_network_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="a path is not accepted here"):
        prepare_messages([user({"type": "image", "image": value})], local_files=False)


def test_data_from_a_network_is_taken() -> None:
    part = {"type": "image_url", "image_url": "data:image/png;base64," + B64}
    assert prepare_messages([user(part)], local_files=False)[1] == [("image", PNG)]


def declared(schema: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": schema}}]


TINY = (Path(__file__).parents[1] / "models" / "tiny" / "chat_template.jinja").read_text("utf-8")


@pytest.mark.parametrize("template", [None, TINY], ids=["ours", "tiny"])
@pytest.mark.parametrize(
    ("schema", "same"),
    [
        ({"q": True}, {"q": True}),
        ({"type": "object", "properties": {"q": True}}, {"type": "object", "properties": {"q": {}}}),
        ({"properties": {"q": False, "r": {}}}, {"properties": {"q": {"not": {}}, "r": {}}}),
        (
            {"properties": {"l": {"type": "array", "items": {"type": "object", "properties": {"q": True}}}}},
            {"properties": {"l": {"type": "array", "items": {"type": "object", "properties": {"q": {}}}}}},
        ),
        (
            {"properties": {"l": {"type": "array", "items": True}}},
            {"properties": {"l": {"type": "array", "items": {}}}},
        ),
        ({"type": "object", "properties": [], "additionalProperties": False}, {"type": "object"}),
        ({"properties": {"q": {"description": None, "type": ["string", "null"]}}}, None),
    ],
)
def test_schemas_of_true_and_false_render(template: str | None, schema: Any, same: Any) -> None:
    """JSON schema's `true` and `false`, for which a template would find no fields, become mappings of that meaning."""

    def rendered(parameters: Any) -> str:
        return render([{"role": "user", "content": "a"}], declared(parameters), template=template)

    assert "declaration:f{" in rendered(schema)
    assert rendered(schema) == rendered(schema if same is None else same)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ("f", "tools: expected a list"),
        ([{"name": "f"}], r"tools\[0\]: expected"),
        ([{"type": "retrieval", "function": {"name": "f"}}], r"tools\[0\]: expected"),
        ([{"function": {"name": ""}}], r"tools\[0\]\.function\.name"),
        ([{"function": {"name": "f", "parameters": "none"}}], r"parameters: expected a JSON schema"),
        ([{"function": {"name": "f", "parameters": {"x": PICTURE}}}], r"tools\[0\]: expected JSON"),
        (declared({"properties": True}), r"parameters\.properties: expected a mapping of JSON schemas, found True"),
        (declared({"properties": {"q": 5}}), r"parameters\.properties\.q: expected a JSON schema, found 5"),
        (declared({"items": {"properties": {"q": "text"}}}), r"\.items\.properties\.q: expected a JSON schema"),
        (declared({"properties": {"q": {"description": 5}}}), r"properties\.q\.description: expected a text, found 5"),
    ],
)
def test_refused_tools(tools: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        prepare_tools(tools)


def test_tools_are_copied_and_none_are_none() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"required": ("a",)}}}
    assert prepare_tools([tool]) == [{"type": "function", "function": {"name": "f", "parameters": {"required": ["a"]}}}]
    assert prepare_tools([]) is None
    assert prepare_tools(None) is None
