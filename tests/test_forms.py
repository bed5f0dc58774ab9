"""Answers of a form: whatever a model would rather say, what it says is of the form that was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

from gemma4gguf import Gemma4
from gemma4gguf.errors import InputError
from tests.support.schemas import declared, json_schema, rooted
from training.phrases import TOOLS

QUESTION = [{"role": "user", "content": "Call me at 7, please, and say what the weather is like."}]
PERSON = json_schema(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
        },
        "required": ["name", "age"],
    }
)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=2048, draft=3, threads=1) as opened:
        yield opened


def check(answer: str, asked: Mapping[str, Any]) -> None:
    jsonschema.validate(json.loads(answer), asked["json_schema"]["schema"], cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_is_valid(model: Gemma4, seed: int) -> None:
    asked = json_schema(rooted(Random(seed)))
    result = model.generate("Go on.", response_format=asked, seed=seed, temperature=1, max_tokens=1500)
    assert result.finish_reason == "stop"
    check(result.text, asked)


def test_drafts_change_nothing(small: Path) -> None:
    """In Q4_0, where checking guesses gives the same bits as one token at a time."""
    how: Any = {"context": 1024, "threads": 1}
    with Gemma4(small, draft="off", **how) as plain, Gemma4(small, draft=3, **how) as drafting:
        for seed in range(2):
            for temperature in (0.0, 1.0):
                options: Any = {"seed": seed, "temperature": temperature, "max_tokens": 40, "repetition_penalty": 1.1}
                asked = json_schema(rooted(Random(seed), 2))
                one, two = (m.generate("Go on.", response_format=asked, **options) for m in (plain, drafting))
                assert (one.text, one.tokens.completion) == (two.text, two.tokens.completion)
                assert two.draft.proposed


@pytest.mark.parametrize("seed", range(2))
def test_a_thought_comes_first_and_has_no_form(model: Gemma4, seed: int) -> None:
    result = model.generate("Add 3 and 4.", thinking=True, response_format=PERSON, seed=seed, max_tokens=400)
    check(result.text, PERSON)
    short = model.generate(
        "Add 3 and 4.", thinking=True, response_format=PERSON, seed=seed, max_tokens=400, max_thinking_tokens=2
    )
    check(short.text, PERSON)
    assert result.thought
    assert len(short.thought) <= len(result.thought)


def test_no_thought_unless_it_was_asked_for(model: Gemma4) -> None:
    result = model.generate(
        "Add 3 and 4.", response_format=PERSON, logit_bias=mark(model, "<|channel>"), max_tokens=400
    )
    assert result.thought == ""
    check(result.text, PERSON)


def mark(model: Gemma4, text: str, bias: float = 100) -> dict[int, float]:
    """A bias for a special token."""
    (token,) = model.engine.weights.vocab.tokenize(text, special=True)
    return {token: bias}


@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_is_asked_for_is_made(model: Gemma4, seed: int) -> None:
    tools = [declared("get_it", Random(seed)), declared("set-it.2", Random(seed + 100))]
    choice: Any = "required" if seed % 2 else {"type": "function", "function": {"name": "set-it.2"}}
    result = model.chat(QUESTION, tools=tools, tool_choice=choice, seed=seed, temperature=1, max_tokens=1500)
    assert (result.finish_reason, result.text, result.unreadable_calls) == ("tool_calls", "", ())
    for call in result.tool_calls:
        (schema,) = [t["function"]["parameters"] for t in tools if t["function"]["name"] == call.name]
        jsonschema.validate(call.arguments, schema, cls=jsonschema.Draft202012Validator)
    if choice != "required":
        assert [call.name for call in result.tool_calls] == ["set-it.2"]


def test_a_call_behind_a_thought(model: Gemma4) -> None:
    choice = {"type": "function", "function": {"name": "set_timer"}}
    question = [{"role": "user", "content": "Set a timer for 7 minutes."}]  # known: its thought ends
    result = model.chat(question, tools=[*TOOLS.values()], tool_choice=choice, thinking=True, temperature=0)
    assert result.thought
    assert [call.name for call in result.tool_calls] == ["set_timer"]


def name(tool: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool}}


def test_no_call_where_none_is_wanted(model: Gemma4) -> None:
    """Even where the model wants nothing else."""
    options: Any = {"tools": [*TOOLS.values()], "logit_bias": mark(model, "<|tool_call>"), "seed": 1, "max_tokens": 20}
    assert "<|tool_call>" not in model.chat(QUESTION, tool_choice="none", **options).text
    free = model.chat(QUESTION, **options)
    assert free.tool_calls or free.unreadable_calls


@pytest.mark.parametrize("bias", [100.0, -100.0])
def test_with_tools_and_a_form_an_answer_is_one_or_the_other(model: Gemma4, bias: float) -> None:
    result = model.chat(
        QUESTION,
        tools=[*TOOLS.values()],
        response_format=PERSON,
        logit_bias=mark(model, "<|tool_call>", bias),
        temperature=0,
        frequency_penalty=2,
        max_tokens=120,
    )
    if bias > 0:
        assert result.text.startswith("<|tool_call>call:") or result.tool_calls
    else:
        check(result.text, PERSON)


def test_any_json_object(model: Gemma4) -> None:
    result = model.generate("Go on.", response_format={"type": "json_object"}, seed=2, temperature=1, max_tokens=100)
    assert result.text.startswith("{")
    if result.finish_reason == "stop":
        assert isinstance(json.loads(result.text), dict)


def test_a_schema_in_json_object(model: Gemma4) -> None:
    """As other servers have it."""
    form = {"type": "json_object", "schema": {"const": "42"}}
    assert model.generate("Go on.", response_format=form, temperature=0).text == '"42"'
    with pytest.raises(InputError, match="response_format: schema: expected a JSON schema, found int"):
        model.generate("Go on.", response_format={"type": "json_object", "schema": 123})


def test_a_grammar(model: Gemma4) -> None:
    grammar = 'root ::= ("yes" | "no") ", because " [a-z ]{3,20} "."'
    result = model.generate("Is the sky blue?", grammar=grammar, seed=1)
    assert result.text.split(",")[0] in ("yes", "no")
    assert result.text.endswith(".")
    assert model.generate("Is it?", grammar='root ::= "东京 🙂"', temperature=0).text == "东京 🙂"


def test_an_answer_that_is_cut_is_the_beginning_of_one(model: Gemma4) -> None:
    options: Any = {"response_format": PERSON, "seed": 3}
    whole = model.generate("Go on.", **options, max_tokens=400)
    cut = model.generate("Go on.", **options, max_tokens=4)
    assert cut.finish_reason == "length"
    assert whole.text.startswith(cut.text.rstrip("\ufffd"))
    stopped = model.generate("Go on.", **options, max_tokens=400, stop='"age"')
    assert stopped.text == whole.text.split('"age"')[0]
    assert stopped.finish_reason == "stop"
    check(model.generate("Go on.", **options, max_tokens=400).text, PERSON)  # nothing of it is left


def test_log_probabilities_of_a_form(model: Gemma4) -> None:
    """The model's own are told as it would have had it; those that were sampled from, among what fits."""
    options: Any = {"grammar": 'root ::= "yes" | "no"', "temperature": 0}
    own = model.generate("Go on.", **options, logprobs=True, top_logprobs=1).logprobs
    drawn = model.generate("Go on.", **options, logprobs="sampled").logprobs
    assert own[0].logprob < own[0].top[0].logprob
    assert [each.logprob for each in drawn] == [0] * len(drawn)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"response_format": {"type": "xml"}}, "response_format is {'type': 'xml'}, expected"),
        ({"response_format": "json"}, "response_format is 'json', expected"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema: expected a mapping"),
        ({"response_format": json_schema({"not": {}})}, "response_format: schema: not cannot be held by a grammar"),
        ({"grammar": "root ::= a"}, "grammar: rule a is used and not defined"),
        ({"grammar": 5}, "grammar is 5, expected a text in GBNF"),
        ({"grammar": 'root ::= "a"', "response_format": {"type": "json_object"}}, "grammar: response_format says what"),
        ({"tool_choice": "must"}, "tool_choice is 'must', expected none, auto"),
        ({"tool_choice": "required"}, "tool_choice asks for a call, and there are no tools"),
        (
            {"tool_choice": name("f"), "tools": [*TOOLS.values()]},
            "tool_choice names 'f', and the tools are get_weather",
        ),
        ({"tool_choice": {"name": "f"}, "tools": [*TOOLS.values()]}, "tool_choice is {'name': 'f'}, expected"),
        (
            {"tool_choice": "required", "tools": [*TOOLS.values()], "response_format": {"type": "json_object"}},
            "tool_choice asks for a call, and response_format or grammar for a text",
        ),
        (
            {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "a{b"}}]},
            r"tools[0].function.name: 'a{b' cannot be called",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_told_before_any_work(model: Gemma4, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as error:
        model.stream_chat(QUESTION, **options)
    assert str(error.value).startswith(told)


def test_a_grammar_that_grows_too_ambiguous_ends_one_answer_and_no_other(model: Gemma4) -> None:
    hostile = 'root ::= "ab" (("c"?){2000}){2000} "d"'  # 4,000,000 ways to have no c
    with pytest.raises(InputError, match="too many ways to read"):
        model.generate("Go on.", grammar=hostile, seed=1, max_tokens=1500)
    assert model.generate("Go on.", grammar='root ::= "ok"').text == "ok"


def test_a_started_answer_goes_on_in_its_form(model: Gemma4) -> None:
    begun = '{"name": "Zo'
    started = [*QUESTION, {"role": "assistant", "content": begun}]
    options: Any = {"continue_final_message": True, "seed": 1, "max_tokens": 200}
    check(begun + model.chat(started, response_format=PERSON, **options).text, PERSON)
    with pytest.raises(InputError, match="does not begin as response_format"):
        model.chat([*QUESTION, {"role": "assistant", "content": "Well"}], response_format=PERSON, **options)
