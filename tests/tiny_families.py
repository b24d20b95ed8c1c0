"""A tiny random model of every family that can be fine-tuned, and of what its configs vary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 128,
}
SERVED = {**SHAPE, "hidden_size": 128, "num_key_value_heads": 2}
"""With heads of a size that serving engines have kernels for."""


def configs(shape: Mapping[str, Any] = SHAPE) -> dict[str, Any]:
    """By family or variant: tied and untied, several end tokens, scaled positions, layers without positions."""
    head = shape["hidden_size"] // shape["num_attention_heads"]
    tokens = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": [2, 3]}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
    llama3 = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_theta": 1e4,
    }  # fmt: skip
    untied = {**shape, "tie_word_embeddings": False}
    return {
        "llama": LlamaConfig(**shape, tie_word_embeddings=True),
        "llama3": LlamaConfig(**untied, rope_parameters=llama3),
        "qwen2": Qwen2Config(**untied),
        "yarn": Qwen2Config(**untied, rope_parameters=yarn),
        "qwen3": Qwen3Config(**untied, head_dim=max(16, head)),
        "mistral": MistralConfig(**untied, sliding_window=None, head_dim=head),
        "olmo": OlmoConfig(**untied, clip_qkv=2.0, **tokens),
        "olmo2": Olmo2Config(**untied, **tokens),
        "phi3": Phi3Config(**untied, **tokens),
        "smollm3": SmolLM3Config(**shape, no_rope_layer_interval=2, tie_word_embeddings=True, **tokens),
    }


CONFIGS = configs()


def save_base(directory: Path, family: str, shape: Mapping[str, Any] = SHAPE, **options: Any) -> Path:
    torch.manual_seed(0)
    config = (CONFIGS if shape is SHAPE else configs(shape))[family]
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory, **options)
    return directory
