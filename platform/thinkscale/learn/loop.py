"""The training loop: optimizer steps over packed batches, with the paper's optimizer and schedule.
Owns the learning rate by step, a step's arithmetic, its metrics, and when to checkpoint. Runs on one process or on
every rank of a process group, on CPUs and GPUs alike; knows no Ray and no artifact."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from thinkscale.domain.campaign import Train
from thinkscale.learn import packing
from thinkscale.learn.arithmetic import model_flops, peak_flops
from thinkscale.learn.masking import Sample
from thinkscale.learn.model import PackedCausalLM

if TYPE_CHECKING:
    from thinkscale.learn.checkpoint import CheckpointFolder

PAD_MULTIPLE = 128  # on GPUs rows are padded to whole tiles of a matrix product


class StoppedError(RuntimeError):
    """Training was asked to stop; the step that it stopped after is saved."""


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient is NaN or infinite; the message names the step and its samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """One optimizer step, over all ranks."""

    step: int  # steps done, this one included
    steps: int
    epoch: float
    loss: float  # mean over the batch's tokens that have a loss, in nats
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # input tokens of the batch, padding not counted
    seconds: float
    ranks: int
    mfu: float | None  # model FLOP/s over the devices' peak; None where that is not known

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def total_steps(samples: int, settings: Train) -> int:
    return settings.epochs * math.ceil(samples / settings.batch_sequences)


def fit(
    model: PackedCausalLM,
    samples: Sequence[Sample],
    settings: Train,
    *,
    checkpoints: CheckpointFolder | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[StepMetrics]:
    """Fine-tune in place, from the newest checkpoint where there is one.
    Every rank calls it with the same samples. Their order depends on `settings.seed` alone, so that a resumed run, on
    however many ranks, sees what an undisturbed one would. `should_stop`: asked after every step; a yes on any rank
    stops all, once they have saved. Returns every step's metrics, those before a resume included. Raises
    NonFiniteLossError: the weights are as before that step, and checkpoints whole; StoppedError: as `should_stop`."""
    optimizer = make_optimizer(model, settings)
    history = checkpoints.load_latest(model, optimizer) if checkpoints else []
    steps = total_steps(len(samples), settings)
    per_epoch = steps // settings.epochs
    for step in range(len(history), steps):
        epoch, place = divmod(step, per_epoch)
        chosen = packing.batches(len(samples), settings.batch_sequences, epoch=epoch, seed=settings.seed)[place]
        peak, warmup = settings.learning_rate, settings.warmup_share
        rate = learning_rate_at(step, steps=steps, peak=peak, warmup_share=warmup)
        batch = [samples[i] for i in chosen]
        try:
            metrics = train_step(model, optimizer, batch, settings, step=step, steps=steps, learning_rate=rate)
        except NonFiniteLossError:
            if checkpoints:
                checkpoints.finish()
            raise
        history.append(metrics)
        stopping = should_stop is not None and metrics.step < steps and _on_any_rank(should_stop(), model.device)
        due = metrics.step % settings.checkpoint_every_steps == 0 and metrics.step < steps
        if checkpoints and (due or stopping):
            checkpoints.save(model, optimizer, history)
        if on_step:
            on_step(metrics)
        if stopping:
            if checkpoints:
                checkpoints.finish()
            saved = ", which is saved" if checkpoints else ""
            raise StoppedError(f"stopped after step {metrics.step} of {steps}{saved}")
    if checkpoints:
        checkpoints.finish()
    return history


def _on_any_rank(flag: bool, device: torch.device) -> bool:
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def make_optimizer(model: torch.nn.Module, settings: Train) -> torch.optim.AdamW:
    """AdamW over the float32 master weights that are trained; norms and biases do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay}
    vectors = {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}
    return torch.optim.AdamW([matrices, vectors], lr=settings.learning_rate, betas=settings.betas, fused=True)


def train_step(
    model: PackedCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Sample],
    settings: Train,
    *,
    step: int,
    steps: int,
    learning_rate: float,
) -> StepMetrics:
    """One optimizer step over a global batch, of which this rank computes its packed rows.
    The loss is the mean over all loss tokens of the global batch, wherever they are computed."""
    began = time.perf_counter()
    ranks, rank, group = dist.get_world_size(), dist.get_rank(), model.row_group
    cuda = model.device.type == "cuda"
    flops = [model_flops([s.input_tokens], model.config, model.parameter_count, model.frozen_count) for s in batch]
    lengths, pack_tokens = [s.input_tokens for s in batch], settings.pack_tokens * group.size
    rows = packing.pack(flops, lengths, ranks=ranks // group.size, pack_tokens=pack_tokens)[rank // group.size]
    # FSDP averages gradients over ranks; the mean is over the batch's tokens, so undo that here.
    scale = ranks / sum(s.loss_tokens for s in batch)
    loss = torch.zeros((), device=model.device)
    for place, row in enumerate(rows, 1):
        arrays = packing.row([batch[i] for i in row], multiple_of=group.size * (PAD_MULTIPLE if cuda else 1))
        model.set_accumulating(place < len(rows))
        part = model(arrays.slice(group.index, group.size), scale)
        part.backward()
        loss += part.detach() / ranks
    dist.all_reduce(loss)
    norm = clip_gradients(model, settings.max_grad_norm)
    loss_value, norm_value = loss.item(), norm.item()
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        ids = ", ".join(s.question_id for s in batch)
        raise NonFiniteLossError(
            f"step {step + 1} of {steps}: loss {loss_value}, gradient norm {norm_value}. The batch's questions: {ids}. "
            "The last checkpoint is intact; look at these traces, or lower train.learning_rate."
        )
    for parameters in optimizer.param_groups:
        parameters["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    peak = peak_flops(torch.cuda.get_device_name(model.device)) if cuda else None
    return StepMetrics(
        step=step + 1,
        steps=steps,
        epoch=settings.epochs * (step + 1) / steps,
        loss=loss_value,
        learning_rate=learning_rate,
        grad_norm=norm_value,
        tokens=sum(s.input_tokens for s in batch),
        seconds=seconds,
        ranks=ranks,
        mfu=sum(flops) / seconds / ranks / peak if peak else None,
    )


@torch.no_grad()
def clip_gradients(model: torch.nn.Module, max_norm: float) -> torch.Tensor:
    """Scale all gradients so that their global norm is at most `max_norm`; returns the norm before."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    local = [g.to_local() if isinstance(g, DTensor) else g for g in grads]
    # One reduction for all parameters instead of one each.
    squares = torch.stack(torch._foreach_norm(local)).square().sum()
    dist.all_reduce(squares)
    norm = squares.sqrt()
    torch._foreach_mul_(local, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def learning_rate_at(step: int, *, steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up to `peak` over `warmup_share` of the steps, then cosine to 0.
    `step`: from 0. The warm-up's first step already learns: it has the rate peak / warm-up steps."""
    warmup = math.ceil(steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
