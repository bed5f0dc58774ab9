"""Checkpoints as people have them: each way in which one differs from what the Hub holds, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from converters import convert
from converters.config import parse
from gemma4gguf.cli.convert import convert as command
from gemma4gguf.errors import ConversionError, InputError
from tests.support import standin

TINY = Path(__file__).parent.parent / "models" / "tiny"


# ── config.json ──────────────────────────────────────────────────────────────────────────────────────────────────


def resaved(**layers: dict[str, Any]) -> dict[str, Any]:
    """The stand-in's config as transformers saves it, with changed layers."""
    config = standin.checkpoint_config(standin.SMALL, "resaved", text_only=True)
    return config | {"per_layer_config": config["per_layer_config"] | layers}


@pytest.mark.parametrize("key", ["05", "5"])
def test_every_full_layer_is_looked_up_however_its_number_is_written(key: str) -> None:
    config = resaved()
    config["per_layer_config"][key] = config["per_layer_config"].pop("05") | {"head_dim": 256}
    with pytest.raises(ConversionError, match="one head_dim for all full-attention layers"):
        parse("here", config)


@pytest.mark.parametrize("layer", ["00", "03", "10"])
def test_a_sliding_layer_has_no_sizes_of_its_own(layer: str) -> None:
    with pytest.raises(ConversionError, match=rf"per_layer_config\.{layer}\.head_dim.*sliding"):
        parse("here", resaved(**{layer: {"head_dim": 128}}))


def test_a_full_layer_that_overrides_nothing_is_like_the_others() -> None:
    assert parse("here", resaved(**{"05": {}, "11": {}})).text.full_head == standin.SMALL.head
    with pytest.raises(ConversionError, match="one head_dim"):
        parse("here", resaved(**{"05": {}}))


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"quant": "Q4_K_XL"}, "quant"),
        ({"quant": 4}, "quant"),
        ({"drafter_quant": "int4"}, "drafter_quant"),
        ({"threads": 0}, "threads"),
        ({"threads": 1025}, "threads"),
        ({"threads": 1.5}, "threads"),
        ({"types": ["ffn_down=Q9"]}, "Q9"),
        ({"types": ["no_such_tensor=Q6_K"]}, "no_such_tensor"),
    ],
)
def test_a_wrong_argument_is_the_caller_s_error(tmp_path: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        convert(TINY, tmp_path / "out.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_the_converter_tells_its_version() -> None:
    said = CliRunner().invoke(command, ["--version"])
    assert said.exit_code == 0
    assert said.output.startswith("convert-to-gguf, version ")
