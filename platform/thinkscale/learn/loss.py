"""Cross-entropy over a large vocabulary without ever holding all logits.

The gradients with respect to the hidden states and the output matrix are computed in the forward
pass, a chunk of positions at a time, so that no logits are kept or computed twice (the scheme of
"Cut Your Losses in Large-Vocabulary Language Models", arXiv 2411.09009, and of fused linear
cross-entropies). Knows no model.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_BYTES = 1 << 29
"""Of fp32 logits held at a time."""


def cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> torch.Tensor:
    """`scale` times the summed cross-entropy of `hidden @ weight.T` against `targets`.

    Args:
        hidden: (M, H).
        weight: (V, H), of hidden's dtype.
        targets: (M,) int64.

    Returns:
        A float32 scalar.
    """
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(
        hidden, weight, targets, scale, max(1, chunk_bytes // (4 * weight.shape[0]))
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float, chunk: int
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.zeros_like(hidden)
        d_weight = torch.zeros_like(weight)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ weight.T).float()
            picked = targets[part].unsqueeze(1)
            log_norm = logits.logsumexp(dim=1, keepdim=True)
            total += (log_norm - logits.gather(1, picked)).sum()
            d_logits = logits.sub_(log_norm).exp_()
            d_logits.scatter_add_(1, picked, torch.full_like(picked, -1, dtype=d_logits.dtype))
            d_logits = d_logits.mul_(scale).to(hidden.dtype)
            torch.mm(d_logits, weight, out=d_hidden[part])
            d_weight.addmm_(d_logits.T, hidden[part])
        ctx.save_for_backward(d_hidden, d_weight)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        (grad,) = grads
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad.to(d_hidden.dtype), d_weight * grad.to(d_weight.dtype), None, None, None
