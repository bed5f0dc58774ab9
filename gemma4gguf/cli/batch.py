"""`gemma4gguf batch`: many questions in files or a folder, answered by a model here, by servers or by a Ray cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .answering import warnings_told
from .common import debug_option, model_path, one_line_errors, require_extra
from .opening import opened
from .options import model_options, split
from .show import Progress, note

if TYPE_CHECKING:
    from ..batch.journal import Journal
    from ..batch.lines import Entry
    from ..batch.run import Answerer


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("questions", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--prompt", metavar="TEXT", help="IN is a folder: ask this about each of its pictures and sounds.")
@click.option("--glob", metavar="PATTERN", help="The files of the folder that count, such as '*.jpg'.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Longest answer to --prompt in tokens.")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N", help="At once.")
@click.option("--ordered", is_flag=True, help="Write answers in the order of the questions.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Answer at most N of them now.")
@click.option("--retry-errors", is_flag=True, help="Ask again what ended in an error.")
@click.option(
    "--files-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Bodies may name files in DIR: file:NAME as a url, or as the data of a sound.",
)
@click.option("--servers", metavar="URL,URL", help="Ask these servers; FILE is then only a name for the model.")
@click.option(
    "--ray", metavar="ADDRESS", help="Ask a model on each node of this Ray cluster: HOST:PORT, auto or local."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="For one answer of --servers or --ray.",
)
@click.option("--api-key", metavar="KEY", envvar="GEMMA4GGUF_API_KEY", help="What the servers want.")
@model_options
@debug_option
@one_line_errors
def batch(
    file: Path,
    questions: Path,
    out: Path,
    prompt: str | None,
    glob: str | None,
    max_tokens: int | None,
    parallel: int,
    ordered: bool,
    limit: int | None,
    retry_errors: bool,
    files_from: Path | None,
    servers: str | None,
    ray: str | None,
    timeout: float,
    api_key: str | None,
    debug: bool,
    **given: Any,
) -> int:
    """Answer the questions in IN, and append every answer to OUT as soon as it is there.

    IN has a line of JSON for each, as OpenAI's batches do: custom_id, url, body. OUT has the same lines as their
    output files. Run it again and it goes on where it ended. The exit status is 1 where answers are errors. Where IN is
    a folder of parts (*.jsonl), OUT is a folder, too, with a file of answers for each.

    \b
      gemma4gguf batch gemma.gguf questions.jsonl answers.jsonl
      gemma4gguf batch gemma.gguf photos/ captions.jsonl --prompt "Describe this picture in one sentence."
    """
    require_extra("server", "batch", "pydantic", "httpx")
    if servers and ray:
        raise InputError("servers and ray: one of them answers")
    if ray:
        require_extra("ray", "--ray", "ray")
    opening, _ = split({**given, "debug": debug})
    files = questions if prompt is not None else files_from
    files = None if files is None else files.absolute()
    if servers:
        who = _servers(servers.split(","), parallel, api_key, files, timeout)
    elif ray:
        from ..batch.cluster import of_cluster

        who = of_cluster(ray, file, parallel, files, timeout, opening)
    else:
        who = _model(file, parallel, files, opening)
    read = partial(_entries, prompt=prompt, glob=glob, max_tokens=max_tokens)
    with warnings_told():
        return asyncio.run(_answered(_parts(questions, out, prompt), read, who, limit, ordered, retry_errors))


async def _answered(
    parts: list[tuple[Path, Path]],
    read: Callable[[Path], list[Entry]],
    who: AbstractAsyncContextManager[list[Answerer]],
    limit: int | None,
    ordered: bool,
    retry_errors: bool,
) -> int:
    """Ask what has no answer, one file after another; whoever answers is called when there is something to do."""
    from ..batch.journal import journal
    from ..batch.lines import together
    from ..batch.run import run

    failures = 0
    async with AsyncExitStack() as stack:
        answerers: list[Answerer] = []
        for source, target in parts:
            entries = read(source)
            with journal(target, entries, ordered=ordered, retry_errors=retry_errors) as answers:
                left = [entry for entry in entries if entry.custom_id not in answers.done][:limit]
                if len(left) < len(entries):
                    note(f"{target}: {len(answers.done):,} of {len(entries):,} answers are there")
                if left:
                    answerers = answerers or await stack.enter_async_context(who)
                    chosen = left if ordered else list(together(left))
                    with Progress() as progress:
                        tell = _telling(progress, len(answers.done), len(left))
                        await run(chosen, answerers, answers, ordered=ordered, tell=tell)
                limit = None if limit is None else limit - len(left)
                if answers.failures:
                    note(f"{answers.failures:,} of {len(answers.done):,} answers are errors; --retry-errors asks again")
                failures += answers.failures
    return 1 if failures else 0


def _telling(progress: Progress, before: int, wanted: int) -> Callable[[Journal], None]:
    def shown(count: float) -> str:
        return f"{count:,.1f}".removesuffix(".0")

    return lambda now: progress(len(now.done) - before, wanted, "answers", shown)


def _parts(questions: Path, out: Path, prompt: str | None) -> list[tuple[Path, Path]]:
    """Files of questions, each with its file of answers: one pair, or one for each part in a folder."""
    if prompt is not None or not questions.is_dir():
        return [(questions, out)]
    found = sorted(questions.glob("*.jsonl"))
    if not found:
        raise InputError(f"{questions}: has no *.jsonl in it; prompt says what to ask about each file of a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: parts have their answers in a folder ({error.strerror or error})") from None
    return [(path, out / path.name) for path in found]


def _entries(questions: Path, prompt: str | None, glob: str | None, max_tokens: int | None) -> list[Entry]:
    from ..batch.lines import entries, folder_entries

    if prompt is None:
        return entries(questions)
    if not questions.is_dir():
        raise InputError(f"{questions}: is a file of questions; prompt is for a folder of files")
    return folder_entries(questions, glob, prompt, {} if max_tokens is None else {"max_tokens": max_tokens})


# ── who answers ──────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _model(
    file: Path, parallel: int, files_from: Path | None, opening: dict[str, Any]
) -> AsyncIterator[list[Answerer]]:
    from ..batch.answerers import of_model
    from ..runtime.opening import MOST_PARALLEL

    with opened(model_path(file), parallel=min(parallel, MOST_PARALLEL), isolate=True, **opening) as model:
        model.load()
        yield of_model(model, parallel, files_from)


@asynccontextmanager
async def _servers(
    servers: list[str], parallel: int, key: str | None, files_from: Path | None, timeout: float
) -> AsyncIterator[list[Answerer]]:
    from ..batch.answerers import client, of_server

    addresses = [address.strip().rstrip("/").removesuffix("/v1") for address in servers]
    async with client(timeout) as http:
        yield [one for address in addresses for one in of_server(http, address, parallel, key, files_from)]


COMMANDS = (batch,)
