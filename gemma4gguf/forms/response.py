"""`response_format`, as the OpenAI API has it -> GBNF.

What a caller gives comes in; the text of a grammar goes out, or none where any text will do.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..arguments import shown
from ..errors import InputError
from .schema import schema_grammar

EXPECTED = '{"type": "json_schema", "json_schema": {"schema": …}}, {"type": "json_object"} or {"type": "text"}'


def response_grammar(response_format: object, where: str = "response_format") -> str | None:
    """GBNF of what an answer must be. Raises InputError."""
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if not isinstance(response_format, Mapping) or kind not in ("json_schema", "json_object", "text"):
        raise InputError(f"{where} is {shown(response_format)}, expected {EXPECTED}")
    if kind == "text":
        return None
    if kind == "json_object" and "schema" in response_format:  # as other servers have it
        return schema_grammar(response_format["schema"], f"{where}: schema")
    if kind == "json_object":
        return schema_grammar({"type": "object"}, where)
    described = response_format.get("json_schema")
    if not isinstance(described, Mapping) or "schema" not in described:
        raise InputError(f"{where}.json_schema: expected a mapping with a schema; {EXPECTED}")
    return schema_grammar(described["schema"], f"{where}: schema")
