"""The same file everywhere: a bundle, its parts and its rewritten self in other runtimes, readers and tools."""

from __future__ import annotations

import base64
import http.server
import json
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import soundfile
from PIL import Image

from gemma4gguf import Bundle, Gemma4
from gemma4gguf.bundle.container import LazyStrings
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT
from gemma4gguf.errors import FormatError, MissingPartError
from gemma4gguf.tools.export import export
from gemma4gguf.tools.pack import pack
from gemma4gguf.tools.verify import faults
from tests.support import cases, runtimes
from tests.support.runtimes import Job

STEPS = 12
SUBJECTS = (
    *("a cat", "the river", "Größe und Maß", "你好", "1,234.56", "blue light", "def f(x):", "Привет", "two dogs", "😀"),
    *(
        "an old tree",
        "red and green",
        "x = y + 1",
        "le château",
        "the moon",
        "twelve birds",
        "Sie",
        "water",
        "- a list",
    ),
)
OPENERS = ("", "What is ", "Tell me about ", "<|turn>user\n", "Once there was\n\n", "I like ", "1. ", "Why, then, ")
PROMPTS = [opener + subject for opener in OPENERS for subject in SUBJECTS]
MARGIN = 0.05  # of logits whose standard deviation is about 2
ROUGH = 0.3  # the same, where activations are quantised too: last bits grow, on AVX2 alone beyond MARGIN
PREFIX = {TEXT: "", EMBEDDER: "mmproj-", DRAFTER: "mtp-"}


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's parts for llama.cpp, each a file of its own."""
    folder = tmp_path_factory.mktemp("exported")
    export(bundle, folder, "llama.cpp", link=False)
    return folder


@pytest.fixture(scope="module")
def parts(bundle: Path, exported: Path) -> dict[str, Path]:
    return {name: exported / f"{prefix}{bundle.stem}.gguf" for name, prefix in PREFIX.items()}


@pytest.fixture(scope="module")
def job(bundle: Path) -> Job:
    job = runtimes.firm(bundle, runtimes.prepare(bundle, PROMPTS, STEPS), MARGIN)
    job = replace(job, prompts=job.prompts[:50])
    assert len(job.prompts) == 50
    return job


@pytest.fixture(scope="module")
def expected(bundle: Path, job: Job) -> list[list[int]]:
    answers = runtimes.ours(bundle, job)
    assert len(set(map(tuple, answers))) > 25  # the answers tell prompts apart, so equality means something
    return answers


# ── the same tokens ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["whole", "text"])
def file(request: pytest.FixtureRequest, bundle: Path, parts: dict[str, Path]) -> Path:
    """The whole bundle, or its text part alone."""
    return bundle if request.param == "whole" else parts[TEXT]


def test_ours(file: Path, job: Job, expected: list[list[int]]) -> None:
    assert runtimes.ours(file, job) == expected


def test_llama_cpp_python(file: Path, job: Job, expected: list[list[int]]) -> None:
    assert runtimes.llama_cpp_python(file, job) == expected


def test_llama_server(peers: Path, file: Path, job: Job, expected: list[list[int]], tmp_path: Path) -> None:
    command = [peers / "bin" / "llama-server", "--model", file, "-c", runtimes.CONTEXT, "-np", 1, "-t", 1]
    with runtimes.serve(command, tmp_path / "log") as address:
        answers = runtimes.complete(address, job)
    assert [a["tokens"] for a in answers] == expected


def test_node_llama_cpp(node_folder: Path, file: Path, job: Job, expected: list[list[int]], tmp_path: Path) -> None:
    answers, release = runtimes.node(node_folder, file, job, tmp_path)
    assert answers == expected, f"node-llama-cpp with llama.cpp {release}"


# ── the printed command line ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(peers: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama-server as `export` says to start it, with one thread."""
    folder = tmp_path_factory.mktemp("served")
    (line,) = export(bundle, folder / "parts", "llama.cpp", link=False).commands
    program, *words = shlex.split(line)
    extra = ["-t", 1, "-np", 1, "--no-warmup"]
    with runtimes.serve([peers / "bin" / program, *words, *extra], folder / "log") as address:
        yield address


def test_the_printed_line_drafts_and_answers_the_same(server: str, job: Job, expected: list[list[int]]) -> None:
    answers = runtimes.complete(server, job)
    assert [a["tokens"] for a in answers] == expected
    assert sum(a["timings"]["draft_n"] for a in answers) > 0


QUESTION = "What is this?"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture that has the reference's size already, and a clip."""
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(cases.picture("landscape")).save(folder / "picture.png")
    soundfile.write(folder / "clip.wav", np.round(cases.clip("short") * 32767).astype(np.int16), cases.RATE)
    return {"image": folder / "picture.png", "audio": folder / "clip.wav"}


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_the_printed_line_sees_and_hears_as_we_do(server: str, bundle: Path, media: dict[str, Path], kind: str) -> None:
    check_first_token(server, bundle, kind, media[kind], within=0.02)


