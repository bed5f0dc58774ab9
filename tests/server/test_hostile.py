"""Three hundred and more requests that nobody means well with: each is refused or answered, nothing else happens."""

from __future__ import annotations

from collections import Counter

import httpx

from tests.support.hostile import CHAT, HI, UNFINISHED, requests, send
from tests.support.serving import Serving, eventually


def test_every_one_is_refused_or_answered(server: Serving) -> None:
    port = int(server.url.rpartition(":")[2])
    found = {name: send(port, data, name not in UNFINISHED) for name, data in requests()}
    assert len(found) > 300
    assert not {name: status for name, status in found.items() if status is not None and status >= 500}
    kinds = Counter(found.values())
    assert kinds[400] > 200
    assert {kinds[status] > 0 for status in (200, 403, 404, 405, 413, 415)} == {True}
    eventually(lambda: server.service.live == 0 and not server.model.engine.scheduler.live)
    body = {"messages": HI, "max_tokens": 2}
    assert httpx.post(server.url + CHAT, json=body, timeout=120).status_code == 200
