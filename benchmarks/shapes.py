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
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536, "vocab_size": 49152},
    "1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
             "intermediate_size": 8960, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "intermediate_size": 18944, "vocab_size": 152064},
}  # fmt: skip
"""Of Qwen2.5, and of SmolLM2-135M, by name."""

TOKENIZER_IDS = 512
"""Ids that the tokenizer knows: one in 512 tokens of a random model ends its thinking."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_shape(name: str, directory: Path, *, weights: bool = False) -> Path:
    """Config and tokenizer of a shape, whose end-of-text id is never sampled; random weights, or vLLM's dummy ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    shape = SHAPES[name]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {text: i for i, text in enumerate([*letters, *(f"t{i}" for i in range(len(letters), TOKENIZER_IDS))])}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    config = Qwen2Config(
        **shape, max_position_embeddings=32768, rope_theta=1e6, tie_word_embeddings=name != "7b", dtype="bfloat16"
    )
    config.architectures = ["Qwen2ForCausalLM"]
    config.eos_token_id = SHAPES[name]["vocab_size"] - 1
    config.save_pretrained(directory)
    if weights:
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
        torch.cuda.empty_cache()
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
