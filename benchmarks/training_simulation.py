"""How long s1's fine-tuning of a 32B model takes on 16 H100, from rates measured on one.

    python benchmarks/training_simulation.py

Method. 1,000 samples with log-normal lengths of s1K's mean (4,690 tokens; sigma 0.6 is assumed: the real lengths
are not at hand) are put into the very batches and rows that `learn.packing` makes. A rank's row costs its matrix
products (6ND) and its causal attention, each at the rate that `training.py` measured on one H100 (everything
element-wise and the gaps between kernels are in the former's), plus what `learn.recompute` computes again. Rows run
in lock-step: each lasts as long as the slowest rank's, or as the gathering of weights (twice, bfloat16) and the
reduction of gradients (float32) behind it where that is longer; one layer's gathering at the start and one layer's
reduction at the end of a row are never hidden. The optimizer step reads and writes its state once at the measured
share of memory bandwidth. A checkpoint every 50 steps stalls for the copy to host memory; its upload is hidden.
Context parallelism by g (`resources.context_parallel`) is simulated as groups of g ranks that work g times as fast at
an assumed efficiency of 0.92 (its all-to-alls move 26 GB a GPU and step: 4% of the step at 300 GB/s); it was not
measured on several GPUs. Of all row lengths and shares of recomputed layers the fastest that fits the memory is
taken; the same estimate of memory gives 71.2 GiB for the measured 3B run, which took 71.0. Loading, compiling
(about a minute) and the export are not counted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recording import record
from thinkscale.learn import packing
from thinkscale.learn.arithmetic import PEAK_FLOPS, matrix_parameters, model_flops, training_gib
from thinkscale.learn.recompute import Recompute, head_size, plan

RESULTS = Path(__file__).parent / "results"
GOAL_MINUTES = 9.0
PAPER_MINUTES = 26.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Two hosts of eight H100, as AWS p5."""

    gpus: int = 16
    matrix_flops: float
    """FLOP/s that 6ND reaches on one GPU, element-wise work, loss and gaps included."""
    attention_flops: float
    """FLOP/s that causal attention reaches, forward and backward together."""
    gather_bytes_per_s: float = 150e9
    """Bus bandwidth of an all-gather or reduce-scatter over both hosts: NVLink within, 3.2 Tb/s = 400 GB/s a host
    between, of which so much is assumed at the half to one GB of a layer's message; not measured."""
    memory_bytes_per_s: float = 2.4e12
    host_copy_bytes_per_s: float = 20e9
    memory_gib: float = 74.0
    """Of 80 GB, what the allocator may hold: CUDA's context and NCCL's buffers take the rest."""


