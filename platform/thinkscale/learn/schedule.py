"""The learning rate by step, and what a step's arithmetic amounts to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Dense bfloat16 FLOP/s by datasheet, by a part of the device's name."""
GPU_GIB = {"H100": 80, "H200": 141, "H800": 80, "A100": 80, "B200": 180, "L40S": 48}
"""Memory by datasheet, of the largest of the name: what needs more fits nowhere."""


def learning_rate(step: int, *, steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up to `peak` over `warmup_share` of the steps, then cosine to 0.

    Args:
        step: from 0. The warm-up's first step already learns: it has the rate peak / warm-up steps.
    """
    warmup = math.ceil(steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def sample_flops(tokens: int, *, parameters: int, layers: int, attention_width: int, frozen: int = 0) -> float:
    """FLOP that training needs for one sample: 6ND and causal attention; recomputation does not count.

    Args:
        parameters: all weights, a tied embedding once (it is a matrix product as the output).
        attention_width: heads times head size.
        frozen: those of the weights that need no gradient of their own.
    """
    return (6.0 * parameters - 2.0 * frozen) * tokens + 6.0 * layers * attention_width * tokens * tokens


def attention_width(config: Any) -> int:
    """Heads times head size of a transformers configuration."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head * config.num_attention_heads)


def matrix_parameters(config: Any, parameters: int) -> int:
    """Weights that take part in matrix products: all but an embedding that is not the output as well."""
    return parameters if config.tie_word_embeddings else parameters - config.vocab_size * config.hidden_size


def model_flops(lengths: Iterable[int], config: Any, parameters: int, frozen: int = 0) -> float:
    """FLOP of a batch of samples of these lengths (`sample_flops`), of a model with so many weights, some frozen."""
    n, width, layers = matrix_parameters(config, parameters), attention_width(config), config.num_hidden_layers
    still = matrix_parameters(config, frozen) if frozen else 0
    return sum(sample_flops(t, parameters=n, layers=layers, attention_width=width, frozen=still) for t in lengths)


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where it is not known (a CPU)."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in device_name), None)
