"""The table of addresses as an OpenAPI 3.1 document. The schemas are those that check the requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema

from ..version import __version__
from .request import Body, Json

_REF = "#/components/schemas/{model}"
_JSON: Json = {"application/json": {"schema": {"type": "object"}}}
_REFUSED = {
    "400": "The request cannot be answered",
    "413": "It is larger than the limits allow",
    "429": "Come back later",
}


@dataclass(frozen=True)
class Address:
    """A method and a path, and what answers there.

    `accepts`: the media type of the body; `stream`: of a streamed answer. `plain`: the answer may be plain text.
    """

    method: str
    path: str
    what: str
    handler: Callable[..., Any]
    body: type[Body] | None = None
    stream: str = ""
    accepts: str = "application/json"
    plain: bool = False


def document(addresses: Sequence[Address]) -> Json:
    """The whole document."""
    bodies = [(address.body, "validation") for address in addresses if address.body]
    names, definitions = models_json_schema(bodies, ref_template=_REF)  # type: ignore[arg-type]
    paths: Json = {}
    for address in addresses:
        operation: Json = {"summary": address.what, "responses": _responses(address)}
        if address.body:
            schema = names[address.body, "validation"]
            operation["requestBody"] = {"required": True, "content": {address.accepts: {"schema": schema}}}
        if parameters := re.findall(r"{(\w+)", address.path):
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parameters
            ]
        paths.setdefault(re.sub(r":\w+}", "}", address.path), {})[address.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "gemma4gguf serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {})},
    }


def _responses(address: Address) -> Json:
    streamed: Json = {address.stream: {}} if address.stream else {}
    plain: Json = {"text/plain": {"schema": {"type": "string"}}} if address.plain else {}
    content = {**_JSON, **plain, **streamed} if address.path != "/metrics" else plain
    responses: Json = {"200": {"description": "The answer", "content": content}}
    if address.body:
        responses |= {status: {"description": why, "content": _JSON} for status, why in _REFUSED.items()}
    if address.body or "{" in address.path:
        responses["404"] = {"description": "There is no such model", "content": _JSON}
    return responses
