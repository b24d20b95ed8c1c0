"""Fine-tuning of tiny random models: packing changes nothing, runs resume, exports are what was trained."""

from __future__ import annotations

import json
import math
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig

from thinkscale.domain.campaign import Train
from thinkscale.learn.arithmetic import model_flops
from thinkscale.learn.checkpoint import CheckpointFolder, SaveError
from thinkscale.learn.export import export_weights
from thinkscale.learn.loop import (
    NonFiniteLossError,
    StoppedError,
    fit,
    learning_rate_at,
    make_optimizer,
    total_steps,
)
from thinkscale.learn.loss import cross_entropy
from thinkscale.learn.masking import Sample
from thinkscale.learn.model import (
    PackedCausalLM,
    UnsupportedModelError,
    load_model,
    read_config,
    whole_parameters,
)
from thinkscale.learn.packing import row
from tiny_families import CONFIGS, save_base

CPU = torch.device("cpu")
torch.set_num_threads(1)  # tensors this small only lose by more
EXACT = Train(epochs=2, batch_sequences=4, learning_rate=1e-2, compute_dtype="float32", checkpoint_layers=0.5)


@pytest.fixture(params=list(CONFIGS))
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_base(tmp_path / "base", request.param)


def make_samples(count: int, seed: int = 0) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [
        Sample(
            question_id=f"q{i}",
            ids=random.integers(0, 61, size=int(random.integers(5, 30))).astype(np.int32),
            loss_from=int(random.integers(1, 5)),
        )
        for i in range(count)
    ]


def gradients(model: PackedCausalLM) -> dict[str, torch.Tensor]:
    return {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}  # type: ignore[attr-defined]


def test_logits_and_gradients_of_a_packed_row_are_those_of_transformers_one_by_one(base: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = load_model(base, EXACT, device=CPU)
    samples = make_samples(5)
    packed = row(samples)
    with torch.no_grad():
        logits = model(packed)
    scale = 1 / sum(s.loss_tokens for s in samples)
    loss = torch.zeros(())
    for sample, start, stop in zip(samples, packed.bounds, packed.bounds[1:], strict=False):
        ids = torch.from_numpy(sample.ids.astype(np.int64))
        alone = reference(ids[None, :-1]).logits[0]
        torch.testing.assert_close(logits[start:stop], alone, atol=2e-5, rtol=1e-4)
        targets = ids[1:].clone()
        targets[: sample.loss_from - 1] = -100
        loss = loss + torch.nn.functional.cross_entropy(alone, targets, reduction="sum") * scale
    loss.backward()
    ours = model(packed, scale)
    ours.backward()
    torch.testing.assert_close(ours, loss)
    expected = dict(reference.named_parameters())
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name].grad, atol=1e-5, rtol=1e-4)


def test_the_loss_curve_is_the_same_packed_unpacked_padded_and_recomputed(tmp_path: Path) -> None:
    base, samples = save_base(tmp_path / "base", "qwen2"), make_samples(10)
    curves = []
    for changes in (
        {},
        {"pack_tokens": 1},
        {"pack_tokens": 40, "checkpoint_layers": 1.0},
        {"pack_tokens": 20, "checkpoint_layers": 0.2},
    ):
        model = load_model(base, EXACT.model_copy(update=changes), device=CPU)
        curves.append([m.loss for m in fit(model, samples, EXACT.model_copy(update=changes))])
    assert len(curves[0]) == 6
    assert curves[0][-1] < curves[0][0]
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=2e-5)
    np.testing.assert_allclose(curves[3], curves[0], rtol=2e-5)


