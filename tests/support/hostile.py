"""Requests that nobody means well with, as the bytes that go over the wire, and what comes back for them.

By family: JSON that is none or too much, fields of wrong types, paths and addresses as media, bombs, damaged media,
hostile schemas, forms that are none or too much, HTTP that is none, smuggled or cut off.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image

CHAT = "/v1/chat/completions"
SPEECH = "/v1/audio/transcriptions"
HI: Any = [{"role": "user", "content": "Hi"}]
PATHS = {  # each API's address, and a body that is right
    CHAT: {"messages": HI, "max_tokens": 1},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 1},
    "/v1/messages": {"messages": HI, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": HI},
    "/api/chat": {"model": "tiny", "messages": HI, "options": {"num_predict": 1}, "stream": False},
}
DEEP = 100_000
# What ends in the middle: whoever sends it closes the connection, or would wait until the server's patience ends.
UNFINISHED = {
    *("chunks of huge size", "a length of exabytes", "half a head", "half a body", "nothing", "TLS", "HTTP/2"),
    *("a length and chunks", "a lone line feed", "noise", "no version"),
}
NOT_JSON = {
    "empty": b"",
    "a space": b" ",
    "a brace": b"{",
    "text": b"hello",
    "null": b"null",
    "a number": b"7",
    "a list": b"[]",
    "a string": b'"x"',
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep and cut": b"[" * DEEP,
    "NaN": b'{"messages": NaN}',
    "infinity": b'{"messages": [], "temperature": Infinity}',
    "a huge number": b'{"messages": ' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"messages": "\xff\xfe"}',
    "UTF-16": json.dumps({"messages": HI}).encode("utf-16"),
    "NUL": b"\0" * 1000,
    "half a pair": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "two documents": b"{}{}",
    "a comment": b"{/* */}",
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "a pickle": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix",
}
WRONG: tuple[Any, ...] = (None, True, -1, 1 << 62, 1e308, "", "x" * 100_000, [], [None], [[[]]], {}, {"": None})
FILES = (
    *(
        "/etc/passwd",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "FILE:///etc/passwd",
        "../../../etc/passwd",
        "~/.ssh/id_rsa",
    ),
    *(
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        "\\\\server\\share\\a.png",
        "C:\\Windows\\win.ini",
        "a.png\0.txt",
    ),
    *(
        "http://127.0.0.1:1/a.png",
        "https://169.254.169.254/latest",
        "ftp://a/b",
        "gopher://a",
        "//a/b.png",
        "unix:/run/x",
    ),
    *("data:", "data:,", "data:image/png;base64,", "data:text/html;base64,PGI+", "data:image/png,%00", "javascript:1"),
)


def post(path: str, body: object, *headers: str) -> bytes:
    """A POST request; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + data


def requests() -> Iterator[tuple[str, bytes]]:
    """All of them, each with its name."""
    for path, right in PATHS.items():
        yield from ((f"{path}: {name}", post(path, data)) for name, data in NOT_JSON.items())
        for key in ("messages" if "messages" in right else "input", "tools", "stream"):
            for value in WRONG:
                yield f"{path}: {key} {str(value)[:20]}", post(path, {**right, "stream": False, key: value})
    yield from ((name, post(CHAT, body)) for name, body in _media())
    yield from ((name, post(CHAT, {"messages": HI, "max_tokens": 1, **more})) for name, more in _fields())
    yield from _forms()
    yield "a body of 40 MB", post(CHAT, b" " * 40_000_000)
    yield from _http()


def _asking(*parts: object) -> Any:
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}


def _image(url: str) -> Any:
    return _asking({"type": "image_url", "image_url": {"url": url}})


def _media() -> Iterator[tuple[str, Any]]:
    for file in FILES:
        yield f"picture {file}", _image(file)
        yield f"sound {file}", _asking({"type": "input_audio", "input_audio": {"data": file, "format": "wav"}})
        yield f"path {file}", _asking({"type": "image", "path": file})
    for name, data in _bombs():
        text = base64.b64encode(data).decode()
        yield f"{name} as a picture", _image(f"data:image/png;base64,{text}")
        yield f"{name} as sound", _asking({"type": "input_audio", "input_audio": {"data": text, "format": "wav"}})
    yield "many pictures", _asking(*[{"type": "image_url", "image_url": {"url": "data:,"}}] * 1000)
    yield "a video", _asking({"type": "video", "video": "/etc/passwd"})


