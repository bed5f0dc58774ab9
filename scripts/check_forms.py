#!/usr/bin/env python3
"""Check on the tiny model that answers have the form that is asked for, whatever the model would rather say.

    python scripts/check_forms.py                  # everything, about 8 minutes on one core
    python scripts/check_forms.py --count 20       # a tenth of it

schema    200 schemas by chance (tests/support/schemas.py): each answer is valid by jsonschema, with drafts and without,
          and the two are the same text. A difference is listed.
tools     100 questions with tools whose parameters are made by chance, tool_choice required and one by name in turns:
          nothing but calls of those tools, each with valid arguments.
thought   50 questions with a thought first: the thought is there, and the answer behind it valid.

Answers are sampled at temperature 1, each with its seed. Prints a line a part; ends with status 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import jsonschema

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from converters import convert  # noqa: E402
from gemma4gguf import Gemma4, Result  # noqa: E402
from tests.support.schemas import declared, json_schema, rooted  # noqa: E402

MODELS = ROOT / "models"
OPTIONS: dict[str, Any] = {"context": 4096, "threads": 1}
SAMPLED: dict[str, Any] = {"temperature": 1, "max_tokens": 3000}
QUESTION = "Add 3 and 4, and call me at 7."


def valid(value: Any, schema: Any) -> None:
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


def schemas(drafting: Gemma4, plain: Gemma4, seed: int) -> str:
    """What is wrong with the answers to one schema; empty where nothing is."""
    schema = rooted(Random(seed))
    results = [
        m.generate(QUESTION, response_format=json_schema(schema), seed=seed, **SAMPLED) for m in (drafting, plain)
    ]
    for result in results:
        valid(json.loads(result.text), schema)
    one, two = (result.text for result in results)
    return "" if one == two else f"with drafts {one!r}, without {two!r}"


def tools(drafting: Gemma4, plain: Gemma4, seed: int) -> str:
    offered = {name: declared(name, Random(f"{seed} {name}")) for name in ("get_it", "set-it.2", "other")}
    one: Any = {"type": "function", "function": {"name": "set-it.2"}}
    messages = [{"role": "user", "content": QUESTION}]
    choice: Any = "required" if seed % 2 else one
    result = drafting.chat(messages, tools=[*offered.values()], tool_choice=choice, seed=seed, **SAMPLED)
    for call in result.tool_calls:
        valid(call.arguments, offered[call.name]["function"]["parameters"])
    names = [call.name for call in result.tool_calls]
    right = names == ["set-it.2"] if choice is one else bool(names)
    return "" if right and not result.text and result.finish_reason == "tool_calls" else _told(result)


def thoughts(drafting: Gemma4, plain: Gemma4, seed: int) -> str:
    schema = rooted(Random(seed), 2)
    asked = json_schema(schema)
    result = drafting.generate(QUESTION, thinking=True, response_format=asked, seed=seed, **SAMPLED)
    valid(json.loads(result.text), schema)
    return "" if result.thought else _told(result)


def _told(result: Result) -> str:
    return f"{result.finish_reason}: {result.text!r}, thought {result.thought!r}, calls {result.tool_calls}"


PARTS: dict[str, tuple[Callable[[Gemma4, Gemma4, int], str], int]] = {
    "schema": (schemas, 200),
    "tools": (tools, 100),
    "thought": (thoughts, 50),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, metavar="N", help="schemas; the other parts get as much less")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; may be given several times")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        convert(MODELS / "tiny", path, quant="Q4_0", drafter=MODELS / "tiny-assistant", drafter_quant="Q8_0")
        with Gemma4(path, draft=3, **OPTIONS) as drafting, Gemma4(path, draft="off", **OPTIONS) as plain:
            for name in given.only or PARTS:
                check, usual = PARTS[name]
                count = usual * (given.count or 200) // 200
                wrong = {seed: told for seed in range(count) if (told := _checked(check, drafting, plain, seed))}
                for seed, told in wrong.items():
                    print(f"  {name} {seed}: {told}")
                print(f"{name}: {count - len(wrong)} of {count}", flush=True)
                failed += len(wrong)
    return int(failed > 0)


def _checked(check: Callable[[Gemma4, Gemma4, int], str], drafting: Gemma4, plain: Gemma4, seed: int) -> str:
    try:
        return check(drafting, plain, seed)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


if __name__ == "__main__":
    sys.exit(main())
