"""Messages as the OpenAI API has them -> messages for a chat template, and the media in their order.

In: what a caller or a client on the network sent, untrusted. Out: plain data only (a template can call methods of
what it is given, so no picture object ever reaches one), tool arguments as mappings, and the pictures and clips taken
out of the parts. Nothing is fetched: a web address is an error. Does not look inside pictures or sound: that is
`image` and `audio`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from ..arguments import shown
from ..errors import InputError
from ..limits import Limits, current

_COMMON = frozenset({"role", "content", "name"})
_KEYS = {
    "system": _COMMON,
    "developer": _COMMON,
    "user": _COMMON,
    "assistant": _COMMON | {"tool_calls", "reasoning", "reasoning_content"},
    "tool": _COMMON | {"tool_call_id"},
}
# Where other APIs put content: something would be lost unless they are empty. Every other key that is not known
# (`cache_control`, `annotations`, `metadata`, …) belongs to another vendor, says nothing to the model and is ignored.
_EMPTY_ONLY = frozenset(
    {"audio", "attachments", "contents", "documents", "file", "files", "function_call", "image", "images", "parts"}
    | {"refusal", "text", "video", "videos"}
)
_NOT_IGNORED = _EMPTY_ONLY.union(*_KEYS.values())
_MEDIA_ROLES = frozenset({"user", "tool"})


class _Part(NamedTuple):
    kind: str  # "text", "image", "audio" or "video"
    keys: tuple[str, ...]  # where its content may be; exactly one is given


_PARTS = {
    "text": _Part("text", ("text",)),
    "image": _Part("image", ("image", "path", "url")),
    "image_url": _Part("image", ("image_url",)),
    "audio": _Part("audio", ("audio", "path", "url")),
    "input_audio": _Part("audio", ("input_audio",)),
    "video": _Part("video", ("video", "path", "url")),
    "video_url": _Part("video", ("video_url",)),
    "input_video": _Part("video", ("input_video",)),
}
_PART_KEYS = frozenset(key for part in _PARTS.values() for key in part.keys)

Media = tuple[str, Any]
"""A kind, "image", "audio" or "video", and what to load: a path, bytes, or an object as the caller gave it."""


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], *, need_media: bool = True, local_files: bool = True
) -> tuple[list[dict[str, Any]], list[Media]]:
    """Checked copies of `messages` for a chat template, and their media in the template's order.

    `need_media` False lets `{"type": "image"}` stand without a picture, for rendering alone. `local_files` False
    refuses paths, for messages that somebody else wrote: they must not choose files of this machine. Raises
    InputError that says where: an unknown role, part or key, a missing text, arguments that are no JSON object.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError(f"messages: expected a list of messages, found {type(messages).__name__}")
    if not messages:
        raise InputError("messages: the list is empty; give at least one message")
    _check_count(messages, current().messages, "messages")
    prepared: list[dict[str, Any]] = []
    media: list[Media] = []
    open_calls: list[dict[str, Any]] = []  # those that a tool message may answer here
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        out = _message(message, where)
        if out["role"] == "tool":
            _check_answer(out, open_calls, where)
        else:
            open_calls = out.get("tool_calls", [])
        out["content"], found = _content(out, where, need_media, local_files)
        prepared.append(out)
        media += found
    return prepared, media


def prepare_turn(
    text: str,
    images: Sequence[object],
    audio: Sequence[object],
    system: str | None,
    *,
    videos: Sequence[object] = (),
    sound_first: bool = False,
) -> tuple[list[dict[str, Any]], list[Media]]:
    """One question as `prepare_messages` would give it: pictures, videos, text, sound, or sound first.

    Paths are the caller's own.
    """
    pictures = [("image", payload("image", image, f"images[{i}]")) for i, image in enumerate(images)]
    pictures += [("video", payload("video", video, f"videos[{i}]")) for i, video in enumerate(videos)]
    clips = [("audio", payload("audio", clip, f"audio[{i}]")) for i, clip in enumerate(audio)]
    words = [{"type": "text", "text": _text(text, "prompt")}]
    seen, heard = ([{"type": kind} for kind, _ in media] for media in (pictures, clips))
    content = [*heard, *seen, *words] if sound_first else [*seen, *words, *heard]
    head = [] if system is None else [{"role": "system", "content": _text(system, "system")}]
    return [*head, {"role": "user", "content": content}], [*clips, *pictures] if sound_first else [*pictures, *clips]


def prepare_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """A checked copy of tool declarations: `{"type": "function", "function": {"name": …, "parameters": …}}`.

    None for none.
    """
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise InputError(f"tools: expected a list, found {type(tools).__name__}")
    _check_count(tools, current().tools, "tools")
    prepared = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
            raise InputError(f'{where}: expected {{"type": "function", "function": {{"name": …}}}}')
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise InputError(f"{where}.function.name: expected a name")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise InputError(f"{where}.function.parameters: expected a JSON schema, found {type(parameters).__name__}")
        copy = plain(tool, where)
        if parameters is not None:
            copy["function"]["parameters"] = _schema(copy["function"]["parameters"], f"{where}.function.parameters")
        prepared.append(copy)
    return prepared or None