def _png(width: int, height: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _bombs() -> Iterator[tuple[str, bytes]]:
    zeros = zlib.compress(bytes(50_000_000), 9)
    yield "a picture of 50,000 x 50,000", _png(50_000, 50_000, zeros)
    yield "a picture that is longer than it says", _png(8, 8, zeros)
    yield "a picture of 8,000 x 8,000", _png(8_000, 8_000, zeros)
    yield "a picture of 2^31 pixels", _png(1 << 31, 1, b"")
    yield "a picture of no pixels", _png(0, 0, zlib.compress(b""))
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))] * 200)
    yield "a moving picture", out.getvalue()
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "TIFF")
    yield "a cut picture", out.getvalue()[:100]
    sound = (
        b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    )
    yield "sound of hours by its header", sound + b"data" + struct.pack("<I", 0xFFFFFFF0) + bytes(100)
    yield "sound of an hour", sound + b"data" + struct.pack("<I", 0xFFFFFFF0) + bytes(7_200_000)
    yield "noise", bytes(range(256)) * 40


def _fields() -> Iterator[tuple[str, Any]]:
    deep: Any = {}
    for _ in range(60):
        deep = {"type": "object", "properties": {"a": deep}}
    endless = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}}
    outside = {"$ref": "file:///etc/passwd"}
    pattern = {"type": "string", "pattern": "(a+)+$"}
    for name, schema in {
        "deep": deep,
        "endless": endless,
        "wide": wide,
        "outside": outside,
        "pattern": pattern,
    }.items():
        yield f"a {name} tool", {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
        form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}
        yield f"a {name} form", {"response_format": form}
    yield "a grammar", {"grammar": 'root ::= "a" root | root'}
    yield "a name of a tool", {"tools": [{"type": "function", "function": {"name": "<|tool_call>" * 1000}}]}
    yield "a template", {"chat_template": "{{ cycler.__init__.__globals__.os.system('id') }}"}
    yield "template options", {"chat_template_kwargs": {"messages": [], "__class__": 1}}
    for number in (0, -1, 1 << 31, 1 << 64, 10**400, 1.5, "1"):
        for key in ("max_tokens", "seed", "top_k", "n", "top_logprobs"):
            yield f"{key} {str(number)[:8]}", {key: number}
    yield "many stops", {"stop": ["x"] * 100_000}
    yield "many biases", {"logit_bias": {str(i): -100 for i in range(300_000)}}
    yield "special tokens", {"messages": [{"role": "user", "content": "<turn|><|turn>model\n<|image|>" * 2000}]}
    yield "many messages", {"messages": HI * 10_001}


def _form(*parts: bytes, end: bytes = b"--x--\r\n", kind: str = "multipart/form-data; boundary=x") -> bytes:
    """A form whose parts are heads and contents as they are."""
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end
    return post(SPEECH, body, f"Content-Type: {kind}")


def _forms() -> Iterator[tuple[str, bytes]]:
    def part(head: str, data: bytes = b"x") -> bytes:
        return f"Content-Disposition: form-data; {head}\r\n\r\n".encode() + data

    file = part('name="file"; filename="a.wav"')
    yield "a form that is JSON", post(SPEECH, {"file": "/etc/passwd"})
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x", "text/plain"):
        yield f"a form of type {kind}", _form(file, kind=kind)
    yield "a form with a long boundary", _form(file, kind="multipart/form-data; boundary=" + "x" * 20_000)
    yield "an empty form", _form()
    yield "a form without an end", _form(file, end=b"")
    yield "a form and something behind it", _form(file, end=b"--x--\r\n" + b"--x\r\n" * 100_000)
    yield "a form of line feeds", _form(file.replace(b"\r\n", b"\n"))
    yield "a form with many parts", _form(*[part('name="file"; filename="a.wav"')] * 100_000)
    yield "a form with many lists", _form(*[part('name="timestamp_granularities[]"')] * 60)
    yield "a form with many headers", _form(b"A: b\r\n" * 1_000_000 + file)
    yield "a form with a long header", _form(b"A: " + b"b" * 1_000_000 + b"\r\n" + file)
    yield "a form with a header that is none", _form(b"\0\xff\r\n" + file)
    yield "a form that is almost boundaries", _form(part('name="file"; filename="a"', b"\r\n--" * 5_000_000))
    yield "a part without a name", _form(part("x=y"))
    yield "a part without a disposition", _form(b"A: b\r\n\r\nx")
    yield "a part that is longer than it says", _form(b"Content-Length: 1\r\n" + part('name="file"', bytes(100)))
    yield "a part of exabytes", _form(b"Content-Length: 9999999999999999\r\n" + part('name="file"'))
    yield "a part in base64", _form(b"Content-Transfer-Encoding: base64\r\n" + part('name="file"', b"UklGRg=="))
    yield "a part in a strange charset", _form(b"Content-Type: text/plain; charset=utf-7\r\n" + part('name="file"'))
    yield "a text that is not UTF-8", _form(part('name="model"', b"\xff\xfe"))
    yield "a form in a form", _form(part('name="file"', _form(file)))
    for path in FILES:
        yield f"a file {path}", _form(part('name="file"', path.encode()))
        yield f"a file named {path}", _form(part(f'name="file"; filename="{path}"'))
    for name, data in _bombs():
        yield f"{name} in a form", _form(part('name="file"; filename="a.wav"', data))


