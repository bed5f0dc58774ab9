"""Transcripts on the small model: as right as single clips, resumable, in formats that other programs read."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import webvtt
from click.testing import CliRunner

from gemma4gguf import Gemma4
from gemma4gguf.cli import cli
from gemma4gguf.errors import ConversionError, Gemma4Error, InputError
from gemma4gguf.records import Result, Timings, Tokens
from gemma4gguf.tools.subtitles import FORMATS, clock
from gemma4gguf.tools.transcripts import transcribe_file
from gemma4gguf.transcription import Segment, doubt_of, transcribe, unshared
from tests.support.spoken import RATE, clips, is_said, memo

ASK = "What is said?"
HOW = ["--prompt", ASK, "--draft", "off", "--context", "512", "--threads", "1"]  # as `model` is opened and asked


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=512, draft="off", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute of words."""
    path = tmp_path_factory.mktemp("sound") / "memo.flac"
    soundfile.write(path, memo(0)[0], RATE)
    return path


@pytest.fixture(scope="module")
def segments(model: Gemma4, sound: Path) -> list[Segment]:
    return list(model.transcribe(sound, prompt=ASK))


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────


def test_as_right_as_single_clips_and_on_time(model: Gemma4, segments: list[Segment]) -> None:
    said = memo(0)[1]
    assert len(segments) == len(said)
    right = sum(is_said(word.word, segment.text) for word, segment in zip(said, segments, strict=True))
    alone = [model.chat([asked(clip)], temperature=0).text for _, clip in clips()]
    single = sum(is_said(word, text) for (word, _), text in zip(clips(), alone, strict=True))
    assert right >= single - 2  # of twenty; processors round differently
    for word, segment in zip(said, segments, strict=True):
        assert segment.start == pytest.approx(word.start, abs=0.3)
        assert segment.end == pytest.approx(word.end, abs=0.3)
        assert not segment.doubt


def asked(clip: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "audio", "audio": (clip, RATE)}, {"type": "text", "text": ASK}]}


def test_several_windows_together_are_the_same_segments(
    tiny_bundle: Path, sound: Path, segments: list[Segment]
) -> None:
    with Gemma4(tiny_bundle, context=512, draft="off", threads=1, parallel=3) as several:
        assert list(several.transcribe(sound, prompt=ASK)) == segments


def test_what_is_done_is_not_done_again(model: Gemma4, sound: Path, segments: list[Segment]) -> None:
    told: list[float] = []
    rest = list(model.transcribe(sound, prompt=ASK, done=segments[:12], on_progress=told.append))
    assert rest == segments[12:]
    assert told == pytest.approx([segment.end for segment in rest], abs=1e-3)


