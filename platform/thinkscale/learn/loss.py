"""Cross-entropy over a large vocabulary without ever holding all logits: the gradients are computed in the forward
pass, a chunk of positions at a time, so that no logits are kept or computed twice (the scheme of "Cut Your Losses in
Large-Vocabulary Language Models", arXiv 2411.09009, and of fused linear cross-entropies). Knows no model."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 1 << 25, "cuda": 1 << 30}  # of logits in float32 that a chunk may amount to


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, *, chunk_bytes: int | None = None
) -> Tensor:
    """`scale` times the summed cross-entropy of `hidden @ weight.T` against `targets`.
    `hidden`: (M, H). `weight`: (V, H), of hidden's dtype. Returns a float32 scalar."""
    chunk = max(1, (chunk_bytes or CHUNK_BYTES[hidden.device.type]) // (4 * weight.shape[0]))
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, scale, chunk)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, chunk: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.zeros_like(hidden)
        d_weight = torch.zeros_like(weight) if weight.requires_grad else None
        softmax = _compiled_softmax if hidden.is_cuda else _softmax_minus_target
        scaling = torch.full((), scale, device=hidden.device)  # torch.tensor would wait for all that is queued
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            loss, d_logits = softmax(hidden[part] @ weight.T, targets[part].unsqueeze(1), scaling)
            total += loss
            torch.mm(d_logits, weight, out=d_hidden[part])
            if d_weight is not None:
                d_weight.addmm_(d_logits.T, hidden[part])
        ctx.save_for_backward(d_hidden, d_weight)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        scaled = (d if d is None else d * grad.to(d.dtype) for d in ctx.saved_tensors)
        return *scaled, None, None, None


def _softmax_minus_target(logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of a chunk (n, V), targets (n, 1), and `scale` times its gradient by the logits."""
    wide = logits.float()
    log_norm = wide.logsumexp(dim=1, keepdim=True)
    loss = (log_norm - wide.gather(1, targets)).sum()
    hit = torch.arange(logits.shape[1], device=logits.device) == targets
    return loss, (((wide - log_norm).exp() - hit.to(wide.dtype)) * scale).to(logits.dtype)


@lru_cache(maxsize=1)
def _compile() -> Any:
    return torch.compile(_softmax_minus_target)


def _compiled_softmax(logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """In two passes over the logits instead of ten."""
    torch._dynamo.maybe_mark_dynamic(logits, 0)
    torch._dynamo.maybe_mark_dynamic(targets, 0)
    result: tuple[Tensor, Tensor] = _compile()(logits, targets, scale)
    return result
