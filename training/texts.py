"""What the tiny model is asked and what it should answer: every example, before tokens.

In: a random generator and a `Material` (digits and clips, trained or held out). Out: `Example`s: a rendered prompt
with `<|image|>`, `<|audio|>` and `<|video|>` where media go, the reply that should follow, the media. Knows no ids and
no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from PIL import Image

from . import pictures, speech, videos
from .phrases import (
    ANIMALS,
    ASK,
    CAPITALS,
    CITIES,
    HEAR,
    HEAR_WORD,
    HELD_CITIES,
    NAMES,
    PLACES,
    READ,
    READ_ONE,
    SEE,
    SEE_COLOUR,
    SEE_SHAPE,
    SUMS,
    SYLLABLES,
    SYSTEMS,
    TALK,
    THINGS,
    TOOLS,
    VERBS,
)

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
_environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
_template = _environment.from_string(TEMPLATE.read_text())


Message = dict[str, Any]  # a message, a part of one, or a tool, as the OpenAI API has them
T = TypeVar("T")


@dataclass
class Example:
    kind: str
    prompt: str  # rendered; the reply follows directly
    reply: str  # with its closing token
    images: list[Image.Image] = field(default_factory=list)
    sounds: list[NDArray[np.float32]] = field(default_factory=list)  # at 16 kHz
    clips: list[videos.Clip] = field(default_factory=list)


@dataclass
class Material:
    held: bool
    digits: NDArray[np.uint8]  # [n, 8, 8]
    labels: NDArray[np.int64]  # [n]
    clips: list[tuple[str, NDArray[np.int16]]]  # word, samples
    photographs: list[tuple[str, Image.Image]] = field(default_factory=pictures.photographs)  # what it shows, all of it

    @classmethod
    def load(cls, cache: Path, held: bool) -> Material:
        return cls(held, *pictures.handwriting(held), speech.clips(cache, held))


Make = Callable[[np.random.Generator, Material], Example]


def render(
    messages: Sequence[Message], thinking: bool = False, tools: Sequence[Message] | None = None, answer: bool = True
) -> str:
    return _template.render(
        messages=messages, tools=tools, enable_thinking=thinking, add_generation_prompt=answer, bos_token="<bos>"
    )


def example(
    kind: str,
    content: str | list[Message],
    answer: str,
    thought: str | None = None,
    tools: Sequence[Message] | None = None,
    system: str | None = None,
    history: Iterable[Message] = (),
    images: Iterable[Image.Image] = (),
    sounds: Iterable[NDArray[np.float32]] = (),
    clips: Iterable[videos.Clip] = (),
    end: str = "<turn|>",
) -> Example:
    messages: list[Message] = (
        ([{"role": "system", "content": system}] if system else [])
        + list(history)
        + [{"role": "user", "content": content}]
    )
    reply = answer + end
    if thought is not None:
        reply = "<|channel>thought\n" + thought + "\n<channel|>" + reply
    return Example(kind, render(messages, thought is not None, tools), reply, list(images), list(sounds), list(clips))


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def media(text: str, image: int = 0, audio: int = 0) -> list[Message]:
    return [{"type": "image"}] * image + [{"type": "text", "text": text}] + [{"type": "audio"}] * audio


def exchange(question: str | list[Message], answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def row(rng: np.random.Generator, m: Material, count: int | None = None, think: bool | None = None) -> Example:
    count = count or pick(rng, [1, 2, 3, 3, 4, 4, 4, 4] if not m.held else [1, 2, 3, 4])
    at = rng.integers(0, len(m.labels), count)
    text = "".join(str(m.labels[i]) for i in at)
    think = rng.random() < 0.05 if think is None else think
    return example(
        f"row{count}" + ("_think" if think else ""),
        media(pick(rng, READ_ONE if count == 1 else READ), image=1),
        f"I read the number {text}.",
        thought="I read the picture." if think else None,
        images=[pictures.card(m.digits[at], rng, plain=m.held or rng.random() < 0.2)],
    )


def shows(colour: str, shape: str) -> str:
    return f"The picture shows {'an' if colour == 'orange' else 'a'} {colour} {shape}."


def see(rng: np.random.Generator, m: Material) -> Example:
    image, colour, shape = pictures.shape(rng)
    answer = shows(colour, shape)
    form = rng.random()
    if form < 0.5:
        return example("see", media(pick(rng, SEE), image=1), answer, images=[image])
    if form < 0.65:
        return example("see", media(pick(rng, SEE_COLOUR), image=1), f"The colour is {colour}.", images=[image])
    if form < 0.8:
        return example("see", media(pick(rng, SEE_SHAPE), image=1), f"The shape is a {shape}.", images=[image])
    if form < 0.9:
        before = exchange(media(pick(rng, SEE), image=1), answer)
        if rng.random() < 0.5:
            return example(
                "see_again", pick(rng, SEE_COLOUR), f"The colour is {colour}.", history=before, images=[image]
            )
        return example("see_again", pick(rng, SEE_SHAPE), f"The shape is a {shape}.", history=before, images=[image])
    return example(
        "see_think", media(pick(rng, SEE), image=1), answer, thought="I look at the picture.", images=[image]
    )


def see_two(rng: np.random.Generator, m: Material) -> Example:
    (one, colour1, shape1), (two, colour2, shape2) = pictures.shape(rng), pictures.shape(rng)
    which, colour, shape = pick(rng, [("first", colour1, shape1), ("second", colour2, shape2)])
    answer = shows(colour, shape)
    return example("see_two", media(f"What is in the {which} picture?", image=2), answer, images=[one, two])


def photo(rng: np.random.Generator, m: Material) -> Example:
    name, image = pick(rng, m.photographs)
    answer = f"The picture shows {name}."
    return example("photo", media(pick(rng, SEE), image=1), answer, images=[pictures.look(image, rng)])


def hear(rng: np.random.Generator, m: Material) -> Example:
    word, samples = pick(rng, m.clips)
    if word in speech.WORDS and rng.random() < 0.4:
        word, samples = pick(rng, m.clips)
    sound = speech.vary(samples, rng, gently=m.held)
    digit = word in speech.DIGITS
    content = media(pick(rng, HEAR if digit else HEAR_WORD), audio=1)
    if rng.random() < 0.4:
        content.reverse()
    think = rng.random() < 0.06
    return example(
        ("hear" if digit else "hear_word") + ("_think" if think else ""),
        content,
        f"I hear the {'digit' if digit else 'word'} {speech.SAID[word]}.",
        thought="I listen to the sound." if think else None,
        sounds=[sound],
    )


def rare_sum(a: int, b: int) -> bool:
    """One sum in ten; the rest has every ones digit beside every other but ten pairs, which only these have."""
    return (a * 7 + b * 13) % 10 == 3


def held_sum(a: int, b: int) -> bool:
    """Half of the rare ones, by their tens, is never trained on."""
    return rare_sum(a, b) and ((a * 31 + b * 17) // 10) % 2 == 0


def total(rng: np.random.Generator, m: Material, think: bool = False) -> Example:
    rare = rng.random() < 0.3
    while True:
        a, b = (int(v) for v in rng.integers(0, 100, 2))
        if held_sum(a, b) == m.held and (m.held or not rare or rare_sum(a, b)):
            break
    text = pick(rng, SUMS).format(a=a, b=b)
    if not think:
        return example("sum", text, f"{a} + {b} = {a + b}")
    ones = a % 10 + b % 10
    tens = f"{a // 10} + {b // 10} + {ones // 10} = {a // 10 + b // 10 + ones // 10}"
    return example("sum_think", text, f"{a} + {b} = {a + b}", thought=f"{a % 10} + {b % 10} = {ones}, {tens}")


def made_up(rng: np.random.Generator) -> str:
    """A name that nobody has: syllables, or any letters in turn, so that only copying gives it."""
    if rng.random() < 0.35:
        return "".join(pick(rng, SYLLABLES) for _ in range(rng.integers(2, 4))).capitalize()
    sounds = [rng.permutation(list("bcdfghjklmnpqrstvwxyz")), rng.permutation(list("aeiouaeiouy"))]
    first = rng.integers(2)
    letters = []
    for i in range(rng.integers(3, 8)):
        letters.append(sounds[(first + i) % 2][i] + (pick(rng, "lnrstkcdmh") if rng.random() < 0.25 else ""))
    return "".join(letters).capitalize()


def city(rng: np.random.Generator, m: Material) -> str:
    return pick(rng, HELD_CITIES) if m.held else pick(rng, CITIES) if rng.random() < 0.4 else made_up(rng)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    parts = [
        f'{key}:<|"|>{value}<|"|>' if isinstance(value, str) else f"{key}:{value}"
        for key, value in sorted(arguments.items())
    ]
    return f"<|tool_call>call:{name}{{{','.join(parts)}}}<tool_call|>"


def terser(declared: Message, rng: np.random.Generator) -> Message:
    """The same tool, now and then without the descriptions of its arguments, or one that need not be given."""
    f = declared["function"]
    properties = {
        k: {n: v for n, v in p.items() if n != "description"} if rng.random() < 0.4 else p
        for k, p in f["parameters"]["properties"].items()
    }
    if f["name"] == "get_weather" and rng.random() < 0.2:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    return {"type": "function", "function": {**f, "parameters": {**f["parameters"], "properties": properties}}}


def use_tool(rng: np.random.Generator, m: Material) -> Example:
    name = pick(rng, ["get_weather", "get_weather", "set_timer", "switch_light", "call_person"])
    draw: dict[str, Callable[[], dict[str, Any]]] = {
        "get_weather": lambda: {"city": city(rng, m)},
        "set_timer": lambda: {"minutes": int(rng.integers(1, 100))},
        "switch_light": lambda: {"room": pick(rng, PLACES), "state": pick(rng, ["on", "off"])},
        "call_person": lambda: {"person": pick(rng, NAMES) if rng.random() < 0.5 else made_up(rng)},
    }
    arguments = draw[name]()
    others = [n for n in TOOLS if n != name]
    names = [name] + [others[i] for i in rng.permutation(3)[: pick(rng, [0, 0, 0, 1, 1, 2])]]
    tools = [terser(TOOLS[names[i]], rng) for i in rng.permutation(len(names))]
    text = pick(rng, ASK[name]).format(**arguments)
    system = "You can use tools." if rng.random() < 0.15 else None
    if name == "get_weather" and rng.random() < 0.4:
        sky = f"{rng.integers(-9, 36)} C and {pick(rng, ['rain', 'sun', 'snow', 'wind', 'fog'])}"
        call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
        prompt = render(
            [
                {"role": "user", "content": text},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "name": name, "content": sky},
            ],
            tools=tools,
        )
        return Example("tool_answer", prompt, f"It is {sky} in {arguments['city']}.<turn|>")
    think = rng.random() < 0.2
    return example(
        "tool_think" if think else "tool",
        text,
        call_text(name, arguments),
        tools=tools,
        system=system,
        thought=f"I call {name}." if think else None,
        end="<|tool_response>",
    )


def story(rng: np.random.Generator) -> tuple[str, list[tuple[str, str]]]:
    """(sentence, [(question, answer)])"""
    form = rng.integers(3)
    if form == 0:
        a, b, verb = pick(rng, ANIMALS), pick(rng, ANIMALS), pick(rng, VERBS)
        return f"The {a} {verb} the {b}.", [
            (f"Who {verb} the {b}?", f"The {a}."),
            (f"What does the {a} do?", f"It {verb} the {b}."),
        ]
    if form == 1:
        thing, place = pick(rng, THINGS), pick(rng, PLACES)
        return f"The {thing} is in the {place}.", [
            (f"Where is the {thing}?", f"In the {place}."),
            (f"What is in the {place}?", f"The {thing}."),
        ]
    name, thing, colour = pick(rng, NAMES), pick(rng, THINGS), pick(rng, ["red", "green", "blue", "yellow", "purple"])
    return f"{name} has a {colour} {thing}.", [
        (f"What does {name} have?", f"A {colour} {thing}."),
        (f"Which colour is the {thing}?", colour.capitalize() + "."),
        (f"Who has the {thing}?", name + "."),
    ]


def talk(rng: np.random.Generator, m: Material) -> Example:
    form = rng.random()
    system = pick(rng, SYSTEMS) if rng.random() < 0.4 else None
    if form < 0.3:
        sentence, questions = story(rng)
        extra = story(rng)[0]
        question, answer = pick(rng, questions)
        lead = (
            extra + " " + sentence
            if rng.random() < 0.4
            and set(extra.split()).isdisjoint(sentence.replace("The", "").split()[:1])
            and not set(extra.rstrip(".").split())
            & set(sentence.rstrip(".").split()) - {"The", "the", "is", "in", "has", "a"}
            else sentence
        )
        think = rng.random() < 0.2
        return example(
            "talk_think" if think else "talk",
            lead + " " + question,
            answer,
            thought="I read the text." if think else None,
            system=system,
        )
    if form < 0.55:
        words = " ".join(
            made_up(rng) if rng.random() < 0.5 else pick(rng, ANIMALS + THINGS + PLACES + NAMES + CITIES)
            for _ in range(rng.integers(1, 5))
        )
        return example("repeat", pick(rng, ["Repeat: {}", "Say: {}", "Repeat after me: {}"]).format(words), words)
    if form < 0.68:
        question, answer = pick(rng, list(TALK.items()))
        return example("chat", question, answer, system=system)
    if form < 0.76:
        country, capital = pick(rng, list(CAPITALS.items()))
        return example(
            "chat",
            pick(rng, ["What is the capital of {}?", "Capital of {}?"]).format(country),
            capital + ".",
            system=system,
        )
    name = pick(rng, NAMES) if rng.random() < 0.5 else made_up(rng)
    before = exchange(f"My name is {name}.", f"Hello {name}!")
    if rng.random() < 0.2:
        return example("chat", before[0]["content"], before[1]["content"], system=system)
    if rng.random() < 0.2:
        before += exchange(*pick(rng, list(TALK.items())))
    return example("memory", "What is my name?", f"Your name is {name}.", history=before, system=system)


def plain(rng: np.random.Generator, m: Material) -> Example:
    """Plain text: the reply is all of it."""
    return Example("plain", "<bos>", " ".join(story(rng)[0] for _ in range(rng.integers(2, 5))) + "<eos>")
