"""Fine-tuning on a CUDA device against float32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

from transformers import Qwen2Config  # noqa: E402

from thinkscale.domain.campaign import Train  # noqa: E402
from thinkscale.learn import attention  # noqa: E402
from thinkscale.learn.checkpoint import CheckpointFolder  # noqa: E402
from thinkscale.learn.loop import fit  # noqa: E402
from thinkscale.learn.masking import Sample  # noqa: E402
from thinkscale.learn.model import PackedCausalLM, build_model  # noqa: E402

CONFIG = Qwen2Config(
    hidden_size=512,
    intermediate_size=1024,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=1000,
    tie_word_embeddings=True,
)


def relative_error(got: Any, expected: Any) -> float:
    return float((got.float().cpu() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("kernel", ["FA2", "FA4"])
def test_attention_and_its_gradients_are_those_of_each_segment_alone(kernel: attention.Kernel) -> None:
    if kernel == "FA4":
        pytest.importorskip("flash_attn.cute")
    attention.use_kernel(kernel)
    torch.manual_seed(0)
    lengths = [5, 300, 1, 718]
    total = sum(lengths)
    leaves = [torch.randn(1, heads, total, 128, dtype=torch.bfloat16) for heads in (4, 2, 2)]
    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    upstream = torch.randn(1, total, 4, 128, dtype=torch.bfloat16)
    results = []
    for device in ("cpu", "cuda"):
        q, k, v = (x.to(device).requires_grad_() for x in leaves)
        out, _ = attention.attend(
            torch.nn.Identity(), q, k, v, None,
            scaling=0.1, cu_seq_lens_q=bounds.to(device),
        )  # fmt: skip
        results.append([out, *torch.autograd.grad(out, (q, k, v), upstream.to(device))])
    attention.use_kernel("FA2")
    for expected, got in zip(*results, strict=True):
        assert relative_error(got, expected) < 1e-2


def make_samples() -> list[Sample]:
    random = np.random.default_rng(0)
    return [
        Sample(question_id=str(i), ids=random.integers(0, 1000, size=n).astype(np.int32), loss_from=3)
        for i, n in enumerate((40, 300, 120, 513, 77, 204, 31, 1400))
    ]


SETTINGS = Train(epochs=2, batch_sequences=4, learning_rate=1e-3, pack_tokens=512, checkpoint_every_steps=2)


def make_model(device: str, settings: Train) -> PackedCausalLM:
    """The same random weights every time; of adapters, both factors."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(CONFIG, settings, device=torch.device(device))
    for name, parameter in model.named_parameters():
        random = torch.randn(parameter.shape, generator=generator) * 0.02
        with torch.no_grad():
            parameter.to_local().copy_(torch.ones_like(random) if "norm" in name else random)  # type: ignore[attr-defined]
    return model


def curve(model: PackedCausalLM, settings: Train, folder: CheckpointFolder | None = None) -> list[tuple[float, float]]:
    return [(m.loss, m.grad_norm) for m in fit(model, make_samples(), settings, checkpoints=folder)]


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_loss_curve_in_bfloat16_follows_float32_on_the_cpu(compiled: bool, share: float, lora_rank: int) -> None:
    common = SETTINGS.model_copy(update={"checkpoint_layers": share, "lora_rank": lora_rank})
    exact = common.model_copy(update={"compute_dtype": "float32"})
    expected = curve(make_model("cpu", exact), exact)
    settings = common.model_copy(update={"compile": compiled})
    np.testing.assert_allclose(curve(make_model("cuda", settings), settings), expected, rtol=2e-2)


def test_float32_on_the_gpu_is_float32_on_the_cpu() -> None:
    exact = SETTINGS.model_copy(update={"compute_dtype": "float32"})
    np.testing.assert_allclose(
        curve(make_model("cuda", exact), exact), curve(make_model("cpu", exact), exact), rtol=1e-3
    )


def test_a_run_resumes_from_a_checkpoint_that_was_written_beside_it(tmp_path: Path) -> None:
    undisturbed = curve(make_model("cuda", SETTINGS), SETTINGS)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(tmp_path), asynchronous=True)
    np.testing.assert_allclose(curve(make_model("cuda", SETTINGS), SETTINGS, folder), undisturbed, rtol=1e-3)
    assert folder.steps() == [2]
    # The first two steps come from the checkpoint's history, the others are trained again.
    np.testing.assert_allclose(curve(make_model("cuda", SETTINGS), SETTINGS, folder), undisturbed, rtol=1e-3)


def test_one_process_writes_many_asynchronous_checkpoints(tmp_path: Path) -> None:
    """Sums in bfloat16 differ from run to run there by some 0.2%."""
    settings = SETTINGS.model_copy(update={"epochs": 3, "checkpoint_every_steps": 1})
    undisturbed = curve(make_model("cuda", settings), settings)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(tmp_path), asynchronous=True)
    np.testing.assert_allclose(curve(make_model("cuda", settings), settings, folder), undisturbed, rtol=1e-2)
    assert len(undisturbed) == 6
    assert folder.steps() == [4, 5]  # a checkpoint before each step but the first, of which the last two are kept
    resumed = curve(make_model("cuda", settings), settings, folder)
    np.testing.assert_allclose(resumed, undisturbed, rtol=1e-2)
