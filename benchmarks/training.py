"""How much of a GPU's peak a fine-tuning step uses, on samples of s1-like lengths. Needs no Ray.

    python benchmarks/training.py --shape 3b --pack 8192 --compile --out results.json

Times whole passes over the samples (batches of 16 sequences, AdamW in float32) after a warm-up pass, and
breaks one pass down by kernel. `--peer` times transformers' Trainer on the same samples instead. `--gpus 2`
times one GPU and then two (FSDP, twice the sequences a step) and gives what each does of one's rate:

    python benchmarks/training.py --shape 3b --pack 8192 --compile --gpus 2 --out scaling.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from thinkscale.domain.campaign import Train
from thinkscale.learn import attention
from thinkscale.learn.arithmetic import model_flops, peak_flops
from thinkscale.learn.loop import make_optimizer, train_step
from thinkscale.learn.masking import Sample
from thinkscale.learn.model import PackedCausalLM, build_model
from thinkscale.learn.packing import batches

FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    name: dict(zip(FIELDS, values, strict=True))
    for name, values in {
        "tiny": (128, 2, 2, 1, 256, 1000),
        "0.5b": (896, 24, 14, 2, 4864, 151936),
        "1.5b": (1536, 28, 12, 2, 8960, 151936),
        "3b": (2048, 36, 16, 2, 11008, 151936),
    }.items()
}
"""Qwen2.5's shapes of these sizes, with tied embeddings."""
BATCH = 16
"""Sequences of an optimizer step on each GPU."""


def make_config(shape: str) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        **SHAPES[shape],
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )


