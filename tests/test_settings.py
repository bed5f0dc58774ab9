"""A bundle's own settings: what the file says counts, else one default for everybody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters import convert
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.bundle.settings import (
    BUDGETS,
    DEFAULT_BUDGET,
    END_TOKEN_IDS,
    END_TOKENS,
    IMAGE_BUDGET,
    TOKENS,
    end_token_ids,
    end_tokens,
    image_budget,
)
from gemma4gguf.bundle.writing import write_bundle
from gemma4gguf.tools.inspect import summary
from gemma4gguf.tools.layouts import modelfile
from tests.support import standin
from tests.support.bundles import keys


def test_the_chat_format_s_end_tokens_always_count_and_a_file_adds_others(bundle: Path) -> None:
    metadata = Bundle.open(bundle).text.metadata
    tokens = metadata[TOKENS]
    own = [tokens.index(text) for text in END_TOKENS]
    for ids in ([1], [1, 106], [106, 50, 1], [212], [212, 106]):
        changed = {**metadata, END_TOKEN_IDS: ids}
        assert end_token_ids(changed, tokens.index) == list(dict.fromkeys([*ids, *own]))
        assert end_tokens(changed) == [tokens[i] for i in end_token_ids(changed, tokens.index)]


def test_an_end_token_that_a_vocabulary_lacks_does_not_count(bundle: Path) -> None:
    metadata = Bundle.open(bundle).text.metadata
    ids = {"<eos>": 1, "<turn|>": 106}
    assert end_token_ids({**metadata, END_TOKEN_IDS: [7]}, ids.get) == [7, 1, 106]


@pytest.mark.parametrize("listed", [None, [], "1", [1 << 30], [-1], ["<eos>"], [True]])
def test_a_file_that_lists_no_end_token_gets_the_models(bundle: Path, listed: object) -> None:
    metadata = {**Bundle.open(bundle).text.metadata, END_TOKEN_IDS: listed}
    tokens = metadata[TOKENS]
    assert end_tokens(metadata) == list(END_TOKENS)
    assert end_token_ids(metadata, tokens.index) == [tokens.index(text) for text in END_TOKENS]


def test_summary_modelfile_and_answers_go_by_one_rule(bundle: Path, tmp_path: Path) -> None:
    """A file without the list of end tokens, as other programs write it."""
    write_bundle(tmp_path / "m.gguf", [keys(Bundle.open(bundle).text, {}, without=END_TOKEN_IDS)])
    opened = Bundle.open(tmp_path / "m.gguf")
    assert END_TOKEN_IDS not in opened.text.metadata
    assert summary(opened)["end_tokens"] == list(END_TOKENS)
    stops = [line for line in modelfile(opened, "m").splitlines() if line.startswith("PARAMETER stop")]
    assert stops == [f'PARAMETER stop "{text}"' for text in END_TOKENS if text != "<eos>"]


@pytest.mark.parametrize(
    ("given", "kept"), [(560, 560), (280, 280), (300, 280), (True, 280), (560.0, 280), ([70], 280)]
)
def test_a_converted_budget_is_one_that_the_runtime_takes(tmp_path: Path, given: object, kept: int) -> None:
    folder = standin.write_checkpoint(tmp_path / "model")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"]["max_soft_tokens"] = given
    (folder / "processor_config.json").write_text(json.dumps(settings))
    convert(folder, tmp_path / "out.gguf", quant="F16", text_only=True)
    metadata = Bundle.open(tmp_path / "out.gguf").text.metadata
    assert image_budget(metadata) == kept
    assert (IMAGE_BUDGET in metadata) == (kept != DEFAULT_BUDGET)
    assert kept in BUDGETS