def test_bfloat16_compute_follows_float32(tmp_path: Path) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(8)
    losses = []
    for dtype in ("float32", "bfloat16"):
        settings = EXACT.model_copy(update={"compute_dtype": dtype, "learning_rate": 1e-3})
        losses.append([m.loss for m in fit(load_model(base, settings, device=CPU), samples, settings)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-2)


@pytest.mark.parametrize("chunk_bytes", [4 * 61, 4 * 61 * 3, 1 << 29])
def test_the_chunked_loss_is_the_whole_one(chunk_bytes: int) -> None:
    torch.manual_seed(1)
    hidden, weight = torch.randn(7, 8, requires_grad=True), torch.randn(61, 8, requires_grad=True)
    targets = torch.randint(0, 61, (7,))
    expected = 0.25 * torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    wanted = torch.autograd.grad(expected, (hidden, weight))
    loss = cross_entropy(hidden, weight, targets, 0.25, chunk_bytes=chunk_bytes)
    got = torch.autograd.grad(loss * 3, (hidden, weight))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(got, tuple(3 * g for g in wanted))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("remote", [False, True])
def test_a_resumed_run_goes_on_as_if_undisturbed(tmp_path: Path, remote: bool, asynchronous: bool) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(12)
    settings = EXACT.model_copy(update={"checkpoint_every_steps": 2})
    undisturbed = fit(load_model(base, settings, device=CPU), samples, settings)
    local = pafs.LocalFileSystem()
    fs: Any = pafs.SubTreeFileSystem(str(tmp_path), local) if remote else local
    folder = CheckpointFolder(fs, "checkpoints" if remote else str(tmp_path / "checkpoints"), asynchronous=asynchronous)

    def kill(metrics: Any) -> None:
        if metrics.step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder, on_step=kill)
    folder.finish()
    assert folder.steps() == [2, 4]
    (tmp_path / "checkpoints" / "step-5-1").mkdir()  # one that was being written when its writer died
    seen: list[int] = []
    resumed = fit(
        load_model(base, settings, device=CPU),
        samples,
        settings,
        checkpoints=folder,
        on_step=lambda metrics: seen.append(metrics.step),
    )
    assert seen == [5, 6]
    assert [m.learning_rate for m in resumed] == [m.learning_rate for m in undisturbed]
    np.testing.assert_allclose([m.loss for m in resumed], [m.loss for m in undisturbed], rtol=1e-6)


def test_an_attempt_goes_on_from_anothers_checkpoint_and_leaves_alone_what_that_one_writes_meanwhile(
    tmp_path: Path,
) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(12)
    settings = EXACT.model_copy(update={"checkpoint_every_steps": 1})
    place = tmp_path / "checkpoints"

    def lose_control(metrics: Any) -> None:
        if metrics.step == 4:
            raise KilledError

    first = CheckpointFolder(pafs.LocalFileSystem(), str(place), attempt="aaaaaaaa")
    with pytest.raises(KilledError):
        fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=first, on_step=lose_control)
    assert sorted(path.name for path in place.iterdir()) == ["step-3-aaaaaaaa", "step-4-aaaaaaaa"]
    seen: list[int] = []

    def go_on(metrics: Any) -> None:
        seen.append(metrics.step)
        (place / "step-5-aaaaaaaa").mkdir(exist_ok=True)  # the first one lives, and saves
        (place / "step-5-aaaaaaaa" / ".metadata").touch()

    second = CheckpointFolder(pafs.LocalFileSystem(), str(place), attempt="bbbbbbbb")
    fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=second, on_step=go_on)
    assert seen == [5, 6]
    assert sorted(path.name for path in place.iterdir()) == ["step-4-aaaaaaaa", "step-5-aaaaaaaa", "step-5-bbbbbbbb"]


class SlowFiles(pafs.FSSpecHandler):
    """Local files that are opened for writing only once `let_go` is set."""

    let_go = threading.Event()

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        assert self.let_go.wait(600)
        return super().open_output_stream(path, metadata)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(12)
    settings = EXACT.model_copy(update={"checkpoint_every_steps": 2})
    slow = SlowFiles(LocalFileSystem(auto_mkdir=True))
    folder = CheckpointFolder(pafs.PyFileSystem(slow), str(tmp_path / "checkpoints"), asynchronous=True)
    undisturbed = fit(load_model(base, settings, device=CPU), samples, settings)

    def let_go_and_stop(metrics: Any) -> None:
        if metrics.step == 3:
            assert folder.steps() == []
            slow.let_go.set()
            raise KilledError

    with pytest.raises(KilledError):
        fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder, on_step=let_go_and_stop)
    folder.finish()
    assert folder.steps() == [2]  # and it is the state of step 2, not that of when it was written
    resumed = fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder)
    np.testing.assert_allclose([m.loss for m in resumed], [m.loss for m in undisturbed], rtol=1e-6)


