"""The slow twins of sampling against transformers' own processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from tests.support.penalties import penalised


@pytest.mark.parametrize("penalty", [0.5, 1.05, 1.9, 100.0])
def test_the_repetition_penalty(penalty: float) -> None:
    draw = np.random.default_rng(5)
    logits = draw.standard_normal(1024).astype(np.float32) * 4
    ids = draw.integers(0, 1024, 200).tolist()
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), torch.from_numpy(logits)[None].clone())
    np.testing.assert_array_equal(penalised(logits, ids, penalty), theirs[0].numpy())
