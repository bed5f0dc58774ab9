"""The quality command's numbers: against a plain computation, in the expected order, and where it must refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters import convert
from gemma4gguf import Gemma4
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import Gemma4Error, InputError
from gemma4gguf.tools.quality import TEXT, WINDOW, compare, measure
from tests.conftest import MODELS
from tests.support import standin

SOME = resources.files("gemma4gguf.tools").joinpath(TEXT).read_text(encoding="utf-8")[:4000]
FEW = {"windows": 1, "threads": 1}


def plainly(path: Path) -> tuple[list[int], np.ndarray]:
    """The slow twin: ids and log probabilities, float64 [positions, vocabulary], of the text's first window."""
    with Gemma4(path, context=4096, threads=1, draft="off") as model:
        found = model.evaluate(SOME, raw=True)
    logits = found.logits[:WINDOW].astype(np.float64)
    return list(found.ids[:WINDOW]), logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_numbers_are_those_of_a_plain_computation(make_bundle: Callable[..., Path]) -> None:
    found = measure(make_bundle("Q4_K_M"), make_bundle("F32"), text=SOME, windows=1, threads=1)
    (ids, base), (_, other) = plainly(make_bundle("F32")), plainly(make_bundle("Q4_K_M"))
    counted = range(WINDOW // 2, WINDOW - 1)
    divergence = [float((np.exp(base[i]) * (base[i] - other[i])).sum()) for i in counted]
    assert found.positions == len(counted)
    assert found.kl_mean == pytest.approx(np.mean(divergence), rel=0.01)
    assert found.kl_median == pytest.approx(np.median(divergence), rel=0.01)
    assert found.kl_999 == pytest.approx(np.quantile(divergence, 0.999), rel=0.02)
    assert found.kl_max == pytest.approx(max(divergence), rel=0.02)
    agree = np.mean([base[i].argmax() == other[i].argmax() for i in counted])
    assert found.same_top == pytest.approx(agree, abs=0.02)
    for log, value in ((other, found.perplexity), (base, found.reference_perplexity)):
        assert value == pytest.approx(np.exp(-np.mean([log[i, ids[i + 1]] for i in counted])), rel=0.01)


def test_a_bundle_against_itself(make_bundle: Callable[..., Path]) -> None:
    found = measure(make_bundle("F32"), make_bundle("F32"), text=SOME, windows=1, threads=1)
    assert (found.kl_mean, found.kl_max, found.same_top, found.perplexity_ratio) == (0, 0, 1, 1)
    assert found.kl_media is None


def test_fewer_bits_are_further_away(make_bundle: Callable[..., Path]) -> None:
    base = make_bundle("F32")
    means = [measure(make_bundle(q), base, text=SOME, windows=1, threads=1).kl_mean for q in ("Q8_0", "Q4_K_M", "Q2_K")]
    assert 0 < means[0] < means[1] < means[2]


def test_media_are_included_when_given(make_bundle: Callable[..., Path]) -> None:
    picture = Image.fromarray(np.arange(96 * 96 * 3, dtype=np.uint8).reshape(96, 96, 3))
    clip = (np.sin(np.arange(16_000) / 9).astype(np.float32), 16_000)
    ways = {"images": [picture], "audio": [clip]}
    bare = measure(make_bundle("Q4_0"), make_bundle("F32"), text=SOME, windows=1, threads=1)
    for name, media in ways.items():
        found = measure(make_bundle("Q4_0"), make_bundle("F32"), text=SOME, windows=1, threads=1, **{name: media})
        assert found.positions > bare.positions
        assert found.kl_media is not None
        assert found.kl_media > 0
    seen: list[tuple[int, int]] = []
    both = measure(
        make_bundle("F32"),
        make_bundle("F32"),
        text=SOME,
        windows=1,
        threads=1,
        **ways,
        progress=lambda *now: seen.append(now),
    )
    assert both.kl_media == 0
    assert seen[-1] == (2 * both.positions, 2 * both.positions)


def test_the_fixed_text_fills_some_windows(make_bundle: Callable[..., Path]) -> None:
    found = measure(make_bundle("F32"), make_bundle("F32"), windows=2, threads=1)
    assert found.positions == 2 * (WINDOW // 2 - 1)


def test_what_cannot_be_compared(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    base = make_bundle("F32")
    with pytest.raises(InputError, match="expected at least 512"):
        measure(base, base, text="short", threads=1)
    other = standin.write_checkpoint(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    convert(other, tmp_path / "other.gguf", quant="F32")
    with pytest.raises(InputError, match="different models"):
        measure(tmp_path / "other.gguf", base, threads=1)
    convert(standin.write_checkpoint(tmp_path / "same"), tmp_path / "blind.gguf", quant="F32", text_only=True)
    with pytest.raises(Gemma4Error, match="embedder"):
        measure(tmp_path / "blind.gguf", base, text=SOME, images=[Image.new("RGB", (96, 96))], threads=1)


def test_everything_is_checked_before_any_work(
    make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    with pytest.raises(InputError, match="no such file"):
        list(
            compare(
                [make_bundle("F32"), tmp_path / "nowhere.gguf"], make_bundle("F32"), progress=lambda *x: told.append(x)
            )
        )
    full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(InputError, match=r"1,044,480 bytes .* TMPDIR"):
        measure(make_bundle("F32"), make_bundle("F32"), windows=1, progress=lambda *x: told.append(x))
    assert not told


def test_several_at_once_are_what_each_is_alone(make_bundle: Callable[..., Path]) -> None:
    bundles, base = [make_bundle("Q4_0"), make_bundle("Q8_0")], make_bundle("F32")
    together = list(compare(bundles, base, text=SOME, windows=1, threads=1))
    assert together == [measure(bundle, base, text=SOME, windows=1, threads=1) for bundle in bundles]


def test_command(make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text(SOME)
    arguments = ["quality", str(make_bundle("Q4_0")), str(make_bundle("Q8_0")), "--reference", str(make_bundle("F32"))]
    arguments += ["--text", str(text), "--windows", "1", "--threads", "1"]
    assert run(cli, [*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [b["file"] for b in report["bundles"]] == arguments[1:3]
    assert run(cli, arguments) == 0
    shown = capsys.readouterr()
    assert f"{report['bundles'][0]['kl_mean']:.4f}" in shown.out
    assert "255 positions" in shown.out
    assert shown.err == ""
    text.write_bytes(b"\xff\xfe")
    assert run(cli, arguments) == 1
    assert "UTF-8" in capsys.readouterr().err


def test_a_checkpoint_as_the_reference(tmp_path: Path) -> None:
    """The same figures as against the bundle in F32, with a picture and a clip too."""
    for quant in ("Q4_K_M", "F32"):
        convert(MODELS / "tiny", tmp_path / f"{quant}.gguf", quant=quant)
    asked = tmp_path / "Q4_K_M.gguf"
    media = {"images": [MODELS / "demo" / "digits.png"], "audio": [MODELS / "demo" / "number.wav"]}
    true, like = (measure(asked, base, **FEW, **media) for base in (MODELS / "tiny", tmp_path / "F32.gguf"))
    assert true.positions == like.positions
    for name in ("kl_mean", "kl_median", "kl_999", "kl_media", "perplexity", "reference_perplexity"):
        assert getattr(true, name) == pytest.approx(getattr(like, name), rel=0.01), name
    assert true.same_top == pytest.approx(like.same_top, abs=0.01)


def test_a_checkpoint_of_another_model(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"12 layers of width 256 and .* 10 of 256: they are different models"):
        measure(make_bundle("Q8_0"), MODELS / "tiny", **FEW)
