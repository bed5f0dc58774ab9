"""`gemma4gguf serve`: a local server that clients of OpenAI's, Anthropic's and Ollama's APIs use unchanged."""

from __future__ import annotations

import logging
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from ..server.settings import LIMITS, Limits
from .answering import warnings_told
from .common import Function, debug_option, found, one_line_errors, require_extra
from .opening import opened
from .options import model_options, split
from .show import note, warn

MINUTE_S = 60


def limit_options(function: Function) -> Function:
    """An option for each limit of a request."""
    for name, limit in reversed(list(LIMITS.items())):
        value: dict[str, Any] = {
            "type": limit.kind,
            "default": getattr(Limits, name),
            "show_default": True,
            "metavar": "N",
        }
        if limit.kind is bool:
            value = {"is_flag": True}
        function = click.option(f"--{limit.option}", name, help=limit.help, **value)(function)
    return function


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, metavar="N", help="0: any.")
@click.option("--parallel", type=int, default=2, show_default=True, metavar="N", help="Answers made at once.")
@click.option(
    "--api-key", metavar="KEY", envvar="GEMMA4GGUF_API_KEY", help="What clients must send; also GEMMA4GGUF_API_KEY."
)
@click.option(
    "--tls-cert", type=click.Path(exists=True, path_type=Path), metavar="FILE", help="Certificate, for https."
)
@click.option(
    "--tls-key", type=click.Path(exists=True, path_type=Path), metavar="FILE", help="The certificate's private key."
)
@click.option("--cors", multiple=True, metavar="ORIGIN", help="A web page's address that may ask; may be repeated.")
@click.option("--grace", type=float, default=30, show_default=True, metavar="S", help="Seconds for answers at the end.")
@click.option(
    "--idle-unload", type=float, metavar="MIN", help="Free the memory after so many minutes without requests."
)
@click.option(
    "--no-disk-cache",
    is_flag=True,
    help="Keep no beginnings of prompts on disk [in --cache-dir, or beside the models].",
)
@click.option(
    "--cache-memory", type=int, metavar="N", help="Bytes kept of conversations whose place others took [1 GiB]."
)
@limit_options
@model_options
@debug_option
@one_line_errors
@found("file")
def serve(
    file: Path,
    host: str,
    port: int,
    parallel: int,
    api_key: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    cors: tuple[str, ...],
    grace: float,
    idle_unload: float | None,
    no_disk_cache: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Answer HTTP requests as OpenAI's, Anthropic's and Ollama's servers do, on this machine alone unless told else.

    \b
      gemma4gguf serve gemma.gguf
      curl localhost:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'
    """
    require_extra("server", "serve", "starlette", "uvicorn", "pydantic", "multipart", "websockets")
    from ..bundle.finding import hidden_folder
    from ..server.app import application
    from ..server.card import Card
    from ..server.metrics import Metrics
    from ..server.running import Server, listening
    from ..server.security import Guard, is_loopback
    from ..server.service import KEEP_FOREVER, Service

    local = is_loopback(host)
    if not local and not api_key:
        raise InputError(f"host is {host}, which other machines reach: api_key must be set too")
    if (tls_cert is None) != (tls_key is None):
        raise InputError("tls_cert and tls_key are given together or not at all")
    limits = Limits(**{name: given.pop(name) for name in LIMITS})
    given["cache_dir"] = None if no_disk_cache else given["cache_dir"] or hidden_folder("prefixes")
    opening, _ = split(given)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("gemma4gguf.server").setLevel(logging.INFO)
    idle_s = KEEP_FOREVER if idle_unload is None else idle_unload * MINUTE_S
    open_model = partial(opened, file, parallel=parallel, debug=debug, isolate=True, **opening)
    service = Service(open_model, limits, Metrics(), parallel=parallel, idle_s=idle_s)
    with warnings_told(), closing(service):
        model = service.model()
        for name in model.bundle.missing:
            warn(f"{file}: {model.bundle.absence(name)}")
        card = Card.of(model.bundle, model.context)
        app = application(service, card, limits, Guard(api_key, local, cors))
        with listening(host, port) as listener:
            address = f"http{'s' if tls_cert else ''}://{host}:{listener.getsockname()[1]}"
            Server(
                app,
                service,
                listener,
                grace_s=grace,
                certificate=tls_cert,
                key=tls_key,
                most_bytes=limits.body,
                on_ready=lambda: note(f"{card.name} at {address}"),
            ).run()


COMMANDS = (serve,)