def test_one_process_writes_many_asynchronous_checkpoints_and_each_is_its_own_step(tmp_path: Path) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(12)
    settings = EXACT.model_copy(update={"checkpoint_every_steps": 1, "async_checkpoints": True})
    undisturbed = fit(load_model(base, settings, device=CPU), samples, settings)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(tmp_path / "checkpoints"), asynchronous=True)
    seen: list[list[int]] = []

    def look(metrics: Any) -> None:
        folder.finish()
        seen.append(folder.steps())

    fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder, on_step=look)
    assert len(seen) == 6
    assert seen[4] == [4, 5]  # five saves are done by then, the last two are kept
    resumed = fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder)
    np.testing.assert_allclose([m.loss for m in resumed], [m.loss for m in undisturbed], rtol=1e-6)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_ends_training_with_the_place_the_cause_and_the_last_checkpoint(
    tmp_path: Path, asynchronous: bool
) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(12)
    settings = EXACT.model_copy(update={"checkpoint_every_steps": 2})
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(tmp_path / "checkpoints"), asynchronous=asynchronous)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(metrics: Any) -> None:
        if metrics.step == 3:
            folder.finish()
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    message = r"step 4 cannot be written to .*checkpoints: .*File too large.*step 2 is intact.*run again"
    try:
        with pytest.raises(SaveError, match=message):
            fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.steps() == [2]
    assert not (tmp_path / "checkpoints" / "step-4-0").exists()
    seen: list[int] = []
    fit(
        load_model(base, settings, device=CPU),
        samples,
        settings,
        checkpoints=folder,
        on_step=lambda metrics: seen.append(metrics.step),
    )
    assert seen == [3, 4, 5, 6]


def test_a_run_that_is_asked_to_stop_saves_its_step_and_goes_on_from_it(tmp_path: Path) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(12)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(tmp_path / "checkpoints"), asynchronous=True)
    undisturbed = fit(load_model(base, EXACT, device=CPU), samples, EXACT)
    seen: list[int] = []

    def count(metrics: Any) -> None:
        seen.append(metrics.step)

    with pytest.raises(StoppedError, match="stopped after step 3 of 6, which is saved"):
        fit(
            load_model(base, EXACT, device=CPU), samples, EXACT, checkpoints=folder, on_step=count,
            should_stop=lambda: len(seen) == 2,
        )  # fmt: skip
    resumed = fit(load_model(base, EXACT, device=CPU), samples, EXACT, checkpoints=folder, on_step=count)
    assert seen == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([m.loss for m in resumed], [m.loss for m in undisturbed], rtol=1e-6)


def test_a_loss_that_is_not_finite_stops_with_the_questions_named_and_weights_and_checkpoint_untouched(
    tmp_path: Path,
) -> None:
    base, samples = save_base(tmp_path / "base", "llama"), make_samples(3)
    settings = EXACT.model_copy(update={"epochs": 4, "checkpoint_every_steps": 2})
    model = load_model(base, settings, device=CPU)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(tmp_path / "checkpoints"), asynchronous=True)
    before: dict[str, torch.Tensor] = {}

    def spoil(metrics: Any) -> None:
        if metrics.step == 2:
            with torch.no_grad():
                model.model.norm.weight.to_local().fill_(float("nan"))
            before.update({name: p.clone() for name, p in whole_parameters(model)})

    with pytest.raises(NonFiniteLossError, match=r"step 3 of 4: loss nan.*q[012], q[012], q[012]"):
        fit(model, samples, settings, checkpoints=folder, on_step=spoil)
    for name, after in whole_parameters(model):
        torch.testing.assert_close(after, before[name], equal_nan=True)
    resumed = fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder)
    assert [math.isfinite(m.loss) for m in resumed] == [True] * 4


@pytest.mark.parametrize("file_bytes", [4 << 30, 5000])
def test_the_export_loads_in_transformers_with_the_logits_of_training(
    base: Path, tmp_path: Path, file_bytes: int
) -> None:
    samples = make_samples(6)
    model = load_model(base, EXACT, device=CPU)
    fit(model, samples, EXACT)
    directory = tmp_path / "export"
    directory.mkdir()
    files: list[str] = []
    export_weights(model, base, directory, lambda path: files.append(path.name), file_bytes=file_bytes)
    assert sorted(files) == sorted(path.name for path in directory.iterdir())
    assert ("model.safetensors.index.json" in files) == (file_bytes == 5000)
    exported = AutoModelForCausalLM.from_pretrained(directory)
    assert exported.dtype == torch.float32
    packed = row(samples[:1])
    with torch.no_grad():
        logits = exported(torch.from_numpy(packed.ids)[None]).logits[0]
        torch.testing.assert_close(logits, model(packed), atol=2e-5, rtol=1e-4)


