"""How the tiny model is trained: what its code computes another way than the reference must be the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training import passes


@pytest.mark.parametrize("window", [8, 96], ids=["sliding", "full"])
def test_attention_in_pieces_is_the_whole(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU attends for some rows at a time, and leaves out the keys that none of them sees: also backwards."""
    monkeypatch.setattr(passes, "ROWS", 16)  # 70 rows: the last piece is a short one
    random = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(2, heads, 70, 8, generator=random, requires_grad=True) for heads in (4, 2, 2))
    gap = torch.arange(70)[:, None] - torch.arange(70)
    block = (torch.arange(70) // 10 == 3)[:, None] & (torch.arange(70) // 10 == 3)  # a picture sees both ways
    seen = ((gap >= 0) | block) & (gap < window)
    padded = torch.zeros(2, 70, dtype=torch.bool)
    padded[1, 50:] = True  # the second one is shorter; its padding sees itself alone
    seen = (seen & ~padded[:, None]) | torch.eye(70, dtype=torch.bool)
    mask = torch.zeros(2, 1, 70, 70).masked_fill(~seen[:, None], passes.UNSEEN)

    def gradients(out: torch.Tensor) -> list[torch.Tensor]:
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(8))
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), (q, k, v))]

    whole = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), mask, scale=1.0)
    for ours, theirs in zip(gradients(passes.attend(q, k, v, mask)), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
