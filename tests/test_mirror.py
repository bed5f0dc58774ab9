"""`verify hub:…`: a file on the Hub of which only a part is fetched, once, and gone on with after an end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from converters import convert
from converters.origin import Origin
from converters.weights import read_folder
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.cli import cli, run
from gemma4gguf.errors import ConversionError, InputError
from gemma4gguf.proof.report import needed, needed_of_source
from gemma4gguf.tools import mirror
from gemma4gguf.tools.mirror import Mirror, Range, find, gaps, joined
from tests.conftest import MODELS
from tests.support.hub import Hub, Repository, serving

TINY = MODELS / "tiny"
NAME = "hub:someone/tiny/parts/tiny.gguf"
RECORD = "model.safetensors.ranges"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("remote") / "tiny.gguf"
    convert(TINY, out, quant="Q4_0", drafter=MODELS / "tiny-assistant")
    return out


@pytest.fixture
def hub(file: Path, models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(mirror, "STEP", 4096)
    with serving({"someone/tiny": Repository({"parts/tiny.gguf": file})}, monkeypatch) as server:
        yield server


def test_only_what_is_compared_is_fetched(
    hub: Hub, file: Path, models_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", NAME, "--against", str(TINY), "--quick", "--threads", "1"]
    assert run(cli, command) == 0
    told = capsys.readouterr()
    assert "is what" in told.out
    assert "MB fetched; " in told.err
    assert "only a part of the file is here" in told.err
    (path,) = models_folder.glob(".mirrors/*/tiny.gguf")
    here, there = path.read_bytes(), file.read_bytes()
    bundle = Bundle.open(file)
    wanted = joined(needed(bundle, drafter=False))
    assert all(here[start:stop] == there[start:stop] for start, stop in wanted)
    size = sum(stop - start for start, stop in wanted)
    headers = len(bundle.sections) * 2 * mirror.STEP
    assert size <= hub.sent <= size + headers + sum(s.header.data_start - s.offset for s in bundle.sections)
    third = bundle.text.tensors["blk.3.ffn_down.weight"]  # of a layer that is not compared
    at = bundle.text.header.data_start + third.offset
    assert not any(here[at + mirror.STEP : at + third.nbytes])
    sent = hub.sent
    assert run(cli, command) == 0
    assert hub.sent == sent  # nothing comes twice
    assert "0 B fetched; " in capsys.readouterr().err


def test_of_a_source_two_layers_are_fetched(
    file: Path, models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, since part of the Hub's client reads its settings when it is imported."""
    served = {path.name: path for path in TINY.iterdir() if path.is_file()}
    weights = TINY / "model.safetensors"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "gemma4gguf", "verify", str(file), "--against", "someone/tiny", "--quick"]
    with serving({"someone/tiny": Repository(served)}, monkeypatch) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(root)}
        for _ in range(2):
            told = subprocess.run(
                [*command, "--threads", "1"],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert told.returncode == 0, told.stderr
            assert f"{file.name} is what someone/tiny makes" in told.stdout
        asked = [given for path, given in hub.asked if path == weights.name]
    assert asked
    assert None not in asked  # never all of it
    assert "0 B of the source's" in told.stderr  # the second time
    (path,) = models_folder.glob(".mirrors/*/tiny/model.safetensors")
    here, _ = read_folder(path.parent)
    needs = [here[name] for name in needed_of_source(Origin(path.parent, "tiny"), here)]
    wanted = [(tensor.offset, tensor.offset + tensor.nbytes) for tensor in needs]
    there = [(int(start), int(stop)) for start, stop in map(str.split, path.with_name(RECORD).read_text().splitlines())]
    assert joined(there) == joined([(0, mirror.STEP), *wanted])  # and its header, with what comes along
    assert sum(stop - start for start, stop in joined(there)) < weights.stat().st_size - (1 << 20)
    assert all(path.read_bytes()[start:stop] == weights.read_bytes()[start:stop] for start, stop in joined(there))


def test_all_of_a_file(hub: Hub, file: Path, models_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["verify", NAME]) == 0
    assert "sound" in capsys.readouterr().out
    (path,) = models_folder.glob(".mirrors/*/tiny.gguf")
    assert path.read_bytes() == file.read_bytes()
    assert hub.sent == file.stat().st_size


def test_a_connection_that_breaks(hub: Hub, file: Path, models_folder: Path) -> None:
    size = file.stat().st_size
    hub.cuts["parts/tiny.gguf"] = [size // 3, size // 2]
    found = Mirror(find(NAME))
    found.fetch([(0, size)])
    assert found.path.read_bytes() == file.read_bytes()
    assert found.fetched == size
    assert not hub.cuts["parts/tiny.gguf"]


def test_killed_and_run_again(hub: Hub, file: Path, models_folder: Path, tmp_path: Path) -> None:
    size = file.stat().st_size
    hub.stalls["parts/tiny.gguf"] = size // 2
    command = [sys.executable, "-m", "gemma4gguf", "verify", NAME]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert hub.stalled.wait(60)
        process.kill()
    del hub.stalls["parts/tiny.gguf"]
    before = hub.sent
    assert run(cli, ["verify", NAME]) == 0
    (path,) = models_folder.glob(".mirrors/*/tiny.gguf")
    assert path.read_bytes() == file.read_bytes()
    assert hub.sent - before < size  # something of the first run was kept


def test_a_server_without_ranges(hub: Hub, models_folder: Path) -> None:
    hub.ranges = False
    with pytest.raises(ConversionError, match="sends no ranges"):
        Mirror(find(NAME)).fetch([(4096, 8192)])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hub:someone/tiny/other.gguf", "no such file; its GGUF files: parts/tiny.gguf"),
        ("hub:someone/tiny", "expected hub:OWNER/NAME/FILE.gguf"),
        ("hub:nobody/tiny/a.gguf", "no such model on the Hub"),
    ],
)
def test_what_is_not_there(hub: Hub, models_folder: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find(name)


def test_ranges_are_sets_of_bytes() -> None:
    dice = Random(18)

    def every(ranges: list[Range]) -> set[int]:
        return {n for start, stop in ranges for n in range(start, stop)}

    for _ in range(300):
        given = [(start := dice.randrange(60), start + dice.randrange(12)) for _ in range(dice.randrange(8))]
        there = joined(given)
        assert every(there) == every(given)
        assert all(one[1] < other[0] for one, other in pairwise(there))
        start, stop = sorted((dice.randrange(70), dice.randrange(70)))
        assert every(list(gaps(there, start, stop))) == set(range(start, stop)) - every(given)


def test_a_record_that_was_cut_off(hub: Hub, file: Path, models_folder: Path) -> None:
    first = Mirror(find(NAME))
    first.fetch([(0, 5000)])
    record = first.path.with_name("tiny.gguf.ranges")
    record.write_text(record.read_text() + "5000 99")
    again = Mirror(find(NAME))
    assert again.held == 5000
    again.fetch([(4000, 6000)])
    assert again.fetched == 1000
    assert again.path.read_bytes()[:6000] == file.read_bytes()[:6000]
