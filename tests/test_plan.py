"""`gemma4gguf plan`: the same figures from a bundle and a checkpoint, and those that docs/memory.md has of the 12B."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converters import convert
from gemma4gguf import cli
from gemma4gguf.errors import ConversionError, InputError
from gemma4gguf.native.library import repacked_types
from gemma4gguf.runtime.memory import memory
from gemma4gguf.tools.offer import look
from gemma4gguf.tools.plan import Choice, Longest, for_each_context, plan
from gemma4gguf.tools.plan_source import Source, read_source
from gemma4gguf.tools.pull import pull
from gemma4gguf.tools.released import released
from scripts.make_memory_picture import bars, picture
from tests.support.hub import Hub, Repository, serving
from tests.support.published import Layout
from tests.support.standin import write_checkpoint, write_drafter
from tests.support.standin_config import REAL

GB = 10**9
AVX2 = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})  # what docs/memory.md is for
PARTS = ("text", "embedder", "drafter")
PAGE = Path(__file__).parent.parent / "docs" / "memory.md"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoints of the 12B's shapes and its drafter's: headers over zeros that take no disk."""
    folder = tmp_path_factory.mktemp("real")
    return (
        write_checkpoint(folder / "gemma", sizes=REAL, seed=None),
        write_drafter(folder / "assistant", sizes=REAL, seed=None),
    )


