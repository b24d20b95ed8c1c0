"""Which models are fine-tuned and which are refused, by their config alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import FAMILIES as TOKENIZERS
from thinkscale import pipeline
from thinkscale.domain.campaign import Train
from thinkscale.domain.models import Thinker
from thinkscale.learn.export import export_weights
from thinkscale.learn.families import UnsupportedModelError, check_trainable
from thinkscale.learn.model import load_model
from thinkscale.store.campaigns import load_campaign
from tiny_families import CONFIGS, save_base

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize("family", CONFIGS)
def test_supported_configs_are_taken(family: str) -> None:
    check_trainable(json.loads(CONFIGS[family].to_json_string(use_diff=False)), family)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen3_moe"}, "m: models of type 'qwen3_moe' cannot be fine-tuned; supported are llama, qwen2"),
        ({"model_type": "gemma3_text"}, "'gemma3_text'"),
        ({"model_type": "deepseek_v3", "quantization_config": FP8}, "'deepseek_v3'"),
        ({}, "type None"),
        ({"model_type": "qwen3", "quantization_config": FP8}, r"quantised weights \(fp8; take the bfloat16"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"model_type": "mistral", "max_position_embeddings": 32768}, "sliding-window attention .of 4096"),
        ({"model_type": "phi3", "sliding_window": 2047, "max_position_embeddings": 4096}, "of 2047"),
        ({"model_type": "qwen2", "sliding_window": 99, "layer_types": ["sliding_attention"]}, "sliding-window"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, "rope scaling of type 'longrope'"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "dynamic"}}, "'dynamic'"),
        ({"model_type": "olmo2", "attention_dropout": 0.1}, r"attention_dropout = 0.1 \(set it to 0\)"),
    ],
)
def test_others_are_refused_by_name_and_reason(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        check_trainable(config, "m")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mistral", "sliding_window": None},
        {
            "model_type": "qwen2",
            "sliding_window": 131072,
            "use_sliding_window": False,
            "max_position_embeddings": 32768,
        },
        {"model_type": "phi3", "sliding_window": None, "rope_scaling": None, "resid_pdrop": 0.0},
        {"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 4}},
    ],
)
def test_settings_that_change_nothing_are_taken(config: dict[str, Any]) -> None:
    check_trainable(config, "m")


def test_quantised_weights_are_refused_though_the_config_says_nothing(tmp_path: Path) -> None:
    base = save_base(tmp_path, "qwen2")
    weights = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**weights, name: (weights[name] * 100).to(torch.float8_e4m3fn)}, base / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=f"{name} is stored as F8_E4M3, quantised"):
        load_model(base, Train(compute_dtype="float32"), device=torch.device("cpu"))


def test_a_campaign_on_a_base_that_cannot_be_tuned_ends_before_its_first_stage(tmp_path: Path) -> None:
    base = TOKENIZERS["qwen3"].write(tmp_path / "base")
    (base / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"}))
    campaign = load_campaign("demo", [f'model.base="{base}"', f'root="{tmp_path}"'])
    said: list[str] = []
    with pytest.raises(UnsupportedModelError, match="'qwen3_moe'"):
        pipeline.run(campaign, say=said.append)
    assert said == []


def test_an_export_says_what_ends_it_and_how_it_thinks(tmp_path: Path) -> None:
    from dataclasses import asdict

    from thinkscale.engines.tokenizer import ModelTokenizer
    from thinkscale.forcing.formats import THINK, resolve_format

    base = TOKENIZERS["qwen2.5"].write(save_base(tmp_path / "base", "qwen2"))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "top_k": 20}))
    model, export = load_model(base, Train(compute_dtype="float32"), device=torch.device("cpu")), tmp_path / "export"
    export.mkdir()
    tokenizer = ModelTokenizer(base)
    options: dict[str, Any] = {"eos_ids": tokenizer.eos_ids, "thinking_format": asdict(THINK)}
    export_weights(model, base, export, lambda path: None, **options)
    config = json.loads((export / "generation_config.json").read_text())
    assert config == {"eos_token_id": [*tokenizer.eos_ids], "top_k": 20}
    assert tokenizer.eos_ids[-1] == 7
    assert tokenizer.decode(tokenizer.eos_ids[:1]) == "<|im_end|>"
    tuned = ModelTokenizer(export)
    assert resolve_format(Thinker(), tuned) == THINK  # the base's is s1
    assert tuned.decode(tuned.prompt_ids("how", None)).endswith("<think>\n\n</think>\n\n")
