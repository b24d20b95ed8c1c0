"""What a model amounts to by its config: weights, FLOP of training, memory; and what devices have. Knows no torch."""

from collections.abc import Iterable
from typing import Any

from thinkscale.learn.recompute import head_size, kept_widths

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Dense bfloat16 FLOP/s by datasheet, by a part of the device's name."""
GPU_GIB = {"H100": 80, "H200": 141, "H800": 80, "A100": 80, "B200": 180, "L40S": 48}
"""Memory by datasheet, of the largest of the name: what needs more fits nowhere."""


def parameter_count(config: Any) -> int:
    """Weights in a model's matrices, by its config; of a mixture of experts those that a token meets."""
    heads, width = config.num_attention_heads, config.hidden_size
    groups = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    experts = getattr(config, "num_experts_per_tok", None) or 1
    layer = width * (2 * head_size(config) * (heads + groups) + 3 * inner * experts)
    return int(config.num_hidden_layers * layer + config.vocab_size * width * (1 if config.tie_word_embeddings else 2))


def matrix_parameters(config: Any, parameters: int) -> int:
    """Weights that take part in matrix products: all but an embedding that is not the output as well."""
    return parameters if config.tie_word_embeddings else parameters - config.vocab_size * config.hidden_size


def model_flops(lengths: Iterable[int], config: Any, parameters: int, frozen: int = 0) -> float:
    """FLOP that training needs for samples of these lengths: 6ND and causal attention; recomputation does not count.
    `parameters`: all weights, a tied embedding once; `frozen`: those that need no gradient of their own."""
    still = matrix_parameters(config, frozen) if frozen else 0
    linear = 6.0 * matrix_parameters(config, parameters) - 2.0 * still
    quadratic: float = 6.0 * config.num_hidden_layers * head_size(config) * config.num_attention_heads
    return sum(linear * tokens + quadratic * tokens * tokens for tokens in lengths)


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None where it is not known (a CPU)."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in device_name), None)


def cache_numbers(config: Any) -> int:
    """Numbers that attention keeps of one token while decoding."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * head_size(config) * heads * config.num_hidden_layers)


def training_gib(
    config: Any, parameters: int, gpus: int, *, pack_tokens: int, share: float, lora: bool = False
) -> float:
    """Peak of a GPU: sharded state, gathered weights, a layer's gradients, a row's activations, the loss's chunk."""
    outer = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    layer = (parameters - outer) / config.num_hidden_layers
    # On one GPU everything stays gathered; on several two layers and what is around them.
    gathered = 2 * parameters if gpus == 1 else 2 * (2 * layer + outer) + 6 * layer
    nothing, _, everything = kept_widths(config)
    kept = nothing - share * (nothing - everything)
    activations = 2 * pack_tokens * (config.num_hidden_layers * kept + (nothing if share else 0))
    output_gradient = 2 * config.vocab_size * config.hidden_size
    state = (4 if lora else 16) * parameters / gpus
    return float(state + gathered + activations + output_gradient + 2 * 2**30) / 2**30