def check_first_token(address: str, bundle: Path, kind: str, file: Path, *, within: float) -> None:
    """The server's likeliest first tokens of an answer about `file`, and how likely they are, against ours."""
    theirs = chat(address, file, kind)
    found = {e["id"]: e["logprob"] for e in theirs["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
    assert len(found) == 20
    with Gemma4(bundle, threads=1) as model:
        given: dict[str, Any] = {"images": [file]} if kind == "image" else {"audio": [file]}
        prompt = model.evaluate(QUESTION, **given)
    assert theirs["usage"]["prompt_tokens"] == len(prompt.ids)
    last = prompt.logits[-1].astype(np.float64)
    last[Bundle.open(bundle).text.metadata["tokenizer.ggml.suppress_tokens"]] = -np.inf
    ours = last - np.logaddexp.reduce(last)
    assert max(abs(ours[token] - value) for token, value in found.items()) < within
    assert found[int(ours.argmax())] > max(found.values()) - within


def chat(address: str, file: Path, kind: str) -> dict[str, Any]:
    """One question about one file, media where the model card wants them: pictures before the text, sound after."""
    raw = base64.b64encode(file.read_bytes()).decode()
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{raw}"}}
    if kind == "audio":
        part = {"type": "input_audio", "input_audio": {"data": raw, "format": "wav"}}
    text = {"type": "text", "text": QUESTION}
    body = {
        "messages": [{"role": "user", "content": [part, text] if kind == "image" else [text, part]}],
        "chat_template_kwargs": {"enable_thinking": False},
        **{"temperature": 0, "top_k": 1, "max_tokens": 1, "logprobs": True, "top_logprobs": 20, "cache_prompt": False},
    }
    return runtimes.ask(address, "/v1/chat/completions", body)


# ── tools that rewrite ───────────────────────────────────────────────────────────────────────────────────────────


def quantize_copy(run_peer: Any, bundle: Path, out: Path) -> None:
    run_peer.tool("llama-quantize", bundle, out, "COPY", 1)


def new_metadata(run_peer: Any, bundle: Path, out: Path) -> None:
    script = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--general-name", "Renamed", bundle, out]
    run_peer._run([str(word) for word in script], 120)


def split_and_merge(run_peer: Any, bundle: Path, out: Path) -> None:
    prefix = out.parent / "split"
    run_peer.tool("llama-gguf-split", "--split", "--split-max-tensors", 50, bundle, prefix)
    first = min(out.parent.glob("split-*.gguf"))
    run_peer.tool("llama-gguf-split", "--merge", first, out)


REWRITERS: dict[str, Callable[[Any, Path, Path], None]] = {
    "llama-quantize COPY": quantize_copy,
    "gguf-new-metadata": new_metadata,
    "gguf-split and merge": split_and_merge,
}


@pytest.mark.parametrize("name", REWRITERS)
def test_a_rewritten_bundle(
    run_peer: Any, bundle: Path, parts: dict[str, Path], job: Job, expected: list[list[int]], tmp_path: Path, name: str
) -> None:
    """Noticed on opening, works as text, names the cure; pack cures it."""
    rewritten = tmp_path / "rewritten.gguf"
    REWRITERS[name](run_peer, bundle, rewritten)
    opened = Bundle.open(rewritten)
    assert opened.missing == (EMBEDDER, DRAFTER)
    assert "put it back with `gemma4gguf pack`" in opened.absence(EMBEDDER)
    few = replace(job, prompts=job.prompts[:5])
    assert runtimes.ours(rewritten, few) == expected[:5]
    with pytest.raises(MissingPartError, match="gemma4gguf pack"), Gemma4(rewritten) as model:
        model.generate("What is this?", images=[cases.picture("landscape")])
    cured = tmp_path / "cured.gguf"
    pack(rewritten, cured, embedder=parts[EMBEDDER], drafter=parts[DRAFTER])
    assert Bundle.open(cured).missing == ()
    assert faults(cured) == []
    assert runtimes.ours(cured, few) == expected[:5]
    for mine, theirs in zip(Bundle.open(bundle).sections, Bundle.open(cured).sections, strict=True):
        assert list(mine.tensors) == list(theirs.tensors)
        assert all(np.array_equal(mine.raw(n), theirs.raw(n)) for n in mine.tensors)


def test_parts_of_a_split_are_joined_and_none_is_taken_for_a_model(run_peer: Any, bundle: Path, tmp_path: Path) -> None:
    split_and_merge(run_peer, bundle, tmp_path / "merged.gguf")
    parts = sorted(tmp_path.glob("split-*.gguf"))
    assert len(parts) > 2
    for part in parts:
        with pytest.raises(FormatError, match="gemma4gguf pack"):
            Gemma4(part)
    joined, merged = tmp_path / "joined.gguf", tmp_path / "packed.gguf"
    pack(parts[0], joined)
    pack(tmp_path / "merged.gguf", merged)
    assert joined.read_bytes() == merged.read_bytes()


# ── files by llama.cpp's own tools ───────────────────────────────────────────────────────────────────────────────


def test_pack_of_llama_cpps_own_files(
    run_peer: Any, peers: Path, checkpoint: Path, drafter: Path, media: dict[str, Path], tmp_path: Path
) -> None:
    """Converted and quantised by llama.cpp, packed by us: the same answers as llama.cpp gives with the files."""
    text, projector, draft = (tmp_path / f"{name}.gguf" for name in ("text", "mmproj", "draft"))
    run_peer.convert(checkpoint, "--outfile", tmp_path / "f16.gguf", "--outtype", "bf16")
    run_peer.tool("llama-quantize", tmp_path / "f16.gguf", text, "Q4_K_M", 1)
    run_peer.convert(checkpoint, "--mmproj", "--outfile", projector, "--outtype", "f32")
    run_peer.convert(drafter, "--outfile", draft, "--outtype", "q8_0")
    out = tmp_path / "packed.gguf"
    pack(text, out, embedder=projector, drafter=draft)
    assert faults(out) == []
    job = runtimes.firm(out, runtimes.prepare(out, PROMPTS, STEPS), ROUGH)
    assert len(job.prompts) >= 5
    mine = runtimes.ours(out, job)
    assert runtimes.llama_cpp_python(text, job) == mine
    assert runtimes.ours(text, job) == mine
    command = [peers / "bin" / "llama-server", "-m", text, "--mmproj", projector, "-c", 2048, "-np", 1, "-t", 1]
    command += ["--image-min-tokens", 250, "--image-max-tokens", 280]
    with runtimes.serve(command, tmp_path / "log") as address:
        for kind, file in media.items():
            check_first_token(address, out, kind, file, within=0.5)  # activations are quantised too: last bits grow


# ── readers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_gguf_py_reads_header_and_tensors(bundle: Path, parts: dict[str, Path]) -> None:
    for path, architecture in ((bundle, TEXT), *((parts[name], name) for name in PREFIX)):
        section = Bundle.open(bundle).require(architecture)
        reader = gguf.GGUFReader(path)
        keys = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF.")}
        assert keys == {k: list(v) if isinstance(v, LazyStrings) else v for k, v in section.metadata.items()}
        assert [t.name for t in reader.tensors] == list(section.tensors)
        for tensor in reader.tensors:
            assert np.array_equal(np.asarray(tensor.data).reshape(-1).view(np.uint8), section.raw(tensor.name))


def test_transformers_reads_keys_and_vocabulary(bundle: Path, parts: dict[str, Path]) -> None:
    """Its GGUF reader knows the architecture; the key heads per layer it reads are more than its config then takes."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    whole, part = load_gguf_checkpoint(str(bundle)), load_gguf_checkpoint(str(parts[TEXT]))
    assert whole == part
    text = Bundle.open(bundle).text.metadata
    assert whole["config"]["model_type"] == "gemma4_text"
    assert whole["config"]["hidden_size"] == text["gemma4.embedding_length"]
    assert whole["config"]["num_key_value_heads"] == text["gemma4.attention.head_count_kv"]
    assert whole["tokenizer"]["tokens"] == list(text["tokenizer.ggml.tokens"])


class Ranges(http.server.BaseHTTPRequestHandler):
    """One file over HTTP, by ranges, which it remembers."""

    file: Path
    asked: list[tuple[int, int]]

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        size = self.file.stat().st_size
        last = min(last, size - 1)
        self.asked.append((first, last))
        with open(self.file, "rb") as file:
            file.seek(first)
            body = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_javascript_reader_needs_only_the_first_bytes(node_folder: Path, bundle: Path) -> None:
    """@huggingface/gguf, which the Hub's pages use: the text model's keys and tensors, from the file's beginning."""
    Ranges.file, Ranges.asked = bundle, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/bundle.gguf"
            found = json.loads(runtimes.node_script(node_folder, "header.mjs", url))
        finally:
            server.shutdown()
            thread.join()
    text = Bundle.open(bundle).text
    assert found["dataOffset"] == text.header.data_start
    assert set(text.metadata) <= set(found["keys"])
    for key, value in text.metadata.items():
        wanted = len(value) if isinstance(value, list | LazyStrings) else value
        assert found["keys"][key] == (pytest.approx(wanted) if isinstance(wanted, float) else wanted)
    assert found["tensors"] == [
        {"name": t.name, "shape": list(reversed(t.shape)), "dtype": int(t.type), "offset": t.offset}
        for t in text.tensors.values()
    ]
    # It reads 2 MB at a time and wants half a MB of reserve: never the tensors, never the other sections.
    assert sum(last - first + 1 for first, last in Ranges.asked) <= text.header.data_start + 2_500_000
    assert text.header.data_start < 110_000 < bundle.stat().st_size // 100
