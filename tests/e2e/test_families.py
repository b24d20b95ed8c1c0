"""Every family that is trained: three steps, then the export says in transformers and in vLLM what training says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from thinkscale.domain.campaign import Train
from thinkscale.learn.export import export_weights
from thinkscale.learn.loop import fit
from thinkscale.learn.masking import Sample
from thinkscale.learn.model import load_model
from thinkscale.learn.packing import row
from tiny_families import CONFIGS, SERVED, save_base

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'thinkscale[vllm]'")
pytestmark = pytest.mark.vllm
PROMPT, LENGTH, EOS = [7, 19, 33, 2, 11], 24, [5, 60]
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
root, prompt, length, *families = sys.argv[1:]
found = {}
for family in families:
    options = {"dtype": "float32", "max_model_len": 64, "enforce_eager": True, "skip_tokenizer_init": True}
    engine = LLM(f"{root}/{family}", **options)
    greedy = SamplingParams(temperature=0.0, max_tokens=int(length), ignore_eos=True, detokenize=False)
    (output,) = engine.generate([{"prompt_token_ids": json.loads(prompt)}], greedy, use_tqdm=False)
    found[family] = list(output.outputs[0].token_ids)
    engine.llm_engine.engine_core.shutdown()
    del engine
open(f"{root}/found.json", "w").write(json.dumps(found))
"""


def greedy(logits: Any) -> list[int]:
    ids = list(PROMPT)
    for _ in range(LENGTH):
        with torch.no_grad():
            ids.append(int(logits(np.array(ids)).argmax()))
    return ids[len(PROMPT) :]


def test_an_export_of_every_family_says_the_same_everywhere(tmp_path: Path) -> None:
    settings = Train(epochs=1, batch_sequences=4, learning_rate=1e-2, compute_dtype="float32")
    random, expected = np.random.default_rng(0), {}
    samples = [
        Sample(
            question_id=str(i), ids=random.integers(0, SERVED["vocab_size"] - 8, size=30).astype(np.int32), loss_from=3
        )
        for i in range(12)
    ]  # the last rows of the vocabulary are padding
    for family in CONFIGS:
        base = save_base(tmp_path / "base" / family, family, SERVED)
        model = load_model(base, settings, device=torch.device("cpu"))
        assert len(fit(model, samples, settings)) == 3
        export = tmp_path / "exports" / family
        export.mkdir(parents=True)
        export_weights(model, base, export, lambda path: None, eos_ids=EOS)

        def trained(ids: Any, model: Any = model) -> torch.Tensor:
            sample = Sample(question_id="", ids=np.append(ids, 0).astype(np.int32), loss_from=1)
            return model(row([sample]))[-1]

        exported = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
        assert exported.generation_config.eos_token_id[: len(EOS)] == EOS
        expected[family] = greedy(trained)
        assert greedy(lambda ids, m=exported: m(torch.from_numpy(ids)[None]).logits[0, -1]) == expected[family], family
    environment = {
        **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", GENERATE, str(tmp_path / "exports"), json.dumps(PROMPT), str(LENGTH)]
    command += CONFIGS
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    assert json.loads((tmp_path / "exports" / "found.json").read_text()) == expected
