"""Files of a given size: types are chosen so that the least is lost, and the mix can be used again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from converters import convert
from converters.budget import Step, lines, spend
from converters.mixture import parse_overrides
from gemma4gguf.bundle.reading import Section, read_sections
from gemma4gguf.bundle.settings import MIX
from gemma4gguf.errors import ConversionError, InputError
from tests.support.quantise_peer import importance_of, write_imatrix_gguf

KINDS = (T.Q3_K, T.Q4_K, T.Q6_K)


def steps(rng: np.random.Generator) -> list[Step]:
    size, losses = int(rng.integers(1, 5)), np.sort(rng.uniform(0, 1, 3))[::-1]
    return [Step(kind, n * size, loss) for kind, n, loss in zip(KINDS, (1, 2, 3), losses, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_no_mix_that_fits_loses_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    choices = {f"m{i}": steps(rng) for i in range(6)}
    least, most = (sum(o[i].nbytes for o in choices.values()) for i in (0, -1))
    budget = int(rng.integers(least, most + 1))
    chosen = spend(choices, budget)

    def of(picked: tuple[Step, ...]) -> tuple[int, float]:
        return sum(s.nbytes for s in picked), sum(s.loss for s in picked)

    size, loss = of(tuple(next(s for s in options if s.type is chosen[n]) for n, options in choices.items()))
    assert size <= budget
    assert loss == pytest.approx(min(lost for n, lost in map(of, product(*choices.values())) if n <= budget))


def test_sizes_that_have_nothing_in_common_are_counted_roughly() -> None:
    rng, count = np.random.default_rng(1), 40
    choices = {
        f"m{i}": [
            Step(kind, 1_000_003 * n + i, float(loss))
            for kind, n, loss in zip(KINDS, (3, 4, 6), (9, 4, rng.uniform(0, 3)), strict=True)
        ]
        for i in range(count)
    }
    budget = count * 4_000_000
    sizes = {(name, s.type): s.nbytes for name, options in choices.items() for s in options}
    spent = sum(sizes[item] for item in spend(choices, budget).items())
    assert 0.99 * budget < spent <= budget


def test_lines_are_options() -> None:
    types = {
        "token_embd.weight": T.Q4_K,
        "blk.1.ffn_up.weight": T.Q3_K,
        "blk.11.ffn_up.weight": T.Q3_K,
        "blk.2.ffn_up.weight": T.Q4_K,
    }
    found = parse_overrides(lines(types))
    assert len(found) == 3
    for name, kind in types.items():
        assert [o.type for o in found if o.pattern.search(name)] == [kind]


def text_of(path: Path) -> Section:
    return read_sections(path)[0]


def test_a_file_of_a_size_and_its_mix(checkpoint: Path, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    write_imatrix_gguf(tmp_path / "imatrix.gguf", importance_of(text_of(make_bundle("BF16"))), 4)
    with_values = {"imatrix": tmp_path / "imatrix.gguf", "text_only": True}
    made = convert(checkpoint, tmp_path / "bits.gguf", target_bpw=4.6, **with_values)  # type: ignore[arg-type]
    section = text_of(tmp_path / "bits.gguf")
    values = sum(int(np.prod(t.shape)) for t in section.tensors.values())
    assert 4.3 < 8 * sum(t.nbytes for t in section.tensors.values()) / values <= 4.6
    assert len({t.type for t in section.tensors.values()}) > 2
    assert made.plan.quant == "4.6bpw"
    mix = tmp_path / "bits.mix.txt"
    assert section.metadata[MIX][:] == mix.read_text().splitlines()
    convert(checkpoint, tmp_path / "again.gguf", quant="Q4_K_M", types=[f"@{mix}"], **with_values)  # type: ignore[arg-type]
    again = text_of(tmp_path / "again.gguf")
    assert [n for n in section.tensors if not np.array_equal(again.raw(n), section.raw(n))] == []
    size = made.size + 100_000
    bigger = convert(checkpoint, tmp_path / "size.gguf", target_size=size, types=["attn_v=Q8_0"], **with_values)  # type: ignore[arg-type]
    assert bigger.size <= size
    assert {t.type for n, t in text_of(tmp_path / "size.gguf").tensors.items() if "attn_v.w" in n} == {T.Q8_0}


def test_somebodys_own_mix_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out.mix.txt"
    mine.write_text("attn_v=Q8_0\n")
    with pytest.raises(ConversionError, match=r"out\.mix\.txt: exists already"):
        convert(checkpoint, tmp_path / "out.gguf", target_bpw=4.6)
    assert list(tmp_path.iterdir()) == [mine]
    assert mine.read_text() == "attn_v=Q8_0\n"
    convert(checkpoint, tmp_path / "out.gguf", target_bpw=4.6, force=True)
    assert mine.read_text() != "attn_v=Q8_0\n"


def test_a_gguf_that_was_rounded_already(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="which was rounded already"):
        convert(make_bundle("Q4_K_M"), tmp_path / "out.gguf", target_bpw=3.5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"target_bpw": 4.5, "quant": "Q4_0"}, "quant is given with a target"),
        ({"target_bpw": 4.5, "target_size": "1GB"}, "leave one of them out"),
        ({"target_bpw": 1.0}, "target_bpw"),
        ({"target_size": "much"}, "target_size: 'much', expected bytes"),
        ({"target_size": "1MB"}, "take at least"),
        ({"types": ["@nowhere.txt"]}, "nowhere.txt cannot be read"),
    ],
)
def test_refusals(checkpoint: Path, tmp_path: Path, how: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        convert(checkpoint, tmp_path / "out.gguf", **how)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
