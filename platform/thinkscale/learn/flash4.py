"""FlashAttention-4 (package flash-attn-4) over packed rows, as an operator that torch.compile can place.
Owns the calls into that package. Called directly because torch's own activation of it breaks with the package's
releases. Knows no model."""

import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def is_usable() -> bool:
    """Whether the package is there and this GPU is of the kind it is written for (Hopper or newer)."""
    try:
        installed = importlib.util.find_spec("flash_attn.cute") is not None
    except ModuleNotFoundError:
        return False
    return installed and torch.cuda.get_device_capability() >= (9, 0)


def attend(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scaling: float) -> Tensor:
    """Causal attention within segments: q (T, heads, size), k and v with as many heads or fewer; (T, heads, size)."""
    out: Tensor = _forward(q, k, v, bounds, longest, scaling)[0]
    return out


@lru_cache(maxsize=1)
def _package() -> Any:
    return importlib.import_module("flash_attn.cute.interface")


@torch.library.custom_op("thinkscale::flash4", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scaling: float) -> tuple[Tensor, Tensor]:
    out, lse, *_ = _package()._flash_attn_fwd(
        q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=longest, max_seqlen_k=longest,
        softmax_scale=scaling, causal=True, return_lse=True,
    )  # fmt: skip
    return out, lse.contiguous()


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scaling: float) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


@torch.library.custom_op("thinkscale::flash4_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bounds: Tensor, longest: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    d_q, d_k, d_v = (q.new_empty(x.shape) for x in (q, k, v))
    _package()._flash_attn_bwd(
        q, k, v, out, grad.contiguous(), lse, softmax_scale=scale, causal=True, cu_seqlens_q=bounds,
        cu_seqlens_k=bounds, max_seqlen_q=longest, max_seqlen_k=longest, dq=d_q, dk=d_k, dv=d_v,
    )  # fmt: skip
    return d_q, d_k, d_v


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bounds, ctx.longest, ctx.scaling = inputs
    ctx.save_for_backward(q, k, v, *output, bounds)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, bounds = ctx.saved_tensors
    return (*_backward(grad, q, k, v, out, lse, bounds, ctx.longest, ctx.scaling), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
