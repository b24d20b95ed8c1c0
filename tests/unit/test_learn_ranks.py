"""Several ranks without Ray: the same loss curve as one, sharded, sharing rows, and resumed on another number."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from transformers import AutoModelForCausalLM, LlamaConfig

from thinkscale.domain.campaign import Train
from thinkscale.learn.checkpoint import CheckpointFolder
from thinkscale.learn.export import export_weights
from thinkscale.learn.loop import fit
from thinkscale.learn.masking import Sample
from thinkscale.learn.model import PackedCausalLM, UnsupportedModelError, load_model, whole_parameters

CPU = torch.device("cpu")
SETTINGS = Train(
    epochs=2, batch_sequences=4, learning_rate=1e-2, compute_dtype="float32", checkpoint_layers=0.4, pack_tokens=40,
    checkpoint_every_steps=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=61, tie_word_embeddings=True,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("base")
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    return directory


def make_samples() -> list[Sample]:
    random = np.random.default_rng(0)
    return [
        Sample(question_id=f"q{i}", ids=random.integers(0, 61, size=n).astype(np.int32), loss_from=1 + i % 4)
        for i, n in enumerate((9, 30, 12, 75, 5, 21, 17, 33, 8))
    ]


ADAPTED = SETTINGS.model_copy(update={"lora_rank": 3})


def run_rank(rank: int, ranks: int, base: Path, directory: Path) -> None:
    """Three runs in one process, for importing takes longest."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=ranks)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(directory / "checkpoints"), asynchronous=True)
    curves: dict[str, list[Any]] = {}

    def run(name: str, settings: Train, *, context_parallel: int = 1, stop_after: int = 0) -> PackedCausalLM:
        curves[name] = []

        def on_step(metrics: Any) -> None:
            curves[name].append([metrics.loss, metrics.grad_norm])
            if metrics.step == stop_after:
                raise KeyboardInterrupt

        model = load_model(base, settings, device=CPU, context_parallel=context_parallel)
        with contextlib.suppress(KeyboardInterrupt):
            fit(model, make_samples(), settings, checkpoints=folder if stop_after else None, on_step=on_step)
        return model

    run("sharing", SETTINGS, context_parallel=2)
    run("stopped", SETTINGS, stop_after=5)
    folder.finish()
    export_weights(run("adapted", ADAPTED), base, directory, lambda path: None)
    if rank == 0:
        (directory / "curves.json").write_text(json.dumps(curves))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(run_rank, (2, base, directory), nprocs=2)
    return directory, json.loads((directory / "curves.json").read_text())


def train_alone(
    base: Path, settings: Train, folder: CheckpointFolder | None = None
) -> tuple[list[list[float]], PackedCausalLM]:
    model = load_model(base, settings, device=CPU)
    return [[m.loss, m.grad_norm] for m in fit(model, make_samples(), settings, checkpoints=folder)], model


@pytest.fixture(scope="module")
def alone(base: Path) -> list[list[float]]:
    return train_alone(base, SETTINGS)[0]


def test_two_ranks_that_share_every_row_have_the_loss_curve_of_one(two_ranks: Any, alone: Any) -> None:
    np.testing.assert_allclose(two_ranks[1]["sharing"], alone, rtol=1e-4)


def test_a_run_of_two_ranks_resumes_on_one_with_the_same_loss_curve(base: Path, two_ranks: Any, alone: Any) -> None:
    directory, curves = two_ranks
    np.testing.assert_allclose(curves["stopped"], alone[:5], rtol=1e-4)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(directory / "checkpoints"))
    assert folder.steps() == [2, 4]
    np.testing.assert_allclose(train_alone(base, SETTINGS, folder)[0], alone, rtol=1e-4)


def test_two_ranks_train_and_export_the_adapters_of_one(base: Path, two_ranks: Any) -> None:
    directory, curves = two_ranks
    curve, model = train_alone(base, ADAPTED)
    np.testing.assert_allclose(curves["adapted"], curve, rtol=1e-4)
    exported = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    for name, weight in whole_parameters(model):
        torch.testing.assert_close(exported[name], weight, atol=1e-4, rtol=1e-3)


def test_heads_that_cannot_be_shared_are_refused(base: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="context_parallel = 4 does not divide the model's 2"):
        load_model(base, SETTINGS, device=CPU, context_parallel=4)
