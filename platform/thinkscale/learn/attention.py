"""Variable-length causal attention for packed rows, registered with transformers: each segment to itself alone.
Several ranks may share a row: each holds a slice of the tokens, and for attention they trade tokens for heads and back
(the all-to-all of "DeepSpeed Ulysses", arXiv 2309.14509). Knows no model family."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

from thinkscale.learn import flash4


@dataclass(frozen=True)
class RowGroup:
    size: int
    index: int  # which slice is this rank's
    group: Any  # the process group; None in a group of one


ALONE = RowGroup(size=1, index=0, group=None)


def row_group(size: int) -> RowGroup:
    """Groups of `size` neighbouring ranks (of one host, as launchers number them). All ranks must call it.
    Raises ValueError where the number of ranks is not a multiple of `size`."""
    if size == 1:
        return ALONE
    ranks = dist.get_world_size()
    if ranks % size:
        raise ValueError(f"{ranks} workers cannot form groups of context_parallel = {size}")
    group, _ = dist.new_subgroups(group_size=size)
    return RowGroup(size=size, index=dist.get_rank() % size, group=group)


def tokens_to_heads(x: Tensor, group: RowGroup) -> Tensor:
    """(1, heads, slice, head size) of this slice's tokens to (1, heads / size, T, head size) of all."""
    _, heads, tokens, width = x.shape
    mine = heads // group.size
    sent = x.reshape(group.size, mine, tokens, width).transpose(1, 2).contiguous()
    received = all_to_all_single_autograd(sent, None, None, group.group)  # (slices, tokens, heads, width)
    return received.reshape(1, group.size * tokens, mine, width).transpose(1, 2)


def heads_to_tokens(x: Tensor, group: RowGroup) -> Tensor:
    """(1, T, heads / size, head size) of the whole row back to (1, slice, heads, head size)."""
    _, total, mine, width = x.shape
    tokens = total // group.size
    sent = x.reshape(group.size, tokens, mine, width).contiguous()
    received = all_to_all_single_autograd(sent, None, None, group.group)  # (head groups, tokens, heads, width)
    return received.transpose(0, 1).reshape(1, tokens, group.size * mine, width)


IMPLEMENTATION = "thinkscale_varlen"
Kernel = Literal["FA2", "FA4"]
_kernel: Kernel = "FA2"


def register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, lambda *_, **__: None)


def use_kernel(name: Kernel | None = None) -> Kernel:
    """Choose the CUDA kernel of this process. `name`: by default FA4 where the package flash-attn-4 is installed and
    this GPU has it (twice as fast on Hopper), else torch's FA2. Returns the kernel in use, for the record."""
    global _kernel
    _kernel = name or ("FA4" if flash4.is_usable() else "FA2")
    return _kernel


def kernel_name(device: torch.device, compute_dtype: str) -> str:
    """What computes attention there, for the record."""
    return _kernel if device.type == "cuda" and compute_dtype != "float32" else "sdpa"


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    row_group: RowGroup = ALONE,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within the segments of one row.
    `query`: (1, heads, T, head size), T being the row's tokens or this rank's slice of them; `key` and `value` with as
    many heads or fewer (grouped queries). `cu_seq_lens_q`: (S + 1,) int32, the segments' bounds in the whole row.
    `row_group`: the ranks that share the row. Returns (1, T, heads, head size), and no attention weights."""
    shared = row_group.size > 1
    if shared:
        query, key, value = (tokens_to_heads(x, row_group) for x in (query, key, value))
    out = _attend_whole(query, key, value, cu_seq_lens_q, scaling)
    return heads_to_tokens(out, row_group) if shared else out, None


def _attend_whole(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float) -> Tensor:
    if not query.is_cuda or query.dtype == torch.float32:  # which no flash kernel takes
        return cast(Tensor, _attend_by_segment(query, key, value, bounds, scaling))
    longest: Any = query.shape[2]  # an upper bound will do, and a compiled layer is then free of the true one
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    run = flash4.attend if _kernel == "FA4" else _attend_torch
    whole: Tensor = run(q, k, v, bounds, longest, scaling).unsqueeze(0)
    return whole


def _attend_torch(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scaling: float) -> Tensor:
    grouped: dict[str, Any] = {"enable_gqa": True} if _NEEDS_GQA_FLAG and q.shape[1] != k.shape[1] else {}
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0), **grouped)
    return cast(Tensor, out)


@torch._dynamo.disable
def _attend_by_segment(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float) -> Tensor:
    """What CUDA's kernel does, on the CPU and in float32."""
    lengths = bounds.diff().tolist()
    # The CPU kernel takes twice as long in bfloat16 as in float32 on segments of a few hundred tokens.
    wide = [x.float().split(lengths, dim=2) for x in (query, key, value)]
    parts: list[Tensor] = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*wide, strict=True)
    ]
    return torch.cat(parts, dim=2).to(query.dtype).transpose(1, 2)


# torch 2.13 asks for grouped queries to be announced; 2.11 takes them as they come.
_NEEDS_GQA_FLAG = "enable_gqa" in inspect.signature(varlen_attn).parameters
