"""Variable-length causal attention for packed rows, registered with transformers.

Owns how a packed row's segments attend: each to itself alone. Knows no model family.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from torch.nn import functional as F

IMPLEMENTATION = "thinkscale_varlen"
Kernel = Literal["FA2", "FA3", "FA4"]


def register() -> None:
    """Make the implementation known to transformers' attention and mask registries."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _no_mask)


def activate_kernel(name: Kernel | None = None) -> Kernel:
    """Choose the CUDA kernel behind torch's variable-length attention, for this process.

    Args:
        name: None: FA4 where the package flash-attn-4 is installed (about twice FA2's speed on Hopper), else
            FA2, which is torch's own.

    Returns:
        The kernel in use, for the record.
    """
    from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl

    if name is None:
        name = "FA4" if _is_installed("flash_attn.cute") else "FA2"
    if name == "FA2":
        restore_flash_attention_impl()
    else:
        activate_flash_attention_impl(name)
    return name


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within the segments of one row.

    Args:
        query: (1, heads, T, head size); `key` and `value` with as many or fewer heads (grouped queries).
        cu_seq_lens_q: (S + 1,) int32, the segments' bounds.

    Returns:
        (1, T, heads, head size), and no attention weights.
    """
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        longest: Any = query.shape[2]  # an upper bound will do, and a compiled layer is then free of the true one
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        grouped: dict[str, Any] = {"enable_gqa": True} if _NEEDS_GQA_FLAG and q.shape[1] != k.shape[1] else {}
        out: Any = varlen_attn(
            q, k, v, cu_seq_lens_q, cu_seq_lens_q, longest, longest,
            scale=scaling, window_size=(-1, 0), **grouped,
        )  # fmt: skip
        return out.unsqueeze(0), None
    return _attend_by_segment(query, key, value, cu_seq_lens_q, scaling), None


@torch._dynamo.disable
def _attend_by_segment(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, scaling: float
) -> torch.Tensor:
    """What CUDA's kernel does, on the CPU."""
    lengths = bounds.diff().tolist()
    # The CPU kernel takes twice as long in bfloat16 as in float32 on segments of a few hundred tokens.
    wide = [x.float().split(lengths, dim=2) for x in (query, key, value)]
    parts = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*wide, strict=True)
    ]
    return torch.cat(parts, dim=2).to(query.dtype).transpose(1, 2)


def _no_mask(*_: Any, **__: Any) -> None:
    """The segments' bounds say it all."""
    return


def _takes_gqa_flag() -> bool:
    """torch 2.13 asks for grouped queries to be announced; 2.11 takes them as they come."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


_NEEDS_GQA_FLAG = _takes_gqa_flag()
