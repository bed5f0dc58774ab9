"""Importance matrices of our own: sums of squares of what is multiplied with each matrix, by kind; merged; resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from converters.imatrix import read_imatrix, read_sums
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.errors import ConversionError, InputError
from gemma4gguf.native.activations import Activations
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.loading import load
from gemma4gguf.tools import calibration
from gemma4gguf.tools.imatrix import KINDS, kind_of, passages
from gemma4gguf.tools.imatrix import compute as compute_with
from tests.support.quantise_peer import write_imatrix_legacy
from tests.support.sessions import EXACT

DEMO = Path(__file__).parents[1] / "models" / "demo"
IMAGE, CLIP = DEMO / "digits.png", DEMO / "number.wav"
TEXT = calibration.text()[:1200]  # one window of 512 tokens, or two of the stand-in


KILLED = """
import os, signal, sys
from gemma4gguf.tools.imatrix import compute
source, out, text, image = sys.argv[1:]
kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)  # after the first piece
compute(source, out, text=text, images=[image], threads=1, progress=kill)
"""

compute = partial(compute_with, threads=1)


def test_the_first_layer_gets_the_normed_embedding(weights: Weights, bundle: Path) -> None:
    """The slow twin of what C hands over: the first matrices' input, computed by hand."""
    section = Bundle.open(bundle).text
    ids = np.arange(5, 25, dtype=np.int32)
    activations = Activations()
    with Context(weights, ContextOptions(64, **EXACT | {"outputs": 20}), watcher=activations) as context:
        context.decode(ids, start=0, outputs=20)

    def tensor(name: str) -> np.ndarray:
        return section.raw(name).view(np.float32).reshape(section.tensors[name].shape)

    rows = tensor("token_embd.weight")[ids] * np.float32(256**0.5)
    normed = rows / np.sqrt(np.square(rows).mean(1, keepdims=True) + 1e-6) * tensor("blk.0.attn_norm.weight")
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(activations.sums[f"blk.0.{name}.weight"], np.square(normed).sum(0), rtol=1e-4)
    matrices = {n for n, t in section.tensors.items() if n.startswith("blk.") and len(t.shape) == 2}
    assert activations.sums.keys() == matrices
    assert set(activations.rows.values()) == {20.0}


def assert_same(one: Path, other: Path, **tolerance: Any) -> None:
    ours, theirs = read_sums(one), read_sums(other)
    assert ours.sums.keys() == theirs.sums.keys()
    for name, values in ours.sums.items():
        np.testing.assert_allclose(values, theirs.sums[name], **tolerance)
        assert ours.counts[name] == pytest.approx(theirs.counts[name])


def test_kinds_are_counted_and_weighed(tiny_bundle: Path, tmp_path: Path) -> None:
    given = {"images": [IMAGE], "audio": [CLIP]}
    found = compute(tiny_bundle, tmp_path / "all.gguf", text=TEXT, **given)  # type: ignore[arg-type]
    assert found.positions["text"] > 512
    assert found.positions["picture"] > 0 < found.positions["sound"]
    assert sum(found.shares.values()) == pytest.approx(1)
    shares = {"text": 1, "picture": 1, "sound": 2}
    weighed = compute(tiny_bundle, tmp_path / "weighed.gguf", text=TEXT, shares=shares, **given)  # type: ignore[arg-type]
    assert weighed.shares == {"text": 0.25, "picture": 0.25, "sound": 0.5}
    alone = []
    for kind in shares:
        compute(tiny_bundle, tmp_path / f"{kind}.gguf", text=TEXT, shares={kind: 1}, **given)  # type: ignore[arg-type]
        alone.append(read_imatrix(tmp_path / f"{kind}.gguf").values)
    for name, values in read_imatrix(tmp_path / "weighed.gguf").values.items():
        mean = alone[0][name] / 4 + alone[1][name] / 4 + alone[2][name] / 2
        np.testing.assert_allclose(values, mean, rtol=1e-3, atol=1e-7)


def test_two_files_are_added(tiny_bundle: Path, tmp_path: Path) -> None:
    compute(tiny_bundle, tmp_path / "text.gguf", text=TEXT, name="text")
    compute(tiny_bundle, tmp_path / "added.gguf", images=[IMAGE], add=[tmp_path / "text.gguf"], name="picture")
    compute(tiny_bundle, tmp_path / "both.gguf", text=TEXT, images=[IMAGE])
    assert_same(tmp_path / "added.gguf", tmp_path / "both.gguf", rtol=1e-5)
    assert read_sums(tmp_path / "added.gguf").datasets == ("picture", "text")
    write_imatrix_legacy(tmp_path / "old.dat", dict(read_sums(tmp_path / "text.gguf").sums), 4)
    with pytest.raises(ConversionError, match="older kind"):
        compute(tiny_bundle, tmp_path / "more.gguf", images=[IMAGE], add=[tmp_path / "old.dat"])


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tiny_bundle: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    compute(tiny_bundle, tmp_path / "whole.gguf", text=TEXT, images=[IMAGE])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tiny_bundle, tmp_path / "out.gguf", TEXT, IMAGE], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.gguf").exists()
    done = compute(tiny_bundle, tmp_path / "out.gguf", text=TEXT, images=[IMAGE])
    assert done.resumed == 1
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "whole.gguf"]
    with pytest.raises(KeyboardInterrupt):
        compute(tiny_bundle, tmp_path / "more.gguf", text=TEXT, images=[IMAGE], progress=stop)
    assert compute(tiny_bundle, tmp_path / "more.gguf", text=TEXT).resumed == 0  # another task's is not continued


def test_the_bundled_corpus_has_every_kind(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    with load(bundle.text, vocab_only=True) as model:
        found = passages(model, bundle, calibration.text(), calibration.chats(media=True))
    counted = {kind: sum(len(s) for p in found for s in p if kind_of(s) == kind) for kind in KINDS}
    assert counted["text"] > 4000
    assert min(counted.values()) > 300


def test_a_conversion_uses_it(tiny_bundle: Path, tmp_path: Path) -> None:
    compute(tiny_bundle, tmp_path / "imatrix.gguf", text=TEXT)
    done = convert(DEMO.parent / "tiny", tmp_path / "out.gguf", quant="IQ4_XS", imatrix=tmp_path / "imatrix.gguf")
    assert not any("says nothing" in note for note in done.plan.notes)


def test_refusals(tiny_bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shares: .*smell"):
        compute(tiny_bundle, tmp_path / "out.gguf", text=TEXT, shares={"smell": 1})
    with pytest.raises(InputError, match="nothing that is given"):
        compute(tiny_bundle, tmp_path / "out.gguf", text=TEXT, shares={"sound": 1})
    (tmp_path / "out.gguf").write_bytes(b"mine")
    with pytest.raises(ConversionError, match="exists already"):
        compute(tiny_bundle, tmp_path / "out.gguf", text=TEXT)
    compute(make_bundle("Q8_0"), tmp_path / "other.gguf", text=TEXT)
    with pytest.raises(InputError, match="another model"):
        compute(tiny_bundle, tmp_path / "sum.gguf", text=TEXT, add=[tmp_path / "other.gguf"])
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"