@pytest.fixture(scope="module")
def known(real: tuple[Path, Path]) -> Source:
    """What is read of both, once."""
    return read_source(*real, lambda done, total: None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A function from arguments of the command to its exit status and what it printed."""

    def command(*arguments: object) -> tuple[int, str]:
        status = cli.run(cli.cli, ["plan", *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command


def test_a_checkpoint_is_planned_as_the_bundle_that_it_becomes(
    checkpoint: Path, drafter: Path, make_bundle: Callable[..., Path]
) -> None:
    for quant in ("Q4_K_M", "Q8_0"):
        bundle = make_bundle(quant, drafter_quant="Q8_0")
        made, planned = plan(bundle, limit=GB), plan(f"{checkpoint}:{quant}", limit=GB, drafter=drafter)
        assert made.best is not None
        assert planned.best is not None
        assert (made.best.type, made.best.context) == (planned.best.type, planned.best.context) == (quant, 8192)
        assert planned.best.size == pytest.approx(bundle.stat().st_size, rel=0.02)  # sections begin at whole pages
        assert planned.best.memory.weights == made.best.memory.weights
        assert planned.best.memory.total == pytest.approx(made.best.memory.total, rel=0.001)
        assert made.get is None
        assert planned.get == (f"convert-to-gguf {checkpoint} standin-{quant}.gguf --quant {quant} --drafter {drafter}")


def test_every_type_is_the_mixture_that_a_conversion_makes(checkpoint: Path, make_bundle: Callable[..., Path]) -> None:
    choices = {choice.type: choice for choice in plan(checkpoint, limit=GB).choices}
    for quant in ("Q6_K", "Q4_0", "Q2_K"):
        made = plan(make_bundle(quant, drafter=None), limit=GB).best
        assert made is not None
        assert choices[quant].memory.weights == made.memory.weights


def test_the_best_type_and_context_for_a_memory(known: Source) -> None:
    for limit, best in ((64, ("Q8_0", 32_768)), (16, ("Q6_K", 32_768)), (8, None), (4, None)):
        found = plan(known, limit=limit * GB)
        assert (found.best and (found.best.type, found.best.context)) == best
    assert found.instead is None
    assert found.least.memory.total > 4 * GB


def test_a_mix_takes_what_the_best_type_leaves(checkpoint: Path, drafter: Path, tmp_path: Path) -> None:
    sizes = {choice.type: choice.memory.total for choice in plan(checkpoint, limit=GB, drafter=drafter).choices}
    limit = (sizes["Q5_K_M"] + sizes["Q6_K"]) // 2 * 8 // 7  # an eighth is left to the system
    found = plan(checkpoint, limit=limit, drafter=drafter)
    assert found.best is not None
    assert found.best.type == "Q5_K_M"
    assert found.mix is not None
    place, name, option, size, *more = shlex.split(found.mix)[1:]
    assert (place, option, more) == (str(checkpoint), "--target-size", ["--drafter", str(drafter)])
    made = convert(place, tmp_path / name, target_size=size, drafter=drafter)
    assert made.size > found.best.size
    fits = plan(made.path or "", limit=limit).best
    assert fits is not None
    assert fits.context == found.best.context
    assert plan(checkpoint, limit=GB).mix is None  # the best of all types fits
    assert plan(f"{checkpoint}:Q4_0", limit=limit).mix is None  # its type is settled


def test_a_context_that_is_asked_for(real: tuple[Path, Path]) -> None:
    gemma, _ = real
    short, long = (plan(f"{gemma}:Q4_K_M", limit=16 * GB, context=n).best for n in (4096, 131_072))
    assert short is not None
    assert long is not None
    assert long.memory.cache.private - short.memory.cache.private == (131_072 - 4096) * 8 * 2 * 512 * 2
    four = plan(f"{gemma}:Q4_K_M", limit=64 * GB, context=4096, parallel=4).best
    assert four is not None
    assert four.memory.cache.private == 4 * short.memory.cache.private
    small = plan(f"{gemma}:Q4_K_M", limit=16 * GB, context=4096, kv_type="q8_0").best
    assert small is not None
    assert small.memory.cache.private * 32 == short.memory.cache.private * 17  # 34 bytes for 32 values, not 64


def test_the_longest_context_that_fits(known: Source) -> None:
    only = replace(known, types=("Q4_K_M",))

    def longest(limit: int, kv_type: str = "f16") -> Choice:
        how: dict[str, Any] = {"repacked": AVX2, "kv_type": kv_type}
        found = plan(only, limit=limit * GB, context="max", **how)
        (choice,) = found.choices
        if choice.fits and choice.context < 262_144:
            (more,) = plan(only, limit=limit * GB, context=choice.context + 256, **how).choices
            assert not more.fits
        return choice

    assert longest(16).context == 262_144  # the model's own
    at_12 = longest(12)
    assert at_12.fits
    assert (at_12.context, longest(12, "q8_0").context) == (72_192, 167_680)  # as docs/memory.md has it
    at_8 = longest(8)
    assert not at_8.fits
    assert at_8.context == 2048


def test_every_type_with_every_context(known: Source) -> None:
    found = plan(known, limit=12 * GB, repacked=AVX2)
    table = {choice.type: {at.context: at.fit for at in choice.contexts} for choice in found.choices}
    assert table["Q5_K_S"] == {8_192: "fits", 32_768: "tight", 131_072: "tight", 262_144: "tight"}
    assert table["Q4_K_M"] == {8_192: "fits", 32_768: "fits", 131_072: "tight", 262_144: "tight"}
    assert table["Q3_K_M"] == {8_192: "fits", 32_768: "fits", 131_072: "fits", 262_144: "tight"}
    assert set(table["Q8_0"].values()) == {"tight"}
    assert [(kind, at.fit) for kind, at in for_each_context(found)] == [
        ("Q5_K_S", "fits"),
        ("Q4_K_M", "fits"),
        ("Q3_K_M", "fits"),  # no larger one does
        ("IQ4_XS", "tight"),  # takes least of those with 4 bits
    ]
    at_8 = plan(known, limit=8 * GB, repacked=AVX2)
    assert [at.fit for at in at_8.choices[6].contexts] == ["tight", "tight", "no", "no"]  # Q4_K_M, mostly copied
    page = PAGE.read_text(encoding="utf-8")
    for choice in plan(known, limit=16 * GB, repacked=AVX2).choices:
        if choice.type in ("Q8_0", "Q6_K", "Q4_K_M"):
            file, takes = (rf"{n / GB:.2f}\ GB" for n in (choice.size, choice.memory.total))
            row = [choice.type, file, *(at.fit for at in choice.contexts), takes, f"{choice.context:,}"]
            assert re.search("^    " + " +".join(row), page, re.M), row
    for choice in plan(known, limit=12 * GB, context=131_072, repacked=AVX2).choices:
        (at,) = choice.contexts
        assert (at.context, at.takes, at.fit) == (131_072, choice.memory.total, table[choice.type][131_072])


def test_a_smaller_cache_where_it_makes_more_room(
    known: Source, real: tuple[Path, Path], tiny_bundle: Path, run: Callable[..., tuple[int, str]]
) -> None:
    one = plan(replace(known, types=("Q4_K_M",)), limit=12 * GB, context=131_072, repacked=AVX2)
    assert (one.best, one.longest) == (None, Longest("Q4_K_M", {"f16": 72_192, "q8_0": 167_680}))
    assert plan(known, limit=12 * GB, repacked=AVX2).longest.type == "Q5_K_S"
    assert plan(known, limit=4 * GB, repacked=AVX2).longest == Longest("Q2_K", {"f16": 0, "q8_0": 0})
    line = re.compile(r"longer: IQ4_XS has [\d,]+ tokens with --context max --kv-type q8_0 ")
    for more, told in (
        ((), True),
        (("--context", 200_000), True),  # does not fit
        (("--context", 8192), False),  # does, and nobody asked for more
    ):
        assert bool(line.search(run(f"{real[0]}:IQ4_XS", "--memory", "12GB", *more)[1])) is told, more
    assert "longer" not in run(tiny_bundle, "--memory", "1GB")[1]  # all that the model was made for


def test_the_released_model_is_a_table(known: Source) -> None:
    """It is what a plan reads of checkpoints of these shapes, but for the words of their vocabulary."""

    def wordless(source: Source) -> Source:
        parts = {name: replace(getattr(source.facts, name), header=0, merges=0) for name in PARTS}
        return replace(source, facts=replace(source.facts, **parts))

    table = released()
    for name in PARTS:
        ours, theirs = ({(t.name, t.shape) for t in getattr(s.facts, name).tensors} for s in (table, known))
        assert ours == theirs
    made = [plan(wordless(source), limit=16 * GB, repacked=AVX2) for source in (table, known)]
    assert made[0].choices == made[1].choices
    takes = [plan(source, limit=16 * GB, repacked=AVX2).choices[0].contexts[0].takes for source in (table, known)]
    assert takes[0] - takes[1] == pytest.approx(0.1 * GB, rel=0.02)  # 514,906 merges for 1,347: see docs/memory.md


def test_the_page_about_memory(real: tuple[Path, Path]) -> None:
    """Every row of its tables, as it stands there."""
    gemma, assistant = real
    text = PAGE.read_text(encoding="utf-8")
    every = plan(gemma, limit=10**12, context=32_768, drafter=assistant, repacked=AVX2).choices
    short = {
        c.type: c.memory for c in plan(gemma, limit=10**12, context=8192, drafter=assistant, repacked=AVX2).choices
    }
    for choice in every:
        held = choice.memory
        cells = (held.private, held.mapped, held.total, short[choice.type].total)
        assert f"| {choice.type} | {choice.size / GB:.2f} | {' | '.join(f'{n / GB:.2f}' for n in cells)} |" in text
    chosen = next(c.memory for c in every if c.type == "Q4_K_M")
    for name, held in vars(chosen).items():
        assert re.search(rf"\| {name} \| {held.private / 1e6:,.0f} \| {held.mapped / 1e6:,.0f} \|", text), name


def test_the_picture_of_16_gb(tmp_path: Path) -> None:
    assert PAGE.with_suffix(".svg").read_text(encoding="utf-8") == picture(bars(tmp_path))


def test_no_is_an_answer(real: tuple[Path, Path], run: Callable[..., tuple[int, str]]) -> None:
    gemma, assistant = real
    status, said = run(gemma, "--drafter", assistant, "--memory", "8GB")
    assert status == 1
    assert "It does not fit." in said
    assert "What would: Q2_K with " in said
    assert "fewer than 4 bits" in said
    status, said = run(gemma, "--drafter", assistant, "--memory", "4GB")
    assert status == 1
    assert re.search(r"Nothing would: Q2_K takes least, 6\.\d\d GB with 2,048 tokens\.", said)


def test_what_it_prints(tiny_bundle: Path, run: Callable[..., tuple[int, str]]) -> None:
    status, said = run(tiny_bundle, "--memory", "1GB", "--context", 4096)
    assert status == 0
    for wanted in (
        "1.00 GB of memory",
        "Q8_0",
        "4,096 (best)",
        "together",
        "run it:  gemma4gguf chat ",
        "--context 4096",
    ):
        assert wanted in said
    found = json.loads(run(tiny_bundle, "--memory", "1GB", "--json")[1])
    best: dict[str, Any] = found["best"]
    assert best["total"] == best["private"] + best["mapped"] == sum(sum(k.values()) for k in best["memory"].values())
    assert found["get"] is None
    assert best["fits"] is True
    assert best["contexts"] == [{"context": 8192, "takes": best["total"], "fit": "fits"}]
    assert found["longest"] == {"type": "Q8_0", "tokens": {"f16": 8192, "q8_0": 8192}}
    assert re.search(r"^type +file +4,096 +takes +tokens\nQ8_0 .* MB +fits .* MB +4,096 \(best\)$", said, re.M)
    short = json.loads(run(tiny_bundle, "--memory", "1GB", "--context", 2048, "--json")[1])["best"]
    narrow = run(tiny_bundle, "--memory", f"{short['private'] / 1000 + 1:.0f}K")[1]  # opens, and little more
    assert re.search(r"^Q8_0 .* MB +no .* MB +2,048 \(tight\)$", narrow, re.M)
    assert "tight: it opens" in narrow
    assert run(tiny_bundle)[0] == 0  # this machine's own memory
    assert "8,192 (best)" in run(tiny_bundle, "--memory", "1GB", "--context", "max")[1]
    for wrong in ("most", "0", "-5"):
        assert run(tiny_bundle, "--context", wrong)[0] == 2


@pytest.mark.parametrize(
    ("given", "expected"), [("16GB", 16 * GB), ("7.5g", 7_500_000_000), ("8GiB", 8 << 30), ("4", 4 * GB)]
)
def test_sizes(tiny_bundle: Path, run: Callable[..., tuple[int, str]], given: str, expected: int) -> None:
    assert json.loads(run(tiny_bundle, "--memory", given, "--json")[1])["limit"] == expected


@pytest.mark.parametrize("given", ["much", "0GB", "-1GB", "4XB", ""])
def test_no_sizes(tiny_bundle: Path, run: Callable[..., tuple[int, str]], given: str) -> None:
    status, said = run(tiny_bundle, "--memory", given)
    assert status == 2
    assert "expected for example 16GB" in said


def test_parts_on_the_hub(layouts: dict[str, Layout], models_folder: Path, serve: Callable[[Layout], Hub]) -> None:
    """GGUF parts as publishers lay them out: the figures are those of the bundle that a pull makes of them."""
    for name, layout in layouts.items():
        hub = serve(layout)
        found = plan(layout.source, limit=GB, drafter=layout.drafter_from)
        assert found.best is not None, name
        held = [file for repository in hub.repositories.values() for file in repository.files.values()]
        assert hub.sent < sum(file.stat().st_size for file in held) / 4
        assert found.get is not None
        program, command, source, *more = shlex.split(found.get)
        assert (program, command) == ("gemma4gguf", "pull")
        assert more == (["--drafter", layout.drafter_from] if layout.drafter_from else [])
        made = pull(look(source, drafter=layout.drafter_from))
        assert found.run is not None
        assert made.name in shlex.split(found.run)
        pulled = plan(made.name, limit=GB).best  # by its name in the models folder
        assert pulled is not None
        assert pulled.memory.weights == found.best.memory.weights, name
        assert pulled.memory.total == pytest.approx(found.best.memory.total, rel=0.001)
        made.path.unlink()


def test_a_checkpoint_on_the_hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, since part of the Hub's client reads its settings when it is imported."""
    files = {path.name: path for path in checkpoint.iterdir()}
    with serving({"someone/standin": Repository(files)}, monkeypatch) as hub:
        told = subprocess.run(
            [sys.executable, "-m", "gemma4gguf", "plan", "someone/standin:Q4_0", "--memory", "1GB", "--json"],
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PYTHONPATH": str(PAGE.parents[1])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        weights = [wanted for path, wanted in hub.asked if path.endswith(".safetensors")]
    found, here = json.loads(told.stdout), plan(f"{checkpoint}:Q4_0", limit=GB).best
    assert here is not None
    assert found["best"]["total"] == pytest.approx(here.memory.total, rel=0.001)
    assert found["get"] == "convert-to-gguf someone/standin standin-Q4_0.gguf --quant Q4_0"
    assert weights
    assert None not in weights  # headers alone


def test_what_cannot_be_planned(tiny_bundle: Path, checkpoint: Path, drafter: Path) -> None:
    with pytest.raises(InputError, match="made for at most 8,192"):
        plan(tiny_bundle, context=10_000)
    with pytest.raises(InputError, match="kv_type is 'q5'"):
        plan(tiny_bundle, kv_type="q5")
    with pytest.raises(InputError, match="is a finished bundle"):
        plan(tiny_bundle, drafter=drafter)
    with pytest.raises(InputError, match="unknown type 'Q9'"):
        plan(f"{checkpoint}:Q9")
    with pytest.raises(ConversionError, match="is the MTP drafter"):
        plan(drafter)


def test_the_sum_is_the_runtimes(tiny_bundle: Path) -> None:
    """The command and the opening of a model use one function."""
    from gemma4gguf import Bundle
    from gemma4gguf.native.context import ContextOptions
    from gemma4gguf.runtime.memory import Facts

    facts = Facts.of(Bundle.open(tiny_bundle).sections)
    best = plan(tiny_bundle, limit=GB, context=4096).best
    assert best is not None
    assert best.memory == memory(facts, ContextOptions(4096), repacked=repacked_types())
