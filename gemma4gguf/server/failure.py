"""Why a request gets no answer, whichever API it came by.

In: errors of the library, and what is wrong with a request. Out: a `RequestError`, which every API tells in its
own form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import BusyError, ContextError, Gemma4Error, InputError, MemoryLimitError, MissingPartError, NativeError

# What can go wrong: HTTP status, and what OpenAI and Anthropic call it.
KINDS: Mapping[str, tuple[int, str, str]] = {
    "invalid": (400, "invalid_request_error", "invalid_request_error"),
    "context": (400, "invalid_request_error", "invalid_request_error"),
    "key": (401, "authentication_error", "authentication_error"),
    "forbidden": (403, "permission_error", "permission_error"),
    "unknown": (404, "not_found_error", "not_found_error"),
    "method": (405, "invalid_request_error", "invalid_request_error"),
    "slow": (408, "invalid_request_error", "invalid_request_error"),
    "large": (413, "invalid_request_error", "request_too_large"),
    "encoding": (415, "invalid_request_error", "invalid_request_error"),
    "busy": (429, "rate_limit_error", "rate_limit_error"),
    "broken": (500, "server_error", "api_error"),
    "unavailable": (503, "server_error", "overloaded_error"),
}
CODES = {"context": "context_length_exceeded", "key": "invalid_api_key", "busy": "rate_limit_exceeded"}
_ERRORS: tuple[tuple[type[Gemma4Error], str], ...] = (
    (ContextError, "context"),
    (InputError, "invalid"),
    (MissingPartError, "invalid"),
    (BusyError, "busy"),
    (MemoryLimitError, "unavailable"),
    (NativeError, "unavailable"),
    (Gemma4Error, "broken"),
)
_NAMED = re.compile(r"^([a-z_]+(?:\[\d+\]|\.\w+)*)(?= is |: | asks | names )")


class RequestError(Exception):
    """Why a request gets no answer. `kind`: of KINDS; `field`: the path in the body."""

    def __init__(self, kind: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.field = kind, message, field

    @property
    def status(self) -> int:
        return KINDS[self.kind][0]

    @classmethod
    def of(cls, error: Gemma4Error, fields: Mapping[str, str] | None = None) -> RequestError:
        """An error of the library. `fields`: where a body has what it names, such as `messages[0]`: `system`."""
        kind = next(kind for known, kind in _ERRORS if isinstance(error, known))
        message, named = str(error), _NAMED.match(str(error))
        if not named or fields is None:
            return cls(kind, message)
        path = in_body(named[1], fields)
        return cls(kind, path + message[named.end() :], path)


def in_body(path: str, fields: Mapping[str, str]) -> str:
    """A path of the library's as the body has it, by the longest beginning that `fields` knows."""
    known = (name for name in fields if path == name or (path.startswith(name) and path[len(name)] in ".["))
    name = max(known, key=len, default=None)
    return path if name is None else fields[name] + path[len(name) :]
