"""Which models can be fine-tuned: decided on their config alone, before any weights are there. Knows no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UnsupportedModelError(ValueError):
    """A model cannot be fine-tuned here; the message names it and says which can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """The norms of a family's decoder layer: before and after attention and feed-forward, None where there is none."""

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_feed_forward: str | None = "post_attention_layernorm"
    after_feed_forward: str | None = None


_AFTER = {"after_attention": "post_attention_layernorm", "after_feed_forward": "post_feedforward_layernorm"}
_POST_NORM = Layer(before_attention=None, before_feed_forward=None, **_AFTER)
FAMILIES = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "olmo", "phi3", "smollm3"), Layer()),
    "olmo2": _POST_NORM,
}


def check_trainable(config: Mapping[str, Any], name: str) -> None:
    """Raises UnsupportedModelError, by name and reason, where a model of this config.json cannot be fine-tuned."""
    family = config.get("model_type")
    if family not in FAMILIES or (reason := _hindrance(config, family)):
        reason = f" with {reason}" if family in FAMILIES else ""
        raise UnsupportedModelError(
            f"{name}: models of type {family!r}{reason} cannot be fine-tuned; supported are {', '.join(FAMILIES)}"
        )


def _hindrance(config: Mapping[str, Any], family: str) -> str | None:
    if quantised := config.get("quantization_config") or config.get("compression_config"):
        how = quantised.get("quant_method") or quantised.get("format") or "unknown"
        return f"quantised weights ({how}; take the bfloat16 checkpoint)"
    window = config.get("sliding_window", 4096 if family == "mistral" else None)
    used = config.get("use_sliding_window", family in ("mistral", "phi3"))
    short = window is not None and window < (config.get("max_position_embeddings") or window + 1)
    if "sliding_attention" in (config.get("layer_types") or ()) or (used and short):
        return f"sliding-window attention (of {window} tokens)"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type")
    if kind in ("longrope", "dynamic"):  # positions that depend on the longest sequence beside them
        return f"rope scaling of type {kind!r}"
    dropouts = (name for name in ("attention_dropout", "resid_pdrop", "embd_pdrop") if config.get(name))
    return next((f"{name} = {config[name]} (set it to 0)" for name in dropouts), None)


def check_directory(directory: Path) -> None:
    """`check_trainable` of the model in a directory. Raises FileNotFoundError where it holds no config.json."""
    check_trainable(json.loads((directory / "config.json").read_text(encoding="utf-8")), directory.name)
