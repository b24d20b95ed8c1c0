"""How much of each layer is recomputed in the backward pass, row by row, so that no row's activations need more memory
than a full row does at the campaign's setting. Feed-forward activations go first (the most memory for the least
arithmetic), whole layers only where that is not enough; a short row recomputes nothing. Knows no data."""

from enum import IntEnum
from typing import Any

SPARE_USED = 0.75  # of the spare room; the rest is for a longer row's passing values


class Recompute(IntEnum):
    NOTHING = 0
    FEED_FORWARD = 1
    ALL = 2


def plan(config: Any, tokens: int, *, full_row_tokens: int, share: float, spare: float = 0.0) -> list[Recompute]:
    """One entry a layer, spread evenly, for a row of `tokens`. `share`: the memory's measure: what a row of
    `full_row_tokens` takes when this share of the layers is recomputed as a whole (0: nothing recomputed, 1: every
    layer). `spare`: numbers that have room besides: a step's first row runs before there are gradients."""
    layers = config.num_hidden_layers
    nothing, feed_forward, everything = kept_widths(config)
    kept = full_row_tokens * (nothing - share * (nothing - everything)) + SPARE_USED * spare / layers
    allowed = kept / tokens  # mean width a layer may keep
    if allowed >= nothing:
        return [Recompute.NOTHING] * layers
    if allowed >= feed_forward:
        return _mix(layers, (nothing - allowed) / (nothing - feed_forward), Recompute.NOTHING, Recompute.FEED_FORWARD)
    some = min(1.0, (feed_forward - allowed) / (feed_forward - everything))
    return _mix(layers, some, Recompute.FEED_FORWARD, Recompute.ALL)


def head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def kept_widths(config: Any) -> tuple[float, float, float]:
    """Numbers kept per token and layer under each mode, normalisations and element-wise products apart."""
    hidden = config.hidden_size
    attention = head_size(config) * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)  # q, output, k, v
    feed_forward = 2 * config.intermediate_size  # gate and up
    return 2 * hidden + attention + feed_forward, 2 * hidden + attention, hidden


def _mix(layers: int, share: float, less: Recompute, more: Recompute) -> list[Recompute]:
    """`more` for a share of the layers, rounded up and spread evenly."""
    count = min(layers, -int(-(share * layers - 1e-9) // 1))
    return [more if (i + 1) * count // layers > i * count // layers else less for i in range(layers)]