def test_questions(model: Gemma4) -> None:
    """What the model is asked; answers are given by hand."""
    questions: list[str] = []

    class Asked:
        def chat(self, messages: Any, **options: Any) -> Result:
            kinds = [part["type"] for part in messages[0]["content"]]
            assert kinds == ["audio", "text"]
            questions.append(messages[0]["content"][1]["text"])
            return result(f"word {len(questions)}")

    samples = memo(0)[0][: 6 * RATE]
    for how in (
        {},
        {"language": "German"},
        {"task": "translate"},
        {"prompt": "Hm?", "hint": "Ada"},
        {"prompt": "Hm?", "carry": True},
    ):
        list(transcribe(Asked(), (samples, RATE), **how))
    firsts = questions[:: len(questions) // 5]
    assert firsts[0].startswith("Write down what is said, in the language that is spoken.")
    assert firsts[1].startswith("Write down what is said, in German.")
    assert firsts[2].startswith("Translate what is said into English.")
    assert firsts[3:] == ["Hm?\nNames and words that may be said: Ada", "Hm?"]
    assert questions[-1] == f"Hm?\nBefore it was said: word {len(questions) - 1}"


def result(text: str) -> Result:
    return Result(text, "", (), "stop", Tokens(0, 0, 0), Timings(), 0)


def test_doubtful_answers_are_tried_again_and_marked() -> None:
    for text, doubt in (
        ("", "empty"),
        (" \n", "empty"),
        ("no no no no no", "loop"),
        ("and so on, and so on, and so on, and so on, ", "loop"),
        ("ha ha ha", ""),
        ("I hear the digit 7.", ""),
    ):
        assert doubt_of(result(text)) == doubt
    tries: list[dict[str, Any]] = []

    class Stuck:
        def chat(self, messages: Any, **options: Any) -> Result:
            tries.append(options)
            return result("la la la la la la")

    samples = memo(0)[0][: 3 * RATE]
    found = list(transcribe(Stuck(), (samples, RATE)))
    assert {segment.doubt for segment in found} == {"loop"}
    assert len(tries) == 2 * len(found)
    assert FORMATS["txt"](found[:1]) == "[unclear] la la la la la la\n"


def test_words_at_a_cut_are_said_once() -> None:
    assert unshared("we went to the old House.", "the old house and back") == "and back"
    assert unshared("we went", "and back") == "and back"
    assert unshared("", "and back") == "and back"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"task": "sing"}, "task is 'sing', expected one of transcribe, translate"),
        ({"longest": 31}, "longest is 31, expected 1 to 30 seconds"),
    ],
)
def test_what_cannot_be_asked(model: Gemma4, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.transcribe(b"", **how)


def test_unusable_sound(model: Gemma4) -> None:
    with pytest.raises(InputError, match=r"no/such\.wav: No such file"):
        list(model.transcribe("no/such.wav"))


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_subtitles_pass_a_parser(segments: list[Segment]) -> None:
    tricky = [*segments, Segment(3600.5, 3601.25, "a <b> & c --> d", "loop")]
    for form in ("vtt", "srt"):
        captions = list(webvtt.from_buffer(io.StringIO(FORMATS[form](tricky)), form))
        assert len(captions) == len(tricky)
        assert captions[0].text == segments[0].text
        assert captions[-1].start == "01:00:00.500"
        assert captions[-1].end == "01:00:01.250"
    assert json.loads(FORMATS["json"](tricky))["segments"][-1]["doubt"] == "loop"
    assert FORMATS["tsv"](tricky).splitlines()[-1] == "3600500\t3601250\t[unclear] a <b> & c --> d"
    assert clock(7.0005) == "00:00:07.000"


def test_a_file_appears_when_it_is_complete(
    model: Gemma4, sound: Path, segments: list[Segment], tmp_path: Path
) -> None:
    out = tmp_path / "memo.txt"
    begun = transcribe_file(model, sound, out, "txt", prompt=ASK)
    first = [next(begun) for _ in range(10)]
    begun.close()
    assert [path.name for path in tmp_path.iterdir()] == [".memo.txt.progress"]
    with open(tmp_path / ".memo.txt.progress", "ab") as file:
        file.write(b'{"start": 1')  # as if it had been ended while it wrote
    asked_again: list[float] = []
    again = list(transcribe_file(model, sound, out, "txt", prompt=ASK, on_progress=asked_again.append))
    assert again == segments
    assert again[:10] == first
    assert len(asked_again) == len(segments) - 10
    assert out.read_text() == "".join(f"{segment.text}\n" for segment in segments)
    assert [path.name for path in tmp_path.iterdir()] == ["memo.txt"]
    with pytest.raises(ConversionError, match=r"memo\.txt: exists already"):
        next(transcribe_file(model, sound, out, "txt", prompt=ASK))


def test_progress_of_another_question_is_not_taken(model: Gemma4, sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "memo.txt"
    begun = transcribe_file(model, sound, out, "txt", prompt=ASK)
    kept = next(begun)
    begun.close()
    told: list[float] = []
    other = transcribe_file(model, sound, out, "txt", prompt="What digit is spoken?", on_progress=told.append)
    next(other)
    other.close()
    assert told == pytest.approx([kept.end])


def test_killed_and_run_again(tiny_bundle: Path, sound: Path, segments: list[Segment], tmp_path: Path) -> None:
    """It may have ended before it is killed: --replace, so that it is run again all the same."""
    command = [sys.executable, "-m", "gemma4gguf", "transcribe", str(tiny_bundle), str(sound), *HOW]
    command += ["--out", str(tmp_path), "--format", "json", "--replace"]
    kept = tmp_path / ".memo.json.progress"
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while running.poll() is None and not (kept.exists() and kept.read_bytes().count(b"\n") > 5):
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads((tmp_path / "memo.json").read_text())["segments"]
    assert found == [vars(segment) for segment in segments]
    assert not kept.exists()


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


def invoke(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(cli, ["transcribe", *arguments], **options)


def test_lines_as_they_are_written(tiny_bundle: Path, sound: Path, segments: list[Segment]) -> None:
    result = invoke(str(tiny_bundle), str(sound), *HOW)
    assert result.stdout.splitlines() == [segment.text for segment in segments]
    piped = invoke(str(tiny_bundle), "-", *HOW, "--format", "srt", input=sound.read_bytes())
    assert len(re.findall(r"-->", piped.stdout)) == len(segments)
    told = json.loads(invoke(str(tiny_bundle), str(sound), *HOW, "--json").stdout)
    assert told["segments"] == [vars(segment) for segment in segments]


def test_what_is_refused(tiny_bundle: Path, sound: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([str(sound), str(sound), "--format", "srt"], "name a folder with --out"),
        ([str(sound), str(sound), "--out", str(tmp_path)], "give files of different names"),
        ([str(sound), "--out", str(tmp_path / "none")], "no such folder; make it first"),
        (["no/such.wav"], "no/such.wav: No such file"),
    ):
        result = invoke(str(tiny_bundle), *arguments)
        assert message in result.stderr


def test_long_clips_name_the_command(model: Gemma4) -> None:
    with pytest.warns(UserWarning, match="`gemma4gguf transcribe` takes any length"), pytest.raises(Gemma4Error):
        model.generate("What?", audio=(np.zeros(31 * RATE, np.float32), RATE))