def _schema(node: Any, where: str) -> dict[str, Any]:
    """A JSON schema as templates expect it: a mapping at each place, where the standard also has true and false."""
    if isinstance(node, bool):
        return {} if node else {"not": {}}
    if not isinstance(node, dict):
        raise InputError(f"{where}: expected a JSON schema, found {shown(node)}")
    if not isinstance(node.get("description") or "", str):
        raise InputError(f"{where}.description: expected a text, found {shown(node['description'])}")
    out, properties = dict(node), node.get("properties") or {}
    if not isinstance(properties, dict):
        raise InputError(f"{where}.properties: expected a mapping of JSON schemas, found {shown(properties)}")
    if properties:
        out["properties"] = {key: _schema(item, f"{where}.properties.{key}") for key, item in properties.items()}
    if isinstance(node.get("items"), (bool, dict)):
        out["items"] = _schema(node["items"], f"{where}.items")
    return out


def prepare_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A checked copy of further names for a template: plain data, as a template can call methods of what it gets."""
    return {name: plain(value, f"template_options[{name!r}]") for name, value in options.items()}


def _check_count(items: Sequence[Any], most: int, where: str) -> None:
    if len(items) > most:
        raise InputError(f"{where}: expected at most {most:,}, found {len(items):,}; leave out some, the oldest first")


def _message(message: Any, where: str) -> dict[str, Any]:
    """Everything but the content, checked and copied; the content as it came."""
    if not isinstance(message, Mapping):
        raise InputError(f"{where}: expected a mapping with role and content, found {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _KEYS:
        raise InputError(f"{where}.role: expected one of {', '.join(_KEYS)}, found {shown(role)}")
    out: dict[str, Any] = {"role": role, "content": message.get("content")}
    for key, value in message.items():
        if key in _NOT_IGNORED and key not in _KEYS[role] and value:
            raise InputError(
                f"{where}: unknown key {shown(key)} for role {role}; known: {', '.join(sorted(_KEYS[role]))}"
            )
        if key in ("role", "content") or key not in _KEYS[role] or value is None:
            continue
        if key == "tool_calls":
            out[key] = _tool_calls(value, f"{where}.tool_calls")
        else:
            out[key] = _text(value, f"{where}.{key}")
    return out


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(calls, (str, bytes)) or not isinstance(calls, Sequence):
        raise InputError(f"{where}: expected a list, found {type(calls).__name__}")
    _check_count(calls, current().tools, where)
    return [_tool_call(call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise InputError(f'{where}: expected {{"type": "function", "function": {{"name": …, "arguments": …}}}}')
    if unknown := {*function} - {"name", "arguments"} if "arguments" not in function else set():
        raise InputError(f"{where}: unknown key {shown(min(map(str, unknown)))} and no arguments")
    name = _text(function.get("name"), f"{where}.function.name")
    if not name:
        raise InputError(f"{where}.function.name: expected a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}.function.arguments: not JSON ({error})") from error
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InputError(f"{where}.function.arguments: expected a JSON object, found {type(arguments).__name__}")
    out: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": plain(arguments or {}, where)}}
    if call.get("id") is not None:
        out["id"] = _text(call["id"], f"{where}.id")
    return out


def _check_answer(message: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], where: str) -> None:
    if not calls:
        raise InputError(
            f"{where}: a tool message must follow an assistant message with tool_calls, or another tool message"
        )
    ids = [call.get("id") for call in calls]
    answered = message.get("tool_call_id")
    if answered is not None and None not in ids and answered not in ids:
        raise InputError(f"{where}.tool_call_id: expected one of {', '.join(map(shown, ids))}, found {shown(answered)}")


def _content(
    message: Mapping[str, Any], where: str, need_media: bool, local_files: bool
) -> tuple[str | list[dict[str, Any]], list[Media]]:
    content, role, where = message["content"], message["role"], f"{where}.content"
    if content is None and role == "assistant":
        return "", []
    if isinstance(content, str):
        return _text(content, where), []
    if isinstance(content, (bytes, Mapping)) or not isinstance(content, Sequence):
        raise InputError(f"{where}: expected a text or a list of parts, found {type(content).__name__}")
    _check_count(content, current().parts, where)
    parts: list[dict[str, Any]] = []
    media: list[Media] = []
    for index, part in enumerate(content):
        spot = f"{where}[{index}]"
        kind, value = _part(part, spot)
        if kind == "text":
            parts.append({"type": "text", "text": _text(value, f"{spot}.text")})
            continue
        if role not in _MEDIA_ROLES:
            raise InputError(f"{spot}: {kind} in a message of role {role}; put it into a user or tool message")
        if value is None and need_media:
            raise InputError(
                f"{spot}: no {kind} given; expected one of the keys {', '.join(_PARTS[part['type']].keys)}"
            )
        # Rendered from here on by its kind: templates know "image" and "audio" longer than the API's own names.
        parts.append({"type": kind})
        if need_media:
            media.append((kind, payload(kind, value, spot, local_files)))
    return parts, media


def _part(part: Any, where: str) -> tuple[str, Any]:
    """A part's kind, and what was given under its key; None where nothing was."""
    if not isinstance(part, Mapping):
        raise InputError(f"{where}: expected a mapping with a type, found {type(part).__name__}")
    name = part.get("type")
    if not isinstance(name, str) or name not in _PARTS:
        raise InputError(f"{where}.type: expected one of {', '.join(_PARTS)}, found {shown(name)}")
    kind, keys = _PARTS[name]
    given = [key for key, value in part.items() if key in _PART_KEYS and (value is not None or key in keys)]
    if len(given) > 1 or not {*given} <= {*keys}:
        raise InputError(f"{where}: expected one of the keys {', '.join(keys)}, found {', '.join(map(shown, given))}")
    value = part[given[0]] if given else None
    if name in ("image_url", "video_url") and isinstance(value, Mapping):
        # `detail` has no effect: the caller's soft-token budget rules.
        value = _only(value, "url", ("url", "detail"), f"{where}.{name}")
    if name in ("input_audio", "input_video") and value is not None:
        if not isinstance(value, Mapping):
            raise InputError(f'{where}.{name}: expected {{"data": base64, "format": …}}, found {type(value).__name__}')
        # `format` has no effect: the clip says itself what it is.
        value = _only(value, "data", ("data", "format"), f"{where}.{name}")
        if isinstance(value, str) and not value.lower().startswith("data:"):
            value = _base64(value, f"{where}.{name}.data")
    return kind, value


