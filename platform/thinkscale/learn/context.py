"""One packed row shared by several ranks, for samples longer than one rank's share of a step.

Each rank of a group holds a slice of the row's tokens. Only attention looks beyond a slice: for it, ranks
trade tokens for heads and back (the all-to-all of "DeepSpeed Ulysses", arXiv 2309.14509), so that each
computes some heads over the whole row. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import all_to_all_single_autograd


@dataclass(frozen=True)
class RowGroup:
    """The ranks that share this rank's rows."""

    size: int
    index: int
    """Which slice is this rank's."""
    group: Any
    """The process group; None in a group of one."""


ALONE = RowGroup(size=1, index=0, group=None)


def row_group(size: int) -> RowGroup:
    """Groups of `size` neighbouring ranks (of one host, as launchers number them). All ranks must call it.

    Raises:
        ValueError: the number of ranks is not a multiple of `size`.
    """
    if size == 1:
        return ALONE
    ranks = dist.get_world_size()
    if ranks % size:
        raise ValueError(f"{ranks} workers cannot form groups of context_parallel = {size}")
    group, _ = dist.new_subgroups(group_size=size)
    return RowGroup(size=size, index=dist.get_rank() % size, group=group)


def tokens_to_heads(x: torch.Tensor, group: RowGroup) -> torch.Tensor:
    """(1, heads, slice, head size) of this slice's tokens to (1, heads / size, T, head size) of all."""
    _, heads, tokens, width = x.shape
    mine = heads // group.size
    sent = x.reshape(group.size, mine, tokens, width).transpose(1, 2).contiguous()
    received = all_to_all_single_autograd(sent, None, None, group.group)  # (slices, tokens, heads, width)
    return received.reshape(1, group.size * tokens, mine, width).transpose(1, 2)


def heads_to_tokens(x: torch.Tensor, group: RowGroup) -> torch.Tensor:
    """(1, T, heads / size, head size) of the whole row back to (1, slice, heads, head size)."""
    _, total, mine, width = x.shape
    tokens = total // group.size
    sent = x.reshape(group.size, tokens, mine, width).contiguous()
    received = all_to_all_single_autograd(sent, None, None, group.group)  # (head groups, tokens, heads, width)
    return received.transpose(0, 1).reshape(1, tokens, group.size * mine, width)
