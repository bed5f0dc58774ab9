"""Who may ask: no name that leads here from elsewhere, no other site's page, nobody without the key."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from gemma4gguf.cli import cli, run
from gemma4gguf.server.security import Guard, is_loopback
from tests.support.serving import Serving, serving

BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
CHAT = "/v1/chat/completions"
ELSEWHERE = (
    *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:8080", "[", "10.0.0.1"),
    *("localhost@evil.example", "evil.example#localhost", "[::ffff:10.0.0.1]", "2130706433", "0.0.0.0"),
)


def status(server: Serving, path: str = "/v1/models", **headers: str) -> int:
    return httpx.get(server.url + path, headers=headers, timeout=60).status_code


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080", "127.9.9.9"]
)
def test_a_loopback_name_may_ask(server: Serving, host: str) -> None:
    assert status(server, Host=host) == 200


@pytest.mark.parametrize("host", ELSEWHERE)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/", "/nowhere"])
def test_no_other_name_may(server: Serving, host: str, path: str) -> None:
    assert status(server, path, Host=host) == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://", "http://127.0.0.1"])
def test_no_other_page_may_ask(server: Serving, origin: str) -> None:
    """Browsers send such a request without asking the server first."""
    plain = {"Origin": origin, "Content-Type": "text/plain"}
    assert httpx.post(server.url + CHAT, json=BODY, headers=plain, timeout=60).status_code == 403
    assert status(server, Origin=origin) == 403


def test_the_server_s_own_page_may(server: Serving) -> None:
    assert status(server, Origin=server.url) == 200


def test_a_path_is_no_way_into_the_counters_or_the_log(server: Serving, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gemma4gguf.server")
    for name in ("x%0aFORGED", 'x"} 1%0d', "x%0a", "x"):
        assert status(server, f"/v1/models/{name}") == 404
    told = httpx.get(f"{server.url}/metrics").text + "".join(record.getMessage() for record in caplog.records)
    assert 'path="other",status="404"' in told
    assert "FORGED" not in told
    assert "/v1/models/" not in told


@pytest.fixture(scope="module")
def guarded(tiny_bundle: Path) -> Iterator[Serving]:
    """A server as it is where other machines reach it, but for its address."""
    guard = Guard("s3cret", local=False, origins=("https://friend.example",))
    with serving(tiny_bundle, guard=guard) as running:
        yield running


def test_the_key_is_asked_for(guarded: Serving) -> None:
    assert status(guarded, "/health") == 200
    for path in ("/v1/models", "/metrics", "/openapi.json", "/api/tags", "/nowhere"):
        assert status(guarded, path) == 401
    for wrong in ("", "Bearer", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"):
        assert status(guarded, Authorization=wrong) == 401
    assert status(guarded, Authorization="Bearer s3cret", Host="my.machine.example") == 200
    assert status(guarded, **{"x-api-key": "s3cret"}) == 200
    assert status(guarded, **{"x-api-key": "no"}) == 401
    assert httpx.get(guarded.url + "/v1/models", headers={b"x-api-key": b"\xe9"}).status_code == 401


def test_a_page_that_was_named_may_ask(guarded: Serving) -> None:
    asking = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization"
    asked = httpx.options(guarded.url + CHAT, headers=asking)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://friend.example")
    foe = httpx.options(guarded.url + CHAT, headers={**asking, "Origin": "https://foe.example"})
    assert "access-control-allow-origin" not in foe.headers
    headers = {"Origin": "https://friend.example", "Authorization": "Bearer s3cret"}
    found = httpx.get(guarded.url + "/v1/models", headers=headers)
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "https://friend.example")


def test_https(tiny_bundle: Path, tmp_path: Path) -> None:
    authority, pem = trustme.CA(), tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(tiny_bundle, certificate=pem) as running, httpx.Client(verify=trusting) as client:
        assert running.url.startswith("https:")
        assert client.get(running.url + "/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--host", "::"], "--api-key"),
        (["--tls-cert", __file__], "--tls-key"),
        (["--host", "no.such.name.invalid", "--api-key", "x"], "cannot listen"),
        (["--parallel", "99"], "--parallel"),
        (["--tls-cert", __file__, "--tls-key", __file__], "test_security.py: "),
    ],
)
def test_the_command_refuses(
    tiny_bundle: Path, options: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["serve", str(tiny_bundle), "--context", "512", "--draft", "off", "--port", "0", *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert word in said
    assert said.count("\n") == 1


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "::1", "[::1]", "127.3.2.1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "2130706433"]))
