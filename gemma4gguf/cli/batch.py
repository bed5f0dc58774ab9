"""`gemma4gguf batch`: many questions in a file or a folder, answered by a model here or by servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .answering import warnings_told
from .common import debug_option, found, one_line_errors, require_server_extra
from .options import model_options, split
from .show import Progress, note

if TYPE_CHECKING:
    from ..batch.journal import Journal
    from ..batch.lines import Entry


@click.command(short_help="Answer a file or a folder of questions.")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("questions", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
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
    api_key: str | None,
    debug: bool,
    **given: Any,
) -> int:
    """Answer the questions in IN, and append every answer to OUT as soon as it is there.

    IN has a line of JSON for each, as OpenAI's batches do: custom_id, url, body. OUT has the same lines as their
    output files. Run it again and it goes on where it ended. The exit status is 1 where answers are errors.

    \b
      gemma4gguf batch gemma.gguf questions.jsonl answers.jsonl
      gemma4gguf batch gemma.gguf photos/ captions.jsonl --prompt "Describe this picture in one sentence."
    """
    require_server_extra("batch", "pydantic", "httpx")
    from ..batch.journal import journal
    from ..batch.lines import together

    entries = _entries(questions, prompt, glob, max_tokens)
    if prompt is not None:
        files_from = questions
    with journal(out, entries, ordered=ordered, retry_errors=retry_errors) as answers:
        left = [entry for entry in entries if entry.custom_id not in answers.done][:limit]
        if len(left) < len(entries):
            note(f"{len(answers.done):,} of {len(entries):,} answers are there")
        chosen = left if ordered else list(together(left))
        before = len(answers.done)

        with Progress() as progress, warnings_told():

            def tell(now: Journal) -> None:
                progress(len(now.done) - before, len(chosen), "answers", lambda n: f"{n:,.1f}".removesuffix(".0"))

            options = {"files_from": files_from, "ordered": ordered, "tell": tell}
            if servers:
                asyncio.run(_by_servers(servers.split(","), parallel, api_key, chosen, answers, options))
            elif chosen:
                _by_model(file, parallel, {**given, "debug": debug}, chosen, answers, options)
        if answers.failures:
            note(f"{answers.failures:,} of {len(answers.done):,} answers are errors; --retry-errors asks again")
    return 1 if answers.failures else 0


def _entries(questions: Path, prompt: str | None, glob: str | None, max_tokens: int | None) -> list[Entry]:
    from ..batch.lines import entries, folder_entries

    if questions.is_dir():
        if prompt is None:
            raise InputError(f"{questions}: is a folder: prompt says what to ask about each file in it")
        return folder_entries(questions, glob, prompt, {} if max_tokens is None else {"max_tokens": max_tokens})
    if prompt is not None:
        raise InputError(f"{questions}: is a file of questions; prompt is for a folder of files")
    return entries(questions)


@found("file")
def _opened(file: Path, **options: Any) -> Any:
    from ..model import Gemma4

    return Gemma4(file, **options)


def _by_model(
    file: Path, parallel: int, given: dict[str, Any], chosen: list[Entry], answers: Journal, options: dict[str, Any]
) -> None:
    from ..batch.answerers import of_model
    from ..batch.run import run
    from ..runtime.opening import MOST_PARALLEL

    opening, _ = split(given)
    with _opened(file=file, parallel=min(parallel, MOST_PARALLEL), isolate=True, **opening) as model:
        model.load()
        asyncio.run(run(chosen, of_model(model, parallel), answers, **options))


async def _by_servers(
    servers: list[str], parallel: int, key: str | None, chosen: list[Entry], answers: Journal, options: dict[str, Any]
) -> None:
    from ..batch.answerers import client, of_server
    from ..batch.run import run

    async with client() as http:
        addresses = [address.strip().rstrip("/").removesuffix("/v1") for address in servers]
        answerers = [one for address in addresses for one in of_server(http, address, parallel, key)]
        await run(chosen, answerers, answers, **options)


COMMANDS = (batch,)
