"""Models of given shapes with random weights, for measuring engines without any download."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from thinkscale.domain.models import Serve
from thinkscale.engines.vllm import VllmEngine

SHAPES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 96, "vocab_size": 2048},
    "1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
             "intermediate_size": 8960, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "intermediate_size": 18944, "vocab_size": 152064},
}  # fmt: skip
"""Of Qwen2.5, by name."""

TOKENIZER_IDS = 512
"""Ids that the tokenizer knows: one in 512 tokens of a random model ends its thinking."""


def write_shape(name: str, directory: Path) -> Path:
    """Config and tokenizer of a shape; the weights are vLLM's dummy ones."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    shape = SHAPES[name]
    words = {f"t{i}": i for i in range(TOKENIZER_IDS - 1)} | {"\n": TOKENIZER_IDS - 1}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0"))).save_pretrained(
        directory
    )
    config = Qwen2Config(
        **shape, max_position_embeddings=32768, rope_theta=1e6, tie_word_embeddings=name != "7b", dtype="bfloat16"
    )
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(directory)
    return directory


async def start_engine(name: str, *, context_tokens: int, max_concurrent_sequences: int) -> VllmEngine:
    """An engine of a shape whose end-of-text id lies beyond the tokenizer's ids, so that it is never sampled."""
    with tempfile.TemporaryDirectory() as directory:
        engine = await VllmEngine.start(
            write_shape(name, Path(directory)),
            Serve(dtype="bfloat16", context_tokens=context_tokens, max_concurrent_sequences=max_concurrent_sequences),
            options={"load_format": "dummy"},
        )
    engine.info = replace(engine.info, eos_ids=(SHAPES[name]["vocab_size"] - 1,))
    return engine
