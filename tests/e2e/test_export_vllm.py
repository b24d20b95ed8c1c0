"""The real vLLM continues from an exported model as the trained one would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from thinkscale.domain.campaign import Train
from thinkscale.learn.export import export_weights
from thinkscale.learn.loop import fit
from thinkscale.learn.masking import Sample
from thinkscale.learn.model import load_model
from thinkscale.learn.packing import row
from tiny_model import write_tiny_model

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'thinkscale[vllm]'")
pytestmark = pytest.mark.vllm

PROMPTS = [[72, 101, 108, 108, 111], [50, 43, 50, 61]]
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
engine = LLM(sys.argv[1], dtype="float32", max_model_len=256, enforce_eager=True)
greedy = SamplingParams(temperature=0.0, max_tokens=80, ignore_eos=True, logprobs=0)
outputs = engine.generate([{"prompt_token_ids": ids} for ids in json.loads(sys.argv[2])], greedy, use_tqdm=False)
found = [[[i, step[i].logprob] for i, step in zip(o.outputs[0].token_ids, o.outputs[0].logprobs)] for o in outputs]
open(sys.argv[3], "w").write(json.dumps(found))
"""


def test_vllm_continues_an_export_with_the_tokens_and_log_probabilities_of_training(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base")
    settings = Train(epochs=3, batch_sequences=4, learning_rate=3e-3, compute_dtype="float32")
    random = np.random.default_rng(0)
    samples = [
        Sample(question_id=str(i), ids=random.integers(0, 256, size=40).astype(np.int32), loss_from=8) for i in range(8)
    ]
    model = load_model(base, settings, device=torch.device("cpu"))
    fit(model, samples, settings)
    export = tmp_path / "export"
    export.mkdir()
    export_weights(model, base, export, lambda path: None)
    environment = {
        **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", GENERATE, str(export), json.dumps(PROMPTS), str(tmp_path / "found.json")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    for prompt, steps in zip(PROMPTS, json.loads((tmp_path / "found.json").read_text()), strict=True):
        ids = [i for i, _ in steps]
        whole = Sample(question_id="", ids=np.array(prompt + ids, dtype=np.int32), loss_from=len(prompt))
        with torch.no_grad():
            expected = model(row([whole])).log_softmax(dim=1)[len(prompt) - 1 :]
        assert expected.argmax(dim=1).tolist() == ids
        trained = expected[range(len(ids)), ids]
        np.testing.assert_allclose([logprob for _, logprob in steps], trained, atol=1e-4)
