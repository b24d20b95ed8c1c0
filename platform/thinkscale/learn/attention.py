"""Variable-length causal attention for packed rows, registered with transformers.

Owns how a packed row's segments attend: each to itself alone. Knows no model family.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

IMPLEMENTATION = "thinkscale_varlen"


def register() -> None:
    """Make the implementation known to transformers' attention and mask registries."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _no_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within the segments of one row.

    Args:
        query: (1, heads, T, head size); `key` and `value` with as many or fewer heads (grouped queries).
        cu_seq_lens_q: (S + 1,) int32, the segments' bounds.
        max_length_q: tokens of the longest segment.

    Returns:
        (1, T, heads, head size), and no attention weights.
    """
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        grouped: dict[str, Any] = {"enable_gqa": True} if _NEEDS_GQA_FLAG and q.shape[1] != k.shape[1] else {}
        out: Any = varlen_attn(
            q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
            scale=scaling, window_size=(-1, 0), **grouped,
        )  # fmt: skip
        return out.unsqueeze(0), None
    lengths = cu_seq_lens_q.diff().tolist()
    # The CPU kernel takes twice as long in bfloat16 as in float32 on segments of a few hundred tokens.
    dtype = query.dtype
    query, key, value = query.float(), key.float(), value.float()
    parts = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).to(dtype).transpose(1, 2), None


def _no_mask(*_: Any, **__: Any) -> None:
    """The segments' bounds say it all."""
    return


def _takes_gqa_flag() -> bool:
    """torch 2.13 asks for grouped queries to be announced; 2.11 takes them as they come."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


_NEEDS_GQA_FLAG = _takes_gqa_flag()
