"""`gemma4gguf listen`: a spoken conversation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, cast

import click

from ..records import Chunk, Result
from ..runtime.options import GenerateOptions
from .answering import AnswerWriter, warnings_told
from .common import common, debug_option, found, print_json
from .opening import opened
from .options import answer_options, model_options, split
from .show import StatusLine, note, warn
from .signals import ending_at_once

if TYPE_CHECKING:
    from ..listening import Ear


@click.command()
@click.argument("file", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--file", "sound", metavar="SOUND", help="A sound file, at the pace of a microphone [the microphone].")
@click.option("--fast", is_flag=True, help="The sound file as fast as it can be read; no answer is spoken into.")
@click.option("--key", is_flag=True, help="Enter ends a turn, and begins the next [pauses in speech].")
@click.option("-p", "--prompt", metavar="TEXT", default="", help="Told before the sound of every turn.")
@click.option("--system", metavar="TEXT", help="What the model is told first.")
@click.option("--thinking", is_flag=True, help="Let it think first; the thought goes to standard error.")
@click.option("--transcript-prompt", metavar="TEXT", help="Asks for what was heard where it goes on as text.")
@answer_options
@model_options
@click.option("--quiet", is_flag=True, help="Only the answers.")
@common
@debug_option
@found("file")
def listen(
    file: Path,
    sound: str | None,
    fast: bool,
    key: bool,
    prompt: str,
    system: str | None,
    thinking: bool,
    transcript_prompt: str | None,
    quiet: bool,
    as_json: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Listen, and answer turn by turn. What is spoken is read while it is spoken; speaking again stops an answer.

    A pause ends a turn (extra media), or Enter. Sound comes from the microphone (extra listen), or from a file. First
    it is measured whether the model reads fast enough, 25 positions a second. For example:

    \b
      gemma4gguf listen gemma.gguf
      gemma4gguf listen gemma.gguf --file questions.wav
    """
    from ..media.speech import detector, spoken
    from ..tools.listening import NEEDED, at_the_pace, by_key, microphone, reading_speed, recording, talk, verdict

    if fast and sound is None:
        raise click.UsageError("--fast is for a sound file: give it with --file")
    blocks = microphone() if sound is None else recording(sound) if fast else at_the_pace(recording(sound))
    turns = by_key(blocks, _enter(as_json)) if key else spoken(blocks, detector())
    opening, answering = split(given)
    teller = _Teller(quiet=quiet or as_json, silent=as_json)
    with warnings_told(), ending_at_once(), teller.line as line, opened(file, debug=debug, **opening) as model:
        line.tell("loading")
        model.load()
        speed = reading_speed(model)
        line.clear()
        if speed < NEEDED:
            warn(f"{file}: {verdict(speed)}")
        elif not (quiet or as_json):
            note(verdict(speed))
        chat = model.conversation(system=system, thinking=thinking)
        options = cast(GenerateOptions, answering)
        talk(
            chat,
            turns,
            teller.heard,
            teller.said,
            options=options,
            text=prompt,
            transcript_prompt=transcript_prompt,
            patient=fast,
        )
    if as_json:
        print_json({"positions_a_second": round(speed, 1), "needed": NEEDED, "turns": teller.turns})


class _Teller:
    """Shows how a turn is heard, and its answer. `silent`: keeps them for later."""

    def __init__(self, *, quiet: bool, silent: bool) -> None:
        self.line = StatusLine(quiet=quiet)
        self.turns: list[dict[str, Any]] = []
        self._silent, self._quiet, self._seconds = silent, quiet, 0.0
        self._begin()

    def _begin(self) -> None:
        self._writer, self._text = AnswerWriter(None if self._quiet else sys.stderr), ""

    def heard(self, ear: Ear) -> None:
        self._seconds = ear.seconds
        self.line.tell(f"listening: {ear.seconds:.1f} s, {ear.behind:.1f} s behind")

    def said(self, chunk: Chunk | None) -> None:
        self.line.clear()
        if chunk is not None:
            self._text += chunk.text
            if not self._silent:
                self._writer.write(chunk)
        if chunk is None or chunk.result:
            self._end(chunk.result if chunk else None)

    def _end(self, result: Result | None) -> None:
        if self._silent:
            self.turns.append({"seconds": round(self._seconds, 2), "text": self._text, "stopped": result is None})
        else:
            self._writer.end(result)
        self._begin()


def _enter(silent: bool) -> Callable[[], bool]:
    """Says whether Enter was pressed since it was asked last."""
    presses = Semaphore(0)

    def wait() -> None:
        for _ in sys.stdin or ():
            presses.release()

    if not silent:
        note("Enter ends your turn; Enter again begins the next")
    Thread(target=wait, name="gemma4gguf-key", daemon=True).start()
    return lambda: presses.acquire(blocking=False)


COMMANDS = (listen,)