def test_a_full_disk_at_export_is_named(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama")
    model = load_model(base, EXACT, device=CPU)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(SaveError, match=f"exported by way of {tmp_path}: .*File too large.*run again"):
            export_weights(model, base, tmp_path, lambda path: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_adapters_learn_beside_a_base_that_stays_and_are_merged_at_export(base: Path, tmp_path: Path) -> None:
    samples, settings = make_samples(12), EXACT.model_copy(update={"lora_rank": 4, "checkpoint_every_steps": 4})
    stored = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    packed = row(samples[:1])
    inputs = torch.from_numpy(packed.ids)[None]
    with torch.no_grad():
        untrained = load_model(base, settings, device=CPU)(packed)
        torch.testing.assert_close(untrained, stored(inputs).logits[0], atol=2e-5, rtol=1e-4)
    folder = CheckpointFolder(pafs.LocalFileSystem(), str(tmp_path / "checkpoints"))
    model = load_model(base, settings, device=CPU)
    curve = [m.loss for m in fit(model, samples, settings, checkpoints=folder)]
    assert min(curve[-3:]) < curve[0]
    before = dict(stored.named_parameters())
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            torch.testing.assert_close(
                parameter.full_tensor(), before[name.replace(".base_layer.", ".")], rtol=0, atol=0
            )  # type: ignore[attr-defined]
    resumed = fit(load_model(base, settings, device=CPU), samples, settings, checkpoints=folder)
    np.testing.assert_allclose([m.loss for m in resumed], curve, rtol=1e-6)
    directory = tmp_path / "export"
    directory.mkdir()
    export_weights(model, base, directory, lambda path: None)
    exported = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        tuned = exported(inputs).logits[0]
        torch.testing.assert_close(tuned, model(packed), atol=2e-5, rtol=1e-4)
        assert (tuned - stored(inputs).logits[0]).abs().max() > 0.01


def test_a_frozen_bfloat16_base_is_held_in_bfloat16_and_its_adapters_in_float32(tmp_path: Path) -> None:
    base, samples = tmp_path / "bfloat16", make_samples(8)
    whole = AutoModelForCausalLM.from_pretrained(save_base(tmp_path / "base", "llama"), dtype=torch.bfloat16)
    whole.save_pretrained(base)
    settings = EXACT.model_copy(update={"lora_rank": 4, "compute_dtype": "bfloat16"})
    model = load_model(base, settings, device=CPU)
    dtypes = {"lora_" in name: p.dtype for name, p in model.named_parameters()}
    assert dtypes == {False: torch.bfloat16, True: torch.float32}
    directory = tmp_path / "export"
    directory.mkdir()
    export_weights(model, base, directory, lambda path: None)
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    exact = fit(load_model(base, EXACT.model_copy(update={"lora_rank": 4}), device=CPU), samples, EXACT)
    np.testing.assert_allclose([m.loss for m in fit(model, samples, settings)], [m.loss for m in exact], rtol=2e-2)


def test_sharded_safetensors_load_like_a_single_file(tmp_path: Path) -> None:
    one = load_model(save_base(tmp_path / "one", "qwen3"), EXACT, device=CPU)
    many = load_model(save_base(tmp_path / "many", "qwen3", max_shard_size="8KB"), EXACT, device=CPU)
    assert (tmp_path / "many" / "model.safetensors.index.json").exists()
    for (name, a), (_, b) in zip(whole_parameters(one), whole_parameters(many), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("config", [GPT2Config(), MistralConfig()])
def test_an_unsupported_family_is_refused_by_name(config: Any, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=f"'{config.model_type}'.*llama, qwen2, qwen3"):
        read_config(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", max_shard_size="8KB")
    index = base / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"model\.norm\.weight"):
        load_model(base, EXACT, device=CPU)


def test_the_schedule_warms_up_linearly_and_falls_along_a_cosine_to_zero() -> None:
    rates = [learning_rate_at(step, steps=40, peak=1.0, warmup_share=0.1) for step in range(41)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[22] == pytest.approx(0.5)
    assert rates[13] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[40] == pytest.approx(0.0)


def test_norms_and_biases_do_not_decay(tmp_path: Path) -> None:
    model = load_model(save_base(tmp_path / "base", "qwen2"), EXACT, device=CPU)
    optimizer = make_optimizer(model, EXACT)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {n: 0.0 if "norm" in n or n.endswith("bias") else 1e-4 for n, _ in model.named_parameters()}
    assert {n: decay[id(p)] for n, p in model.named_parameters()} == expected


def test_the_paper_takes_315_steps() -> None:
    assert total_steps(1000, Train()) == 315


def test_flops_are_six_per_weight_and_token_and_causal_attention() -> None:
    config = CONFIGS["qwen3"]  # untied: the embedding is a look-up, not a product
    assert model_flops([10], config, 5000) == 6 * (5000 - 61 * 32) * 10 + 6 * 2 * (4 * 16) * 10 * 10
    frozen = 4000 - 61 * 32  # of those in matrix products: they need no gradient of their own
    assert model_flops([10], config, 5000) - model_flops([10], config, 5000, 4000) == 2 * frozen * 10
