"""Multipart forms: a body as its fields. Nothing goes to a disk."""

from __future__ import annotations

from multipart import MultipartError, PushMultipartParser, parse_options_header

from .failure import RequestError

MOST_FIELDS = 64
MULTIPART = "multipart/form-data"
Value = str | bytes


def fields(content_type: str, body: bytes) -> dict[str, Value | list[Value]]:
    """The fields of a form: texts, and files as bytes. One whose name ends with [] is a list. Raises RequestError.

    Of a name that comes twice, the last one counts. The names of files are not looked at.
    """
    kind, options = parse_options_header(content_type)
    if kind != MULTIPART or not options.get("boundary"):
        raise RequestError(
            "invalid", f"Content-Type: expected {MULTIPART} with a boundary, found {content_type[:80]!a}"
        )
    found: dict[str, Value | list[Value]] = {}
    try:
        for name, is_file, data in _parts(options["boundary"], body):
            value = data if is_file else data.decode()
            if name.endswith("[]"):
                several = found.setdefault(name[:-2], [])
                found[name[:-2]] = [*several, value] if isinstance(several, list) else [value]
            else:
                found[name] = value
    except UnicodeError as error:
        raise RequestError("invalid", f"the body's form has a text that is not UTF-8: {error}") from error
    except MultipartError as error:
        raise RequestError("invalid", f"the body is not a form: {error}") from error
    return found


def _parts(boundary: str, body: bytes) -> list[tuple[str, bool, bytes]]:
    """Name, whether it is a file, and content of each part."""
    found, data = [], bytearray()
    with PushMultipartParser(boundary, max_segment_count=MOST_FIELDS, strict=True) as parser:
        for event in parser.parse(body):
            if isinstance(event, (bytes, bytearray)):
                data += event
            elif event:
                part, data = event, bytearray()
            else:
                found.append((part.name, part.filename is not None, bytes(data)))
    return found
