"""A user's program that calls every public name. It is never run: `tests/test_typed.py` has type checkers read it."""

from __future__ import annotations

from typing_extensions import reveal_type

import gemma4gguf as g


def main() -> None:
    """Everything in sight, with the types an editor should show."""
    g.convert("google/gemma-4-12B-it", "gemma.gguf", quant="Q4_K_M")
    options: g.GenerateOptions = {"temperature": 0.5, "max_tokens": 10, "top_k": 5, "top_p": 0.9, "min_p": 0.1}
    bundle: g.Bundle = g.Bundle.open("gemma.gguf")
    g.Gemma4("gemma.gguf", threads=4, threads_batch=8, micro_batch=256, repack=False).close()
    embedder = g.Embedder(bundle)
    patches: g.Patches = g.patchify("cat.jpg")
    reveal_type(patches.pixels)
    reveal_type(embedder.image(patches))
    reveal_type(embedder.audio(g.frame("note.wav")))
    reveal_type([page.text for page in g.pages("letter.pdf", "2-4")])
    reveal_type(g.sample(g.Video("clip.mp4", frames=8, frame_tokens=140, start=1.5, end=3, sound=True)).stamps)
    reveal_type(g.render([{"role": "user", "content": "Hi"}]))
    reveal_type(g.pack("text.gguf", "out.gguf"))
    reveal_type(g.export("gemma.gguf", "folder", "ollama"))
    try:
        with g.Gemma4("gemma.gguf", context=4096, kv_type="q8_0", draft="auto", gpu_layers="auto") as model:
            result = model.generate("What?", images="cat.jpg", **options)
            result = model.generate("What?", images=["a.png", b"b"], seed=1, stop=["x"], top_k=None)
            reveal_type(result)
            reveal_type(result.text)
            reveal_type(result.finish_reason)
            reveal_type(result.tokens)
            reveal_type(result.timings.load_s)
            reveal_type(result.draft.accepted)
            reveal_type(result.tool_calls)
            reveal_type(result.message())
            for note in model.generate("What?", logprobs="sampled", top_logprobs=3, logit_bias={5: 1.5}).logprobs:
                reveal_type(note.top)
                reveal_type(note.openai())
            for call in result.tool_calls:
                reveal_type(call.name)
                reveal_type(call.arguments)
                reveal_type(call.answer("4"))
            for chunk in model.stream("What?", audio=("note.wav",), on_progress=lambda done, total: None):
                reveal_type(chunk)
                reveal_type(chunk.text)
                reveal_type(chunk.result)
            reveal_type(model.chat([result.message()], thinking=True, min_p=0.1, tool_choice="none"))
            reveal_type(model.generate("Hi", response_format={"type": "json_object"}, grammar=None))
            model.chat([result.message()], continue_final_message=True)
            reveal_type(model.stream_chat([{"role": "user", "content": "Hi"}], max_tokens=3, local_files=True))
            model.stream("What?").close()
            reveal_type(model.generate("What happens?", videos=["a.mp4", g.Video(b"b", frames=4)]).tokens.image)
            reveal_type(model.answers("Hi", 4, images="cat.jpg", seed=3))
            reveal_type(model.stream_answers([{"role": "user", "content": "Hi"}], 2, thinking=True))
            reveal_type(model.astream_answers("Hi", n=2))
            segments: list[g.Segment] = list(
                model.transcribe("memo.m4a", language="German", task="translate", hint="Ada")
            )
            reveal_type(segments[0].doubt)
            reveal_type(model.evaluate("Hi").logits)
            reveal_type(model.template)
            chat: g.Conversation = model.conversation(system="Be brief.", tools=[weather], on_full="drop")
            chat = model.conversation(messages=chat.messages)
            reveal_type(chat.say("What?", images="cat.jpg", temperature=0))
            reveal_type(chat.stream("What?", max_tokens=3))
            reveal_type(chat.messages)
            reveal_type(chat.fork().dropped)
            chat.tool_result(result.tool_calls[0], "4")
            with chat.hear("Answer:", images="cat.jpg", transcript_prompt="What is said?") as ear:
                listener: g.Ear = ear
                listener.feed([0.0], 16_000)
                listener.pause()
                reveal_type(listener.behind)
                reveal_type(listener.answer(temperature=0))
                reveal_type(listener.stream())
            chat.save("chat.json")
            reveal_type(
                g.Conversation.open(model, "chat.json", tools=[weather], allow=lambda call: call.name == "weather")
            )
            reveal_type(model.open_conversation("chat.json", most_calls=3, on_full="error"))
            reveal_type(model.tokenize("Hi"))
            reveal_type(model.count_tokens("Hi", images=b"b"))
            reveal_type(model.chat([{"role": "user", "content": "Hi"}], on_full="drop").dropped_turns)
    except (g.BusyError, g.ContextError, g.InputError, g.FormatError, g.MissingPartError, g.MemoryLimitError) as error:
        reveal_type(error)
    except (g.NativeError, g.ConversionError, g.Gemma4Error):
        pass
    made: tuple[type, ...] = (
        g.Chunk,
        g.DraftCounts,
        g.Evaluation,
        g.Logprob,
        g.Options,
        g.Result,
        g.Timings,
        g.Tokens,
        g.ToolCall,
    )
    with g.limited(picture_bytes=10**9) as limits:
        reveal_type(limits)
        reveal_type(limits.sound_seconds)
    assert g.Limits().messages == 10_000
    message: g.Message = {"role": "user", "content": "Hi"}
    print(made, message)


async def later(model: g.Gemma4) -> None:
    """The async twins."""
    reveal_type(await model.agenerate("Hi", images=b"b", temperature=0))
    reveal_type(await model.achat([{"role": "user", "content": "Hi"}], thinking=True))
    async for chunk in model.astream("Hi", max_tokens=3):
        reveal_type(chunk)
    reveal_type(model.astream_chat([], on_full="drop"))
    chat = model.conversation(tools=[weather, weather_later])
    reveal_type(await chat.asay("Hi", images="cat.jpg", top_k=3))
    await chat.astream("Hi").aclose()


async def weather_later(city: str) -> str:
    """Current weather for a city, asked for elsewhere."""
    return city


def weather(city: str) -> str:
    """Current weather for a city."""
    return city


def wrong(model: g.Gemma4) -> None:
    """Each line is an error to a type checker."""
    model.generate("Hi", temprature=1)
    model.generate("Hi", max_tokens="many")
    g.Gemma4("gemma.gguf", kv_type="q3")
