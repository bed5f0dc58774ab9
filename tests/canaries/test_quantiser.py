"""The quantiser: bytes that may not change between versions, or converted files would."""

from __future__ import annotations

import hashlib
import platform

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from gemma4gguf.native.quantizer import is_valid, quantize_rows, requires_importance
from tests.support.standin import normal

ROWS = normal((4, 512), "canary", 1)
IMPORTANCE = np.abs(normal((512,), "importance", 1)) + np.float32(0.1)
DIGESTS: dict[T, tuple[str, str]] = {
    T.Q4_0: ("a7d46a337f8ec061", "6137d12c8b304f63"),
    T.Q4_1: ("8a0b77e6c0b876e0", "ca26635b1edde0d2"),
    T.Q5_0: ("e7b03e6e2f695071", "4a685fe9514536a1"),
    T.Q5_1: ("4857b84648ac185f", "cb53e081e89135d3"),
    T.Q8_0: ("200a893dbb04470d", "200a893dbb04470d"),
    T.Q2_K: ("2dd10eeebdf9cabe", "ebe37ef0d8f09799"),
    T.Q3_K: ("086d808763382842", "8e6ec7585c08a8f2"),
    T.Q4_K: ("49b58a55ca48fa26", "9b37ea3828e096a3"),
    T.Q5_K: ("8260e0e1919d70f2", "fb0b45cd08bfb668"),
    T.Q6_K: ("a95f865ade4385c9", "a365312c569043af"),
    T.IQ4_NL: ("4966fc08ea3c2dd2", "2c142d67c9b2b8f2"),
    T.IQ4_XS: ("4fe087946f9eb3b0", "221e486f82b3c0e8"),
    T.F16: ("7544dce1f90ed1fe", "7544dce1f90ed1fe"),
    T.BF16: ("efd106b8aa8ec66d", "efd106b8aa8ec66d"),
}


@pytest.mark.parametrize("kind", list(DIGESTS), ids=lambda kind: kind.name)
def test_the_bytes_are_the_recorded_ones(kind: T) -> None:
    """The first 16 hexadecimal digits of SHA-256, with and without importance values, as made on x86-64.

    Other processors may fuse a multiplication and an addition, which rounds once less: there, the bytes must be valid.
    """
    made = [quantize_rows(ROWS, kind, importance) for importance in (None, IMPORTANCE)]
    assert all(is_valid(stored, kind) for stored in made)
    assert not requires_importance(kind)
    if platform.machine() in ("x86_64", "AMD64"):
        assert tuple(hashlib.sha256(stored.tobytes()).hexdigest()[:16] for stored in made) == DIGESTS[kind]
