"""A causal language model ready to be fine-tuned: sharded, in mixed precision, over packed rows.
Owns which model families are supported, how weights get from safetensors into shards, and the wrapping (FSDP2,
recomputation of activations, compilation). Knows no optimizer and no data."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from thinkscale.domain.campaign import Train
from thinkscale.learn import adapters, attention, recompute
from thinkscale.learn.attention import ALONE, row_group
from thinkscale.learn.families import FAMILIES, UnsupportedModelError, check_directory
from thinkscale.learn.loss import cross_entropy
from thinkscale.learn.packing import Row
from thinkscale.learn.recompute import Recompute

STATE_SHARE = 2 / 3
"""A step's weights and gradients are gathered and reduced once, not once a row, where they and the optimizer's
state take at most so much of a device's memory."""
HOST_STATE_BYTES = 24 << 30  # what may be taken where training runs on CPUs


def _to_device(array: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class PackedCausalLM(nn.Module):
    """A transformers decoder and its output matrix, over one packed row at a time.
    Parameters bear the names of the Hugging Face layout. Tied output weights are one parameter here."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        attention.register()
        self.stored_dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16
        ours = attention.IMPLEMENTATION
        inner: Any = AutoModelForCausalLM.from_config(config, attn_implementation=ours, dtype=torch.float32)
        self.config = inner.config
        self.model: Any = inner.model
        self.lm_head: nn.Linear | None = None if config.tie_word_embeddings else inner.lm_head
        for layer in self.model.layers:
            layer.norms = FAMILIES[self.config.model_type]
        self._keeps_whole = False
        self._full_row_tokens, self._recomputed_share = 1, 0.0
        self._gradient_numbers = 0.0  # of the compute type, that fit where a step's gradients will be
        self._more_rows = self._holds_gradients = False
        self.row_group = ALONE

    def forward(self, row: Row, scale: float | None = None) -> Tensor:
        """The row's summed cross-entropy times `scale`, or its logits (T, V) where there is no scale."""
        to = partial(_to_device, device=self.device)
        spare, full, share = self._gradient_numbers, self._full_row_tokens, self._recomputed_share
        spare = 0.0 if self._holds_gradients else spare
        modes = recompute.plan(self.config, len(row.ids), full_row_tokens=full, share=share, spare=spare)
        for layer, mode in zip(self.model.layers, modes, strict=True):
            layer.recompute = mode
        inputs = {"input_ids": to(row.ids).unsqueeze(0), "position_ids": to(row.positions).unsqueeze(0)}
        bounds = to(row.bounds).int()
        output = self.model(**inputs, use_cache=False, cu_seq_lens_q=bounds, row_group=self.row_group)
        hidden: Tensor = output.last_hidden_state.squeeze(0)
        weight: Tensor = (self.lm_head or self.model.embed_tokens).weight
        if scale is None:
            return (hidden @ weight.T).float()
        return cross_entropy(hidden[to(row.loss_positions)], weight, to(row.targets), scale)

    def set_accumulating(self, accumulating: bool) -> None:
        """Whether more rows of the step follow this one.
        Where the whole weights fit, they stay gathered and the gradients unreduced until the last row."""
        self._holds_gradients, self._more_rows = self._more_rows, accumulating
        if self._keeps_whole:
            root: Any = self
            root.set_requires_gradient_sync(not accumulating)
            root.set_reshard_after_backward(not accumulating)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    def frozen_count(self) -> int:
        return sum(p.numel() for p in self.parameters() if not p.requires_grad)


def read_config(directory: Path) -> Any:
    """The model's transformers configuration.
    Raises UnsupportedModelError where a family or a variant is not supported."""
    from transformers import AutoConfig

    check_directory(directory)
    return AutoConfig.from_pretrained(directory, trust_remote_code=False)


def load_model(directory: Path, settings: Train, *, device: torch.device, context_parallel: int = 1) -> PackedCausalLM:
    """The model of a local Hugging Face directory, sharded over all ranks, in float32 master weights.
    Started on the meta device; each rank then reads only its own slices of the safetensors files, so that no host ever
    holds the whole model in float32. Without a process group a group of one is made. `context_parallel`: neighbouring
    ranks that share a row's tokens. Raises UnsupportedModelError: the family is not supported, or its heads cannot be
    shared by so many ranks; FileNotFoundError: the directory holds no safetensors, or weights are missing."""
    model = build_model(read_config(directory), settings, device=device, context_parallel=context_parallel)
    _load_weights(model, directory, settings.seed)
    return model


def build_model(config: Any, settings: Train, *, device: torch.device, context_parallel: int = 1) -> PackedCausalLM:
    """A sharded model whose weights are not yet filled in."""
    if config.num_key_value_heads % context_parallel:
        told = f"the model's {config.num_key_value_heads} key-value heads"
        raise UnsupportedModelError(f"context_parallel = {context_parallel} does not divide {told}")
    with torch.device("meta"):
        model = PackedCausalLM(config)
        if settings.lora_rank:
            adapters.add(model, settings)
    if settings.compute_dtype == "bfloat16" and model.stored_dtype == torch.bfloat16:
        for frozen in (p for p in model.parameters() if not p.requires_grad):
            frozen.data = frozen.data.bfloat16()  # what never changes needs no master copy
    model.train()
    _wrap(model, settings, process_mesh(device))
    model.row_group = row_group(context_parallel)
    model.to_empty(device=device)
    # Its buffers are computed, not stored, and the meta device lost them.
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    return model


def process_mesh(device: torch.device) -> DeviceMesh:
    """All ranks in one dimension; starts a process group of one where there is none."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    return init_device_mesh(device.type, (dist.get_world_size(),))


def _wrap(model: PackedCausalLM, settings: Train, mesh: DeviceMesh) -> None:
    model._full_row_tokens, model._recomputed_share = settings.pack_tokens, settings.checkpoint_layers
    policy = MixedPrecisionPolicy()
    if settings.compute_dtype == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    on_gpu = mesh.device_type == "cuda"
    room = STATE_SHARE * torch.cuda.get_device_properties().total_memory if on_gpu else HOST_STATE_BYTES
    # On one rank that gathers weights and reduces gradients once a step.
    weights, trained = model.parameter_count, model.parameter_count - model.frozen_count
    sharded = (4 * weights + 8 * trained) // mesh.size()  # master weights and two moments, float32
    model._keeps_whole = sharded + 2 * weights + 4 * trained <= room  # bfloat16 weights, float32 gradients
    held = trained / (1 if model._keeps_whole else mesh.size())
    model._gradient_numbers = held * torch.float32.itemsize / (policy.param_dtype or torch.float32).itemsize
    run = _compiled_layer if settings.compile else _decoder_layer
    for layer in model.model.layers:
        layer.forward = partial(_run_layer, run, layer)
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=not model._keeps_whole)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    if on_gpu:
        reduce_scatter = _ReduceScatter(torch.cuda.current_stream())
        wrapped: list[Any] = [*model.model.layers, model]
        for module in wrapped:
            module.set_custom_reduce_scatter(reduce_scatter)


class _ReduceScatter(DefaultReduceScatter):  # type: ignore[misc]
    """FSDP's own, but for whose memory it takes.
    Reduced gradients would come from the memory of a stream of their own, which activations never get back: on a full
    device the allocator then unmaps all it has cached, twice a step, while everything waits."""

    def __init__(self, compute: torch.cuda.Stream) -> None:
        self._compute = compute

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        user = torch.cuda.current_stream()
        with torch.cuda.stream(self._compute):
            buffer = torch.empty(*size, dtype=dtype, device=device)
        if user != self._compute:
            buffer.record_stream(user)
        return buffer


def _run_layer(run: Callable[..., Tensor], layer: Any, hidden: Tensor, **inputs: Any) -> Tensor:
    """A decoder layer, as much of it recomputed in the backward pass as its `recompute` says."""
    if layer.recompute == Recompute.ALL:
        whole = partial(run, layer, recompute_feed_forward=False, **inputs)
        result: Tensor = checkpoint(whole, hidden, use_reentrant=False, preserve_rng_state=False)
        return result
    return run(layer, hidden, recompute_feed_forward=layer.recompute == Recompute.FEED_FORWARD, **inputs)


@lru_cache(maxsize=1)
def _compile() -> Callable[..., Tensor]:
    from torch._functorch import config

    # Normalisations and element-wise products are computed again from the matrix products' results: a third
    # less memory, which buys far more than they cost.
    config.ban_recompute_used_far_apart = False
    config.ban_recompute_long_fusible_chains = False
    config.ban_recompute_materialized_backward = False
    return torch.compile(_decoder_layer)


def _compiled_layer(layer: Any, hidden: Tensor, **inputs: Any) -> Tensor:
    """One compilation serves every layer and every length of row."""
    for tensor in (hidden, *inputs["position_embeddings"], inputs["position_ids"]):
        torch._dynamo.maybe_mark_dynamic(tensor, 1)
    torch._dynamo.maybe_mark_dynamic(inputs["cu_seq_lens_q"], 0)
    return _compile()(layer, hidden, **inputs)


def _decoder_layer(layer: Any, hidden: Tensor, *, recompute_feed_forward: bool, **inputs: Any) -> Tensor:
    """A decoder layer of transformers' own parts, with the norms that its family has."""
    norms = layer.norms
    attended, _ = layer.self_attn(hidden_states=_normed(layer, norms.before_attention, hidden), **inputs)
    hidden = hidden + _normed(layer, norms.after_attention, attended)
    if recompute_feed_forward:
        inner: Tensor = checkpoint(_feed_forward, layer, hidden, use_reentrant=False, preserve_rng_state=False)
        return hidden + inner
    return hidden + _feed_forward(layer, hidden)


def _feed_forward(layer: Any, hidden: Tensor) -> Tensor:
    inner = layer.mlp(_normed(layer, layer.norms.before_feed_forward, hidden))
    return _normed(layer, layer.norms.after_feed_forward, inner)


def _normed(layer: Any, norm: str | None, hidden: Tensor) -> Tensor:
    result: Tensor = hidden if norm is None else getattr(layer, norm)(hidden)
    return result


@torch.no_grad()
def _load_weights(model: PackedCausalLM, directory: Path, seed: int) -> None:
    from safetensors import safe_open

    files = _weight_files(directory)
    handles: dict[str, Any] = {}
    for place, (full_name, parameter) in enumerate(model.named_parameters()):
        local, rows = _own_rows(parameter)
        if adapters.is_adapter(full_name):
            local.copy_(adapters.first_values(full_name, parameter.shape, seed + place)[rows])
            continue
        name = adapters.stored_name(full_name)
        if name not in files:
            raise FileNotFoundError(f"{directory} holds no weights for {name}: the model is incomplete")
        path = files[name]
        handle = handles.setdefault(path, safe_open(directory / path, framework="pt"))
        stored = handle.get_slice(name)
        if stored.get_dtype() not in ("BF16", "F16", "F32", "F64"):
            raise UnsupportedModelError(
                f"{directory.name}: {name} is stored as {stored.get_dtype()}, quantised: take the bfloat16 checkpoint"
            )
        if tuple(stored.get_shape()) != tuple(parameter.shape):
            raise ValueError(
                f"{directory}/{path}: {name} has shape {stored.get_shape()}, config.json says {list(parameter.shape)}"
            )
        if local.numel():
            local.copy_(stored[rows].to(local.dtype))


def _own_rows(parameter: Tensor) -> tuple[Tensor, slice]:
    """This rank's shard and which rows of the whole it is (FSDP2 shards the first dimension in chunks)."""
    if not isinstance(parameter, DTensor):
        return parameter.detach(), slice(None)
    mesh = parameter.device_mesh
    chunk = -(-parameter.shape[0] // mesh.size())
    local = parameter.to_local().detach()
    start = min(mesh.get_local_rank() * chunk, parameter.shape[0])
    return local, slice(start, start + local.shape[0])


def _weight_files(directory: Path) -> dict[str, str]:
    from safetensors import safe_open

    index = directory / "model.safetensors.index.json"
    if index.exists():
        return dict(json.loads(index.read_text())["weight_map"])
    files: dict[str, str] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as handle:
            files.update(dict.fromkeys(handle.keys(), path.name))
    if not files:
        raise FileNotFoundError(f"{directory} holds no .safetensors file: export the model in that format first")
    return files


def stored_parameters(model: nn.Module) -> list[tuple[str, str, Tensor]]:
    """Name in the Hugging Face layout, name here, and (sharded) parameter, of all that an exported model holds."""
    return [(adapters.stored_name(n), n, p) for n, p in model.named_parameters() if not adapters.is_adapter(n)]


@torch.no_grad()
def whole_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each of them gathered from all ranks, one at a time, adapters merged. Every rank must iterate."""
    for stored, name, parameter in stored_parameters(model):
        yield stored, adapters.merged(model, name, adapters.whole(parameter))