def make_samples(count: int, vocabulary: int, longest: int) -> list[Sample]:
    """Log-normal lengths, mean 4.9K, at most 16K, as s1's traces have; every token has a loss."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.exp(torch.randn(count, generator=generator) * 0.75 + math.log(3600)).clamp(300, 16000)
    lengths = (lengths * longest / 16000).long()
    random = np.random.default_rng(0)
    return [
        Sample(question_id=str(i), ids=random.integers(0, vocabulary, size=n + 1).astype(np.int32), loss_from=1)
        for i, n in enumerate(lengths.tolist())
    ]


def random_model(config: Any, settings: Train, device: torch.device) -> PackedCausalLM:
    model = build_model(config, settings, device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.to_local().fill_(1.0) if "norm" in name else parameter.to_local().normal_(0, 0.02)  # type: ignore[attr-defined]
    return model


def measure(args: argparse.Namespace, device: torch.device, gpus: int = 1) -> dict[str, Any]:
    """One rank's part of the work; what all ranks did is in every rank's result."""
    settings = Train(
        epochs=1,
        batch_sequences=BATCH * gpus,
        pack_tokens=args.pack,
        checkpoint_layers=args.share,
        compile=args.compile,
    )
    kernel = attention.use_kernel(args.attention) if device.type == "cuda" else "cpu"
    config = make_config(args.shape)
    samples = make_samples(args.samples * gpus, config.vocab_size, args.longest)
    model = random_model(config, settings, device)
    optimizer = make_optimizer(model, settings)
    groups = [[samples[i] for i in batch] for batch in batches(len(samples), BATCH * gpus, epoch=0, seed=0)]

    def one_pass(count: int = len(groups)) -> float:
        _synchronize(device)
        began = time.perf_counter()
        for step, batch in enumerate(groups[:count]):
            train_step(model, optimizer, batch, settings, step=step, steps=len(groups), learning_rate=1e-6)
        _synchronize(device)
        return time.perf_counter() - began

    warm_up_s = one_pass()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    passes = [one_pass() for _ in range(args.passes)]
    seconds = float(np.median(passes))
    lengths = [s.input_tokens for s in samples]
    flops = model_flops(lengths, config, model.parameter_count)
    result: dict[str, Any] = {
        "shape": args.shape,
        "gpus": gpus,
        "pack_tokens": args.pack,
        "checkpoint_layers": args.share,
        "compile": args.compile,
        "attention": kernel,
        "samples": len(samples),
        "tokens": sum(lengths),
        "parameters": model.parameter_count,
        "pass_s": [round(s, 3) for s in passes],
        "warm_up_s": round(warm_up_s, 1),
        "tokens_per_s": round(sum(lengths) / seconds),
        "tflop_per_s": round(flops / seconds / 1e12, 1),
    }
    result |= _on_gpu(flops / seconds / gpus)
    if device.type == "cuda" and args.profile:
        result["breakdown"] = _breakdown(lambda: one_pass(1))
    return result


def scaling(args: argparse.Namespace) -> dict[str, Any]:
    """The same work on each of one GPU and of several, in processes of their own."""
    runs = []
    for gpus in (1, args.gpus):
        with tempfile.TemporaryDirectory() as directory:
            multiprocessing.spawn(_rank, (gpus, args, directory), nprocs=gpus)  # type: ignore[attr-defined]
            runs.append(json.loads(Path(directory, "result.json").read_text()))
    one, many = runs
    # By FLOPs, since twice the samples are other samples.
    share = many["tflop_per_s"] / args.gpus / one["tflop_per_s"]
    return {"gpus": args.gpus, "rate_of_each_against_one": round(share, 4), "runs": runs}


def _rank(rank: int, gpus: int, args: argparse.Namespace, directory: str) -> None:
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{directory}/rendezvous", rank=rank, world_size=gpus,
    )  # fmt: skip
    result = measure(args, device, gpus)
    if rank == 0:
        Path(directory, "result.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def _on_gpu(flop_per_s: float) -> dict[str, Any]:
    """MFU and memory, where there is a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {
        "mfu": round(flop_per_s / (peak_flops(torch.cuda.get_device_name()) or math.nan), 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 1),
        "allocation_retries": torch.cuda.memory_stats()["num_alloc_retries"],
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


KINDS = (
    ("attention", ("flash", "Flash", "fmha", "attn")),
    ("matrix products", ("gemm", "nvjet", "xmma", "cutlass", "splitK", "cublas")),
    ("optimizer and clipping", ("adam", "Adam", "multi_tensor", "lpnorm", "LpNorm")),
    ("gathering and reducing", ("nccl", "chunk_cat", "split_with_sizes", "CatArray", "Memcpy", "Memset")),
    ("fused element-wise", ("triton",)),
)


MATRIX_PRODUCTS = {"TN": "forward", "NN": "input gradients", "NT": "weight gradients"}
"""By the transpositions in the names of cuBLAS's kernels for Hopper; the loss's and recomputed ones are in forward."""


def phase(name: str) -> str | None:
    """What a kernel is for, of those whose name says it."""
    if transposed := re.search(r"^nvjet.*_(TN|NN|NT)[NT]$", name):
        return f"matrix products, {MATRIX_PRODUCTS[transposed[1]]}"
    return "attention, forward" if "flash_fwd" in name else "attention, backward" if "flash_bwd" in name else None


def _breakdown(work: Any) -> dict[str, Any]:
    """Milliseconds of device time by kind of kernel over one optimizer step, and of nothing running."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        elapsed_s = work()
    spans: list[tuple[float, float]] = []
    kinds: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for event in profiler.events():
        if str(event.device_type) != "DeviceType.CUDA" or not event.time_range.elapsed_us():
            continue
        kind = next((kind for kind, parts in KINDS if any(part in event.name for part in parts)), "other element-wise")
        kinds[kind] += event.time_range.elapsed_us()
        phases[phase(event.name) or kind] += event.time_range.elapsed_us()
        names[event.name[:90]] += event.time_range.elapsed_us()
        spans.append((event.time_range.start, event.time_range.end))
    busy, until = 0.0, -math.inf
    gaps: dict[str, list[float]] = {f"up to {most} us": [0, 0.0] for most in (10, 100, 1000, 10**6)}
    for start, stop in sorted(spans):
        if start > until > 0:
            bucket = next(name for name in gaps if start - until <= int(name.split()[2]))
            gaps[bucket] = [gaps[bucket][0] + 1, round(gaps[bucket][1] + (start - until) / 1e3, 2)]
        busy += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return {
        "step_ms": round(elapsed_s * 1e3, 1),
        "no_kernel_ms": round(elapsed_s * 1e3 - busy / 1e3, 1),
        "gaps, how many and ms": gaps,
        "by_kind_ms": {kind: round(us / 1e3, 1) for kind, us in kinds.most_common()},
        "by_phase_ms": {name: round(us / 1e3, 1) for name, us in phases.most_common()},
        "largest_ms": {name: round(us / 1e3, 1) for name, us in names.most_common(24)},
    }


def measure_peer(args: argparse.Namespace) -> dict[str, Any]:
    """transformers' Trainer at its best settings that fit: one sample at a time, recomputation, fused kernels."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    config = make_config(args.shape)
    samples = make_samples(args.samples, config.vocab_size, args.longest)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            _synchronize(model.device)
            marks.append(time.perf_counter())

    rows = [{"input_ids": s.ids[:-1].tolist(), "labels": s.ids[:-1].tolist()} for s in samples]
    order = [i for batch in batches(len(rows), BATCH, epoch=0, seed=0) for i in batch]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=BATCH,
            max_steps=4,
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=not args.peer_keep,
            optim="adamw_torch_fused",
            learning_rate=1e-6,
            use_liger_kernel=args.liger,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            max_grad_norm=1.0,
        ),
        train_dataset=[rows[i] for i in order],
        data_collator=lambda batch: {k: torch.tensor([b[k] for b in batch]) for k in batch[0]},
        callbacks=[Clock()],
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(order)  # type: ignore[method-assign]
    trainer.train()
    lengths = [len(rows[i]["input_ids"]) for i in order[16:64]]
    seconds = marks[3] - marks[0]
    flops = model_flops(lengths, config, sum(p.numel() for p in model.parameters()))
    return {
        "peer": "transformers Trainer",
        "liger": args.liger,
        "gradient_checkpointing": not args.peer_keep,
        "shape": args.shape,
        "seconds": round(seconds, 2),
        "tokens": sum(lengths),
        "tokens_per_s": round(sum(lengths) / seconds),
        **_on_gpu(flops / seconds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="3b")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--longest", type=int, default=16000, help="scales all lengths; 16000 is s1-like")
    parser.add_argument("--pack", type=int, default=8192)
    parser.add_argument("--share", type=float, default=0.0, help="train.checkpoint_layers")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--attention", choices=["FA2", "FA4"])
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--liger", action="store_true")
    parser.add_argument("--peer-keep", action="store_true", help="the peer without gradient checkpointing")
    parser.add_argument("--out", type=Path, help="append the result as a JSON line")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = measure_peer if args.peer else scaling if args.gpus > 1 else partial(measure, device=device)
    result = run(args)
    result["torch"] = torch.__version__
    result["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(json.dumps(result), flush=True)
    if args.out:
        with args.out.open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
