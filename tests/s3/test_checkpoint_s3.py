"""Checkpoints on a real S3 server: the newest whole one is resumed, older ones go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from thinkscale.domain.campaign import Train
from thinkscale.learn.checkpoint import CheckpointFolder
from thinkscale.learn.loop import fit
from thinkscale.learn.masking import Sample
from thinkscale.learn.model import load_model
from thinkscale.store.filesystem import Store

CPU = torch.device("cpu")
SETTINGS = Train(
    epochs=4, batch_sequences=2, learning_rate=1e-2, compute_dtype="float32", pack_tokens=40, checkpoint_every_steps=2
)


def test_a_run_resumes_from_s3(s3_root: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=61,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    random = np.random.default_rng(0)
    samples = [
        Sample(question_id=f"q{i}", ids=random.integers(0, 61, size=9 + i).astype(np.int32), loss_from=2)
        for i in range(4)
    ]
    store = Store(s3_root)
    folder = CheckpointFolder(store.fs, store.absolute("tiny/model/checkpoints"), asynchronous=True)

    def stop(metrics: Any) -> None:
        if metrics.step == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(load_model(tmp_path, SETTINGS, device=CPU), samples, SETTINGS, checkpoints=folder, on_step=stop)
    folder.finish()
    assert folder.steps() == [4, 6]
    seen: list[int] = []
    resumed = fit(
        load_model(tmp_path, SETTINGS, device=CPU),
        samples,
        SETTINGS,
        checkpoints=folder,
        on_step=lambda metrics: seen.append(metrics.step),
    )
    assert seen == [7, 8]
    undisturbed = fit(load_model(tmp_path, SETTINGS, device=CPU), samples, SETTINGS)
    np.testing.assert_allclose([m.loss for m in resumed], [m.loss for m in undisturbed], rtol=1e-6)