def qwen_32b() -> tuple[Any, int]:
    """Qwen2.5-32B's shape, and its number of weights."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        hidden_size=5120,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        intermediate_size=27648,
        vocab_size=152064,
        tie_word_embeddings=False,
    )
    return config, 32_763_876_352


def s1_lengths(count: int, mean: float, longest: int, seed: int = 0) -> list[int]:
    """Log-normal with sigma 0.6, scaled to the mean after the cut: 16 of them have a maximum of 9K to 32K."""
    lengths = np.minimum(np.random.default_rng(seed).lognormal(0.0, 0.6, count), 12)
    return [int(min(longest, n)) for n in lengths / lengths.mean() * mean]


def fastest(cluster: Cluster, context_parallel: int) -> dict[str, Any]:
    """Over row lengths and shares of recomputed layers."""
    runs = (
        simulate(cluster, pack_tokens=pack, share=share, context_parallel=context_parallel)
        for pack in range(2048, 12289, 2048)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return min((run for run in runs if run), key=lambda run: run["minutes"])


def needed(cluster: Cluster, goal_minutes: float) -> dict[str, Any]:
    """The rates at which the goal would be met, both of them raised by the same factor."""
    low, high = 1.0, 4.0
    while high - low > 0.005:
        factor = (low + high) / 2
        low, high = (low, factor) if fastest(scaled(cluster, factor), 8)["minutes"] <= goal_minutes else (factor, high)
    run = fastest(scaled(cluster, high), 8)
    return {
        "matrix_tflop_per_s": round(high * cluster.matrix_flops / 1e12),
        "attention_tflop_per_s": round(high * cluster.attention_flops / 1e12),
        "whole_run": run,
    }


def scaled(cluster: Cluster, factor: float) -> Cluster:
    return replace(
        cluster, matrix_flops=factor * cluster.matrix_flops, attention_flops=factor * cluster.attention_flops
    )


def simulate(
    cluster: Cluster, *, pack_tokens: int, share: float, context_parallel: int = 1, efficiency: float = 0.92
) -> dict[str, Any] | None:
    """Minutes of the whole run by what they go to; None where it does not fit a GPU's memory.

    Args:
        share: train.checkpoint_layers.
        context_parallel: ranks that share one row.
        efficiency: of such a group against as many separate GPUs.
    """
    config, parameters = qwen_32b()
    width = head_size(config) * config.num_attention_heads
    layers, matrix = config.num_hidden_layers, matrix_parameters(config, parameters)
    lengths = s1_lengths(1000, 4690, 32768)
    groups = cluster.gpus // context_parallel
    memory = training_gib(config, parameters, cluster.gpus, pack_tokens=pack_tokens, share=share)
    if memory > cluster.memory_gib:
        return None
    speed = context_parallel * (efficiency if context_parallel > 1 else 1.0)
    shard = parameters / cluster.gpus
    gather_s = 2 * (parameters - shard) / cluster.gather_bytes_per_s  # bfloat16
    reduce_s = 4 * (parameters - shard) / cluster.gather_bytes_per_s  # float32
    behind_row_s = 2 * gather_s + reduce_s
    exposed_s = (gather_s + reduce_s) / layers
    layer_forward = 2 * (matrix - config.vocab_size * config.hidden_size) / layers
    feed_forward_share = 3 * config.intermediate_size * config.hidden_size / (layer_forward / 2)

    def row_s(row: list[int]) -> float:
        """Compute time of one row of samples of these lengths."""
        tokens, squares = sum(row), sum(n * n for n in row)
        if not tokens:
            return 0.0
        modes = plan(config, tokens, full_row_tokens=pack_tokens * context_parallel, share=share)
        again_ff, again_all = modes.count(Recompute.FEED_FORWARD), modes.count(Recompute.ALL)
        matrix_flops = 6 * matrix * tokens + layer_forward * tokens * (again_ff * feed_forward_share + again_all)
        attention_flops = 6 * layers * width * squares + 2 * width * squares * again_all
        return float(matrix_flops / cluster.matrix_flops + attention_flops / cluster.attention_flops) / speed

    compute = balanced = exposed = total = 0.0
    steps = 0
    for epoch in range(5):
        for batch in packing.batches(len(lengths), 16, epoch=epoch, seed=0):
            tokens = [lengths[i] for i in batch]
            costs = [row_s([n]) for n in tokens]
            rows = packing.pack(costs, tokens, ranks=groups, pack_tokens=pack_tokens * context_parallel)
            for step in range(len(rows[0])):
                times = [row_s([tokens[i] for i in of_rank[step]]) for of_rank in rows]
                compute += max(times)
                balanced += sum(times) / groups
                exposed += max(0.0, behind_row_s - max(times)) + exposed_s
                total += max(max(times), behind_row_s) + exposed_s
            total += 30 * shard / cluster.memory_bytes_per_s
            steps += 1
    checkpoints = steps // 50
    total += checkpoints * 12 * shard / cluster.host_copy_bytes_per_s
    flops = 5 * model_flops(lengths, config, parameters)
    return {
        "pack_tokens": pack_tokens,
        "checkpoint_layers": share,
        "context_parallel": context_parallel,
        "gather_gb_per_s": cluster.gather_bytes_per_s / 1e9,
        "memory_gib": round(memory, 1),
        "minutes": round(total / 60, 2),
        "mfu": round(flops / total / cluster.gpus / PEAK_FLOPS["H100"], 4),
        "compute_minutes": round(balanced / 60, 2),
        "waiting_for_the_longest_row_minutes": round((compute - balanced) / 60, 2),
        "exposed_communication_minutes": round(exposed / 60, 2),
        "steps": steps,
        "tokens": 5 * sum(lengths),
        "longest": max(lengths),
    }


def without_gaps(measured: dict[str, Any]) -> float:
    """FLOP/s of 6ND by the measured step's kernels alone, element-wise work shrunk to a layer 2.5 times as wide.

    Matrix products grow with the width's square and element-wise work with the width. Nobody measured this.
    """
    kinds = measured["breakdown"]["by_kind_ms"]
    narrower = 2048 / 5120
    wide_s = kinds["matrix products"] / 1e3
    thin_s = (kinds["fused element-wise"] + kinds["other element-wise"]) / 1e3 * narrower
    timed_s = (measured["breakdown"]["step_ms"] - kinds["attention"]) / 1e3
    return float(measured["rates"]["matrix_tflop_per_s"] * 1e12 * timed_s / (wide_s + thin_s))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    measured = json.loads((RESULTS / "training_mfu.json").read_text())
    rates = {name: value * 1e12 for name, value in measured["rates"].items()}
    cluster = Cluster(matrix_flops=rates["matrix_tflop_per_s"], attention_flops=rates["attention_tflop_per_s"])
    runs = [fastest(cluster, g) for g in (1, 2, 4, 8)]
    best = min(runs, key=lambda run: run["minutes"])
    hoped = replace(cluster, matrix_flops=without_gaps(measured))
    record(
        "training_simulation",
        what="simulated minutes of s1's fine-tuning (Qwen2.5-32B, 1,000 samples, 5 epochs) on 16 H100",
        value=best["minutes"],
        unit="minutes",
        baseline=f"the paper's {PAPER_MINUTES:g} minutes on 16 H100",
        ratio=round(PAPER_MINUTES / best["minutes"], 2),
        goal=GOAL_MINUTES,
        best=best,
        runs=runs,
        needed_for_the_goal={
            f"at {gb} GB/s": needed(replace(cluster, gather_bytes_per_s=gb * 1e9), GOAL_MINUTES) for gb in (150, 300)
        },
        hoped_for={
            "what": "the measured kernels without gaps, element-wise work as on layers 2.5 times as wide; not measured",
            "matrix_tflop_per_s": round(hoped.matrix_flops / 1e12, 1),
            "runs": [fastest(replace(hoped, gather_bytes_per_s=gb * 1e9), 8) for gb in (150, 300)],
        },
        assumptions=asdict(cluster),
        method=(__doc__ or "").split("Method. ")[1].replace("\n", " ").strip(),
    )


if __name__ == "__main__":
    main()
