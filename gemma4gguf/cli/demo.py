"""`gemma4gguf demo`: the main job on this machine in a few seconds, from the bundled checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from ..media.containers import av as reads_videos
from ..media.kinds import EXTRA
from .answering import speed
from .bundled import MODELS, TINY, converted
from .common import common, debug_option, print_json
from .show import size

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
REAL_MODEL = """
The real model, from published GGUF parts, if they fit this machine:
    gemma4gguf pull OWNER/gemma-4-12B-it-GGUF:Q4_K_M"""


@dataclass(frozen=True)
class Question:
    """What is asked, with what is shown beside it."""

    text: str
    image: str | None = None
    audio: str | None = None
    video: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)

    def media(self) -> list[str]:
        return [name for name in (self.image, self.video, self.audio) if name]

    def messages(self, media: Path) -> list[dict[str, Any]]:
        image, video, audio = (
            [{"type": kind, kind: media / name}] if name else []
            for kind, name in (("image", self.image), ("video", self.video), ("audio", self.audio))
        )
        return [{"role": "user", "content": [*image, *video, {"type": "text", "text": self.text}, *audio]}]

    def shown(self) -> str:
        return "  ".join([self.text, *self.media()])


QUESTIONS = (
    Question("What number is this?", image="digits.png"),
    Question("What is in this picture?", image="cat.jpg"),
    Question("What is said?", audio="number.wav"),
    Question("Which colour comes second?", video="clip.mp4"),
    Question("What is the weather in Oslo?", tools=[WEATHER]),
)


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@common
@debug_option
def demo(checkpoint: Path | None, as_json: bool, debug: bool) -> None:
    """Convert the bundled model and ask it about two pictures, a spoken clip, a video and a tool.

    CHECKPOINT is another checkpoint folder to use in its place.
    """
    from ..model import Gemma4

    for name in (name for question in QUESTIONS for name in question.media()):
        if not (MODELS / "demo" / name).is_file():
            raise InputError(f"{MODELS / 'demo' / name}: not there; run the demo in a clone of the repository")
    report = []
    source = checkpoint or TINY
    with converted(source) as (path, done):
        if not as_json:
            parts = ", ".join(section.architecture for section in done.plan.sections)
            click.echo(f"Converted {source.name} to one file: {size(done.size)} in {done.seconds:.1f} s ({parts})")
        with Gemma4(path, context=4096, debug=debug) as model:
            for question in QUESTIONS:
                if question.video and not reads_videos():
                    click.echo(f"\n{question.shown()}: left out, videos need the extra media: {EXTRA}", err=True)
                    continue
                result = model.chat(
                    question.messages(MODELS / "demo"),
                    tools=question.tools or None,
                    local_files=True,
                    temperature=0,
                    max_tokens=64,
                )
                report.append({"question": asdict(question), "result": asdict(result)})
                if as_json:
                    continue
                click.echo()
                click.secho(question.shown(), bold=True)
                calls = [f"{c.name}({json.dumps(c.arguments, ensure_ascii=False)})" for c in result.tool_calls]
                click.echo("\n".join(filter(None, [result.text, *calls])) or "(nothing)")
                click.secho(speed(result), dim=True)
    if as_json:
        print_json(report)
    else:
        click.echo(REAL_MODEL)


COMMANDS = (demo,)
