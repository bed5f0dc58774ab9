"""The repetition penalty as transformers defines it, in numpy: the slow twin of llama.cpp's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def penalised(logits: NDArray[np.float32], ids: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """Logits [vocabulary] with those of `ids` divided by the penalty where positive, else multiplied by it."""
    out: NDArray[np.float32] = logits.copy()
    seen, factor = sorted(set(ids)), np.float32(penalty)
    out[seen] = np.where(out[seen] > 0, out[seen] / factor, out[seen] * factor)
    return out
