"""`gemma4gguf bench --tune`: everything is tried and told, what wins can be typed, and only what wins is told to be."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf import Gemma4, InputError
from gemma4gguf.cli import cli, run
from gemma4gguf.cli.options import model_words
from gemma4gguf.runtime.opening import Opening
from gemma4gguf.tools import tune as module
from gemma4gguf.tools.tune import Times, Tuning, chosen, in_turns, micro_batches, tune, winner

OTHERS: dict[str, Any] = {
    "threads": 1,
    "threads_batch": 2,
    "micro_batch": 64,
    "repack": False,
    "kv_type": "q8_0",
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "PROMPTS", (256,))


def test_everything_is_tried_and_told(small: Path, quick: None) -> None:
    told: list[str] = []
    found = tune(small, threads=1, tell=told.append)
    assert told == ["opening", *(name.replace("_", " ") for name in OTHERS)]
    assert [name for name in OTHERS if name in {one.option for one in found.tried}] == list(OTHERS)
    for name in OTHERS:
        tried = [one for one in found.tried if one.option == name]
        assert not tried[0].gains, "the first is what it was"
        assert all(set(one.gains) == {each.name for each in one.figures} for one in tried[1:])
        assert [one.best for one in tried].count(True) == 1
        assert all(each.value > 0 for one in tried for each in one.figures)
    assert {one.value for one in found.tried if one.option == "micro_batch"} == {64, 128, 512}
    assert found.prompt == 256
    assert json.loads(json.dumps(found.as_json()))["prompt"] == 256


def test_what_wins_opens_a_model(tiny_bundle: Path, quick: None) -> None:
    found = tune(tiny_bundle, threads=1, kv_type="f32", flash_attention="off")
    assert "kv_type" not in {one.option for one in found.tried}, "f32 was asked for"
    given: dict[str, Any] = {"threads": 1, **found.options}
    with Gemma4(tiny_bundle, context=512, **given) as model:
        assert model.generate("What is 3 + 4?", temperature=0, max_tokens=16).text == "3 + 4 = 7"


def test_wrong_options_are_refused_as_elsewhere(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="micro_batch is 0, expected a whole number, 1 to 4096"):
        tune(tiny_bundle, micro_batch=0)


def test_what_is_printed_can_be_typed(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = model_words(OTHERS)
    assert words == shlex.split("--threads 1 --threads-batch 2 --micro-batch 64 --no-repack --kv-type q8_0")
    asked = ["generate", str(tiny_bundle), "What is 3 + 4?", "--temperature", "0", "--context", "512", *words]
    assert run(cli, asked) == 0
    assert capsys.readouterr().out.strip() == "3 + 4 = 7"


def test_the_command(tiny_bundle: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["bench", str(tiny_bundle), "--tune", "--threads", "1"]
    assert run(cli, [*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["typed"] == shlex.join(model_words(told["options"]))
    assert run(cli, asked) == 0
    said = capsys.readouterr().out
    assert all(line in said for line in ("--threads 1 ", "--threads-batch 1 ", "--micro-batch 512 ", "--kv-type f16 "))
    assert said.splitlines()[-1].startswith(("type:  --", "the defaults are best here"))
    assert run(cli, [*asked, "--compare", "x.json"]) == 1
    assert "--compare: of no use with --tune" in capsys.readouterr().err


def test_the_last_line_names_what_wins(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, line in ((OTHERS, f"type:  {shlex.join(model_words(OTHERS))}"), ({}, "the defaults are best here")):
        found = Tuning("m.gguf", {"processor": "p", "cores": 2}, 256, (), options)
        monkeypatch.setattr(module, "tune", lambda path, found=found, **how: found)
        assert run(cli, ["bench", str(tiny_bundle), "--tune"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == line


@pytest.mark.parametrize(
    ("others", "won"),
    [
        ([{"reading": [0.9, 0.9, 0.9], "writing": [1.0, 1.0, 1.0]}], 1),
        ([{"reading": [0.9, 0.9, 1.01], "writing": [1.0, 1.0, 1.0]}], 0),  # not ahead in every round
        ([{"reading": [0.98, 0.98, 0.98], "writing": [1.0, 1.0, 1.0]}], 0),  # hardly ahead
        ([{"reading": [0.5, 0.5, 0.5], "writing": [1.1, 1.1, 1.1]}], 0),  # behind in something
        ([{"reading": [0.5], "writing": [2.0]}], 0),  # it was left out after one round
        ([{"reading": [0.9] * 3, "writing": [1.0] * 3}, {"reading": [0.8] * 3, "writing": [1.0] * 3}], 2),
        ([], 0),
    ],
)
def test_who_wins(others: list[Times], won: int) -> None:
    assert winner([{"reading": [1.0, 1.0, 1.0], "writing": [1.0, 1.0, 1.0]}, *others]) == won


def test_one_that_is_hopelessly_behind_has_one_round(
    make_session: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 1e9)
    places = [make_session(context=256) for _ in range(3)]
    taken = {id(place): cost for place, cost in zip(places, (1.0, 1.05, 1.2), strict=True)}
    times = in_turns(places, {"writing": lambda session: taken[id(session)]})
    assert [len(each["writing"]) for each in times] == [module.MOST_ROUNDS, module.MOST_ROUNDS, 1]
    alone = in_turns(places[::2], {"writing": lambda session: taken[id(session)]})
    assert [len(each["writing"]) for each in alone] == [1, 1], "nobody is left to compare with"


def test_threads_are_named_apart_only_where_they_differ() -> None:
    begun = {"threads": 4, "threads_batch": 4, "micro_batch": 512}
    for best, found in (
        ({}, {}),
        ({"threads": 2, "threads_batch": 2}, {"threads": 2}),
        ({"threads": 2}, {"threads": 2, "threads_batch": 4}),
        ({"threads_batch": 8, "micro_batch": 256}, {"threads_batch": 8, "micro_batch": 256}),
    ):
        assert chosen(Opening(), begun, begun | best) == found
    given = {"threads": 4, "threads_batch": 8}
    assert chosen(Opening(threads_batch=8), given, {"threads": 8, "threads_batch": 8}) == {"threads": 8}


def test_micro_batches_cut_the_prompt() -> None:
    assert micro_batches(256, 512) == [64, 128]
    assert micro_batches(512, 512) == [128, 256]
    assert micro_batches(2048, 512) == [512, 1024, 2048]