def _only(mapping: Mapping[str, Any], key: str, known: tuple[str, ...], where: str) -> Any:
    if mapping.get(key) is None:
        raise InputError(
            f"{where}: expected the keys {', '.join(known)}, found {', '.join(map(shown, mapping)) or 'none'}"
        )
    return mapping[key]


def payload(kind: str, value: Any, where: str, local_files: bool = True) -> Any:
    """A picture or clip as it is loaded: a path, bytes, or the caller's object; from a string, what it stands for."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        if hasattr(value, "__fspath__") and not local_files:
            raise InputError(_no_path(kind, where))
        return value
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?", value)
    name = scheme[1].lower() if scheme else ""
    if name == "data":
        return _data_url(kind, value, where)
    if name in ("http", "https") or (scheme and scheme[2] and name != "file"):
        cure = "download it first and give its path" if local_files else f"send the {kind} itself, as a data: URL"
        raise InputError(f"{where}: {name}: addresses are not fetched; {cure}")
    if not local_files:
        raise InputError(_no_path(kind, where))
    if not value:
        raise InputError(f"{where}: the {kind}'s path is empty")
    return unquote(urlsplit(value).path) if name == "file" else value


def _no_path(kind: str, where: str) -> str:
    return f"{where}: a path is not accepted here (local_files is False); give the {kind} itself: bytes or a data: URL"


def _data_url(kind: str, url: str, where: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma:
        raise InputError(f"{where}: a data: URL without a comma; expected data:{kind}/…;base64,…")
    media_type, *options = head[len("data:") :].lower().split(";")
    if media_type.split("/")[0] not in (kind, "application", ""):
        raise InputError(f"{where}: expected data:{kind}/…, found data:{shown(media_type)}")
    if "base64" in (option.strip() for option in options):
        return _base64(unquote(data), where)
    return unquote_to_bytes(data)


def _base64(data: str, where: str) -> bytes:
    data = "".join(data.split()).rstrip("=")
    try:
        found = base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: not base64 ({error})") from error
    if not found:
        raise InputError(f"{where}: the data is empty")
    return found


def plain(value: Any, where: str) -> Any:
    """A deep copy in plain JSON types."""
    return _copied(value, where, 0, count(1), current())


def _copied(value: Any, where: str, depth: int, number: Iterator[int], most: Limits) -> Any:
    """A value that lies so deep, and those inside it, counted: lists that share others may hold more than they cost."""
    if next(number) > most.values:
        raise InputError(f"{where}: more than {most.values:,} values")
    if depth > most.depth:
        raise InputError(f"{where}: nested more than {most.depth} levels deep")
    if isinstance(value, int) and value.bit_length() > most.number_bits:
        raise InputError(f"{where}: expected a number of at most {most.number_bits} bits, found {value.bit_length():,}")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {
            _text(key, f"{where} (a key)"): _copied(item, where, depth + 1, number, most) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_copied(item, where, depth + 1, number, most) for item in value]
    raise InputError(f"{where}: expected JSON (texts, finite numbers, lists, mappings), found {shown(value)}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a text, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: half a surrogate pair at character {error.start}; the text is not Unicode"
        ) from error
    return str(value)
