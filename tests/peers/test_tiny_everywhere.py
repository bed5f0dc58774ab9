"""The trained tiny model elsewhere: the same text in four runtimes; right answers about pictures and sound, and drafts
that are accepted, from llama-server started as `export` says. Pictures are given at the reference's size, which
llama.cpp leaves as it is.
"""

from __future__ import annotations

import base64
import io
import itertools
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from converters import convert
from gemma4gguf import patchify
from gemma4gguf.tools.export import export
from tests.support import runtimes
from tests.support.held import material
from tests.support.runtimes import Job
from training import texts

ROOT = Path(__file__).parents[2]

COUNT, NEEDED = 20, 18
CONTEXT = 4096


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model with its drafter."""
    out = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    convert(
        ROOT / "models" / "tiny", out, quant="BF16", drafter=ROOT / "models" / "tiny-assistant", drafter_quant="Q8_0"
    )
    return out


@pytest.fixture(scope="module")
def held() -> texts.Material:
    return material()


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def job(tiny: Path, held: texts.Material) -> Job:
    """50 questions of kinds that the model was trained on: sums, tools, talk."""
    dice = np.random.default_rng(0)
    makers: tuple[Callable[..., texts.Example], ...] = (texts.total, texts.use_tool, texts.talk)
    examples = (make(dice, held) for make in itertools.cycle(makers))
    prompts = itertools.islice((e.prompt for e in examples if not e.images and not e.sounds), 50)
    return runtimes.prepare(tiny, [prompt.removeprefix("<bos>") for prompt in prompts], 32)


@pytest.mark.parametrize("which", ["whole", "text"])
def test_four_runtimes_say_the_same(
    peers: Path, node_folder: Path, tiny: Path, job: Job, tmp_path: Path, which: str
) -> None:
    """From the whole bundle and from its text part, every token."""
    expected = runtimes.ours(tiny, job)
    assert len(expected) == 50
    export(tiny, tmp_path / "parts", "llama.cpp", link=False)
    file = tiny if which == "whole" else tmp_path / "parts" / "tiny.gguf"
    assert runtimes.ours(file, job) == expected
    assert runtimes.llama_cpp_python(file, job) == expected
    assert runtimes.node(node_folder, file, job, tmp_path)[0] == expected
    command = [peers / "bin" / "llama-server", "--model", file, "-c", runtimes.CONTEXT, "-np", 1, "-t", 1]
    with runtimes.serve(command, tmp_path / "log") as address:
        assert [answer["tokens"] for answer in runtimes.complete(address, job)] == expected


# ── pictures and sound ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(peers: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (line,) = export(tiny, folder / "parts", "llama.cpp", link=False).commands
    program, *words = shlex.split(line)
    words[words.index("--ctx-size") + 1] = str(CONTEXT)
    with runtimes.serve([peers / "bin" / program, *words, "-t", 1, "-np", 1], folder / "log") as address:
        yield address


def at_reference_size(image: Any) -> bytes:
    """The picture as the reference sees it, put together from its patches: a PNG."""
    patches = patchify(image)
    columns, rows = patches.positions.max(axis=0) + 1
    whole = patches.pixels.reshape(rows, columns, 48, 48, 3).swapaxes(1, 2).reshape(rows * 48, columns * 48, 3)
    file = io.BytesIO()
    Image.fromarray(np.rint(whole * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def as_wav(samples: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def answer(address: str, example: texts.Example) -> dict[str, Any]:
    """The server's whole reply to an example's prompt, media in their places."""
    marker = runtimes.ask(address, "/props", None)["media_marker"]
    prompt = example.prompt.removeprefix("<bos>").replace("<|image|>", marker).replace("<|audio|>", marker)
    media = [*map(at_reference_size, example.images), *map(as_wav, example.sounds)]
    encoded = [base64.b64encode(raw).decode() for raw in media]
    body = {"prompt": {"prompt_string": prompt, "multimodal_data": encoded} if media else prompt}
    return runtimes.ask(address, "/completion", body | {"n_predict": 48, "temperature": 0, "top_k": 1})


TASKS: dict[str, Callable[..., texts.Example]] = {"see": texts.see, "hear": texts.hear}


@pytest.mark.parametrize("task", TASKS)
def test_llama_server_answers_right(server: str, held: texts.Material, task: str) -> None:
    dice = np.random.default_rng(3)
    examples = [TASKS[task](dice, held) for _ in range(COUNT)]
    replies = [answer(server, example) for example in examples]
    wrong = [
        (reply["content"], example.reply)
        for reply, example in zip(replies, examples, strict=True)
        if reply["content"].strip() != example.reply.removesuffix("<turn|>").strip()
    ]
    assert COUNT - len(wrong) >= NEEDED, wrong


def test_drafts_are_accepted(server: str, tiny: Path, job: Job) -> None:
    """The printed line drafts with the cut drafter, gains by it, and says the same."""
    answers = runtimes.complete(server, job)
    assert [answer["tokens"] for answer in answers] == runtimes.ours(tiny, job)
    drafted, accepted = (sum(a["timings"].get(key, 0) for a in answers) for key in ("draft_n", "draft_n_accepted"))
    assert accepted / drafted > 0.5
