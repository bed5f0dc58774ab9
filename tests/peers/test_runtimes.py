"""A bundle in other runtimes: a plain text model to them, with the answers that we give; its embedder works in mtmd."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import soundfile
from PIL import Image

from gemma4gguf import Bundle, Gemma4, render
from gemma4gguf.chat.rendering import raw_segments
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.runtime.answer import Rules
from gemma4gguf.runtime.decode import decode
from gemma4gguf.runtime.prompt import spans
from tests.support import cases
from tests.support.parts import ARCHITECTURES, cut

STEPS = 16
GREEDY = SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
PROMPTS = {
    "short": "What is in this picture?",
    "turns": "<|turn>user\nWas ist das? 你好 😀\n\n<turn|>\n<|turn>model\n",
    "beyond_window": cases.LONG * 12,
}
# llama.cpp's mtmd tool lets a template think unless told otherwise, and puts media before the text.
THINKING = "<|turn>system\n<|think|>\n<turn|>\n<|turn>user\n{media}What is this?<turn|>\n<|turn>model\n"


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(bundle, threads=1, draft="off") as model:  # drafts would settle near ties by the clock
        yield model


def our_answer(model: Gemma4, prompt: str) -> tuple[list[int], list[int]]:
    """The prompt's ids, and our greedy answer's."""
    native, session = model.engine.weights, model.engine.session
    prepared = spans(raw_segments(prompt), native.vocab, lambda: model.engine.embedder, model.image_tokens)
    rules = Rules.of(native.vocab, model.bundle.text.metadata)
    session.feed(prepared)
    with Sampler(GREEDY, rules.suppressed) as sampler:
        return [i for span in prepared for i in span.ids], list(decode(session, sampler, rules.end, STEPS))


@pytest.mark.parametrize("name", PROMPTS)
def test_llama_cpp_python_continues_with_the_same_tokens(bundle: Path, model: Gemma4, name: str) -> None:
    ids, expected = our_answer(model, PROMPTS[name])
    stock = llama_cpp.Llama(str(bundle), n_ctx=1024, n_threads=1, verbose=False)
    try:
        found = stock.tokenize(PROMPTS[name].encode(), add_bos=True, special=True)
        assert found == ids
        answer = []
        for token, _ in zip(stock.generate(found, temp=0, top_k=1, repeat_penalty=1.0), expected, strict=False):
            answer.append(token)
        assert answer == expected
    finally:
        stock.close()


@pytest.fixture(scope="module")
def server(peers: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Stock llama-server on the bundle; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [peers / "bin" / "llama-server", "-m", bundle, "--port", str(port), "-c", "1024", "-np", "1", "-t", "1"]
    with open(log, "wb") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, f"llama-server stopped:\n{log.read_text(errors='replace')[-4000:]}"
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def ask(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


@pytest.mark.parametrize("name", PROMPTS)
def test_llama_server_continues_with_the_same_tokens(server: str, model: Gemma4, name: str) -> None:
    ids, expected = our_answer(model, PROMPTS[name])
    tokenized = ask(server, "/tokenize", {"content": PROMPTS[name], "add_special": True, "parse_special": True})
    assert tokenized["tokens"] == ids
    options = {"n_predict": STEPS, "temperature": 0, "top_k": 1, "return_tokens": True, "cache_prompt": False}
    answer = ask(server, "/completion", {"prompt": PROMPTS[name], **options})
    ended = expected[-1] in Rules.of(model.engine.weights.vocab, model.bundle.text.metadata).end
    assert answer["tokens"][: len(expected) - ended] == expected[: len(expected) - ended]
    assert answer["stop_type"] == ("eos" if ended else "limit")


def test_llama_server_renders_the_bundles_template_as_we_do(server: str, model: Gemma4) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, who are you?"}]
    body = {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}}
    theirs = ask(server, "/apply-template", body)["prompt"]  # the server puts `<bos>` before it when it tokenises
    assert "<bos>" + theirs == render(messages, template=model.template)


def test_gguf_py_lists_the_text_models_tensors(bundle: Path) -> None:
    reader = gguf.GGUFReader(bundle)
    text = Bundle.open(bundle).text
    assert [t.name for t in reader.tensors] == list(text.tensors)
    assert reader.fields["general.architecture"].contents() == "gemma4"
    assert len(reader.tensors) == 169


def mtmd(run_peer: Any, bundle: Path, folder: Path, *media: object) -> str:
    """What llama-mtmd-cli answers to one question about a picture or a clip, with the embedder cut from the bundle."""
    embedder = cut(bundle, ARCHITECTURES["embedder"], folder / "embedder.gguf")
    options = ["-p", "What is this?", "-n", STEPS, "--temp", 0, "-t", 1, "--jinja"]
    answer: str = run_peer.tool("llama-mtmd-cli", "-m", bundle, "--mmproj", embedder, *media, *options)
    return _plain(answer)


def _plain(text: str) -> str:
    """Without the characters that were cut in half and without space at the ends."""
    return re.sub("\ufffd+", "", text).strip()


def test_mtmd_sees_with_the_embedder_of_a_bundle(run_peer: Any, bundle: Path, model: Gemma4, tmp_path: Path) -> None:
    picture = cases.picture("landscape")  # at the reference's size: mtmd leaves it as it is
    Image.fromarray(picture).save(tmp_path / "picture.png")
    prompt = THINKING.format(media="<|image|>")
    ours = model.generate(prompt, images=[picture], raw=True, temperature=0, max_tokens=STEPS).text
    assert _plain(ours)
    assert mtmd(run_peer, bundle, tmp_path, "--image", tmp_path / "picture.png") == _plain(ours)


def test_mtmd_hears_with_the_embedder_of_a_bundle(run_peer: Any, bundle: Path, model: Gemma4, tmp_path: Path) -> None:
    samples = np.round(cases.clip("short") * 32767).astype(np.int16)
    soundfile.write(tmp_path / "clip.wav", samples, cases.RATE)
    prompt = THINKING.format(media="<|audio|>")
    ours = model.generate(prompt, audio=[tmp_path / "clip.wav"], raw=True, temperature=0, max_tokens=STEPS).text
    assert _plain(ours)
    assert mtmd(run_peer, bundle, tmp_path, "--audio", tmp_path / "clip.wav") == _plain(ours)