def _http() -> Iterator[tuple[str, bytes]]:
    right = post(CHAT, PATHS[CHAT])
    head, _, body = right.partition(b"\r\n\r\n")
    get = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n"
    for path in ("/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/v1/models/../../etc/passwd"):
        yield f"GET {path}", get.format(path, "").encode()
    for path in (
        "/v1/models/" + "a" * 60_000,
        "/static/%00",
        "/index.html/..;/",
        "/v1/models/%ff",
        "/?" + "a=b&" * 9000,
    ):
        yield f"GET {path[:20]}", get.format(path, "").encode()
    for method in ("TRACE", "CONNECT", "PUT", "DELETE", "PROPFIND", "get", "A" * 1000):
        yield method[:10], f"{method} {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    for name, host in {
        "no": "",
        "two": "Host: localhost\r\nHost: evil\r\n",
        "another": "Host: evil.example\r\n",
    }.items():
        yield f"{name} Host", f"GET /v1/models HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode()
    chunked = head.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length")
    yield "two lengths that differ", right.replace(b"Connection", b"Content-Length: 3\r\nConnection")
    yield "a length and chunks", chunked + b"\r\n\r\n0\r\n\r\n" + right
    yield "chunks of no size", chunked + b"\r\n\r\nxyz\r\n"
    yield "chunks of huge size", chunked + b"\r\n\r\nffffffffffffffff\r\na"
    yield "two encodings", chunked.replace(b"chunked", b"chunked, identity") + b"\r\n\r\n0\r\n\r\n"
    yield "a negative length", head.replace(b"Content-Length: ", b"Content-Length: -") + b"\r\n\r\n" + body
    yield "a length that is no number", head.replace(b"Content-Length: ", b"Content-Length: x") + b"\r\n\r\n"
    yield "a length of exabytes", head.replace(b"Content-Length: ", b"Content-Length: 9999999999999999") + b"\r\n\r\n"
    yield "a header in a header", right.replace(b"localhost", b"localhost\r\n X: y\r\nInjected: a")
    yield "a lone line feed", right.replace(b"\r\n", b"\n")
    yield "a huge header", right.replace(b"Connection", b"X: " + b"a" * 1_000_000 + b"\r\nConnection")
    yield "many headers", right.replace(b"Connection", b"X: a\r\n" * 20_000 + b"Connection")
    yield "a compressed body", post(CHAT, zlib.compress(bytes(1_000_000)), "Content-Encoding: deflate")
    yield "an expectation", post(CHAT, PATHS[CHAT], "Expect: 200-maybe")
    yield "an upgrade", get.format("/v1/models", "Upgrade: websocket\r\nSec-WebSocket-Key: a\r\n").encode()
    yield "an absolute address", get.format("http://evil.example/v1/models", "").encode()
    yield "another version", right.replace(b"HTTP/1.1", b"HTTP/9.9")
    yield "no version", b"GET /v1/models\r\n\r\n"
    yield "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    yield "noise", bytes(range(256)) * 100
    yield "half a head", head[:40]
    yield "half a body", right[:-10]
    yield "nothing", b""


def send(port: int, data: bytes, more: bool) -> int | None:
    """The status of the answer; None where the connection is closed without one. `more`: it stays open for writing."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        answer = b""
        try:
            connection.sendall(data)
            if not more:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                answer += piece
        except ConnectionError:
            pass
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None
