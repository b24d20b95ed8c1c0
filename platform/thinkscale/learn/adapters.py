"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: added to frozen layers, merged into them at export.
Owns which matrices are adapted, how adapters begin, and a merged weight. Knows no files."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from thinkscale.domain.campaign import Train

ADAPTED = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"]


def add(model: nn.Module, settings: Train) -> None:
    """Freeze a model on the meta device and put adapters beside its layers' matrices, as the settings say."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=ADAPTED)  # type: ignore[arg-type]
    inject_adapter_in_model(config, model, low_cpu_mem_usage=True)


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def stored_name(name: str) -> str:
    """What the Hugging Face layout calls a parameter beside which an adapter may stand."""
    return name.replace(".base_layer.", ".")


def first_values(name: str, shape: torch.Size, seed: int) -> Tensor:
    """What an adapter begins with, the same on every rank: peft's own distribution; B is 0, so that nothing changes."""
    if ".lora_B." in name:
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(seed)
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def merged(model: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A whole weight with its adapter's part added, if it has one. All ranks call it; the model stays as it is."""
    owner, _, matrix = name.rpartition(".base_layer.")
    if not owner or matrix != "weight":
        return weight
    layer: Any = model.get_submodule(owner)
    a, b = (whole(factors["default"].weight) for factors in (layer.lora_A, layer.lora_B))
    result: Tensor = weight.float() + layer.scaling["default"] * (b @ a)
    return result


def whole(parameter: Tensor) -> Tensor:
    """A parameter gathered from all ranks."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
