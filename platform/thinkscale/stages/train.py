"""Fine-tuning on Ray Train: traces in, a model in the Hugging Face layout out.

Reads the traces, runs learn's loop on every worker, shows its progress and commits the model. Knows
nothing of a step's arithmetic. A worker, a node or the driver may die: the next one goes on from the
newest checkpoint below the campaign's root. Told beforehand (a node is drained, the driver gets SIGTERM),
the workers save after the step they are at, so that none is lost.
"""

from __future__ import annotations

import ctypes
import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ray
from thinkscale.domain.campaign import Campaign, Train
from thinkscale.domain.ledger import Ledger
from thinkscale.domain.trace import Trace
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.formats import ThinkingFormat, resolve_format
from thinkscale.learn.families import check_directory
from thinkscale.learn.masking import Sample, Tokenized, tokenize
from thinkscale.runtime.board import BOARD_TIMEOUT_S, Board, show
from thinkscale.store.artifact import Artifact, Manifest, StoredFile
from thinkscale.store.filesystem import Store
from thinkscale.store.models import directory_hash, local_model
from thinkscale.store.schemas import TRACES

if TYPE_CHECKING:
    from thinkscale.learn.loop import StepMetrics

MAX_FAILURES = 8
"""Times that lost workers are replaced within one run."""
GPU_ENVIRONMENT = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Of the workers: rows of many lengths would leave holes in segments of fixed size."""
RESOURCE_SETTINGS = {
    "pack_tokens", "checkpoint_layers", "compile", "checkpoint_every_steps", "async_checkpoints", "tensorboard",
}  # fmt: skip
"""Keys of [train] that change what a run costs and not what it computes."""


class TrainingError(RuntimeError):
    """Fine-tuning cannot start or go on; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker needs."""

    reference: str
    """Of the base model; each node resolves it for itself."""
    settings: Train
    context_parallel: int
    samples: Any
    """Object reference to the list of samples."""
    eos_ids: tuple[int, ...]
    """What ends a text of the tuned model; the first was trained."""
    thinking_format: dict[str, str]
    """How it is trained to think."""
    artifact: Artifact
    board: Any
    """Actor handle of `Board`."""


def train(campaign: Campaign, store: Store) -> Manifest:
    """Fine-tune the campaign's base model on its traces; resumes where an earlier run stopped.

    Raises:
        ArtifactError: the traces are not there, or the model was begun with another configuration.
        TrainingError: no trace fits, the vocabulary does not match, or the loss is not finite.
        thinkscale.store.models.ModelError: the base model cannot be had.
    """
    traces = Artifact(store, f"{campaign.name}/traces")
    traces_manifest = traces.require()
    check_base(campaign, store)
    base = local_model(campaign.model.base)
    tokenizer = ModelTokenizer(base, date=campaign.model.date)
    artifact = Artifact(store, f"{campaign.name}/model")
    artifact.begin(
        {
            "model": campaign.model.model_dump(mode="json"),
            "train": campaign.train.model_dump(mode="json", exclude=RESOURCE_SETTINGS),
            "tokenizer": [tokenizer.ids_hash, tokenizer.template_hash],
        },
        {"traces": traces_manifest.fingerprint, "base": directory_hash(base, ("*.safetensors", "*.json", "*.jinja"))},
    )
    if (manifest := artifact.manifest()) is not None:
        return manifest
    rows = traces.read(TRACES.names).to_pylist()
    tokenized = _tokenize(campaign, base, tokenizer, rows)
    began = time.monotonic()
    outcome = _fit(campaign, artifact, base, tokenized.samples, tokenizer)
    manifest = _commit(
        campaign, artifact, outcome, tokenized, rows, traces_manifest, elapsed_s=time.monotonic() - began
    )
    if store.directories(f"{artifact.path}/checkpoints"):
        store.delete_directory(f"{artifact.path}/checkpoints")
    return manifest


def check_base(campaign: Campaign, store: Store) -> None:
    """Refuse, before anything is downloaded, a base model that cannot be tuned or whose format is unknown."""
    if Artifact(store, f"{campaign.name}/model").manifest() is None:
        directory = local_model(campaign.model.base, weights=False)
        check_directory(directory)
        resolve_format(campaign.model, ModelTokenizer(directory, date=campaign.model.date))


def _tokenize(campaign: Campaign, base: Path, tokenizer: ModelTokenizer, rows: list[dict[str, Any]]) -> Tokenized:
    """The samples. Refuses before any device is held what could only fail later."""
    for setting, used, module, extra in (
        ("train.lora_rank", campaign.train.lora_rank > 0, "peft", "lora"),
        ("train.tensorboard", campaign.train.tensorboard is not None, "tensorboard", "tensorboard"),
    ):
        if used and find_spec(module) is None:
            raise TrainingError(f"{setting} needs the package {module}: pip install 'thinkscale[{extra}]'")
    from thinkscale.learn.model import read_config

    config = read_config(base)
    thinking_format = resolve_format(campaign.model, tokenizer)

    def prompt_ids(question: str, opened: ThinkingFormat | None) -> tuple[int, ...]:
        make = tokenizer.question_ids if opened is None else tokenizer.prompt_ids
        return make(question, thinking_format, campaign.model.system_prompt)

    fields = set(Trace.__dataclass_fields__)
    tokenized = tokenize(
        [Trace(**{name: value for name, value in row.items() if name in fields}) for row in rows],
        tokenizer=tokenizer,
        prompt_ids=prompt_ids,
        thinking_format=thinking_format,
        context_tokens=campaign.train.context_tokens,
        overlong=campaign.train.overlong,
    )
    if not tokenized.samples:
        raise TrainingError(
            f"no trace to train on: {len(rows)} rows in the traces, {len(tokenized.dropped)} of them longer than "
            f"train.context_tokens = {campaign.train.context_tokens}"
        )
    if (largest := max(int(sample.ids.max()) for sample in tokenized.samples)) >= config.vocab_size:
        raise TrainingError(
            f"the tokenizer of {campaign.model.base} gives token id {largest}, but the model's vocabulary has "
            f"{config.vocab_size}: tokenizer and weights do not belong together"
        )
    return tokenized


def _fit(
    campaign: Campaign, artifact: Artifact, base: Path, samples: tuple[Sample, ...], tokenizer: ModelTokenizer
) -> dict[str, Any]:
    """Run the workers to their end, showing progress meanwhile; returns what rank 0 returned."""
    from ray.train.torch import TorchConfig, TorchTrainer

    from ray import train as ray_train

    api: Any = ray_train  # its static types are those of version 1, which does not run

    resources = campaign.resources
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
    on_gpu = resources.gpus_per_train_worker > 0
    per_worker = {"CPU": resources.cpus_per_train_worker}
    if on_gpu:
        per_worker["GPU"] = resources.gpus_per_train_worker
    # A local directory stays the same for a worker, which Ray starts in a directory of its own.
    reference = str(base) if Path(campaign.model.base).expanduser().is_dir() else campaign.model.base
    job = Job(
        reference=reference,
        settings=campaign.train,
        context_parallel=resources.context_parallel,
        samples=ray.put(samples),
        eos_ids=tokenizer.eos_ids,
        thinking_format=asdict(resolve_format(campaign.model, tokenizer)),
        artifact=artifact,
        board=board,
    )
    over = threading.Event()
    shown = threading.Thread(target=show, args=(board, over, campaign.train.tensorboard), daemon=True)
    shown.start()
    fewest = resources.min_train_workers
    try:
        # Checkpoints go to the campaign's root by themselves; Ray Train keeps nothing of value here.
        with _on_sigterm(board.stop.remote), tempfile.TemporaryDirectory(prefix="thinkscale-train-") as scratch:
            result: Any = TorchTrainer(
                cast(Callable[[dict[str, Any]], None], _work),
                train_loop_config={"job": job},
                torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
                scaling_config=api.ScalingConfig(
                    num_workers=(fewest, resources.train_workers) if fewest else resources.train_workers,
                    use_gpu=on_gpu,
                    resources_per_worker=per_worker,
                ),
                run_config=api.RunConfig(
                    name=campaign.name,
                    storage_path=scratch,
                    failure_config=api.FailureConfig(max_failures=MAX_FAILURES),
                    logging_config=api.LoggingConfig(log_level="WARNING"),
                    worker_runtime_env={"env_vars": GPU_ENVIRONMENT} if on_gpu else None,
                ),
            ).fit()
    finally:
        over.set()
        shown.join(BOARD_TIMEOUT_S)
        ray.kill(board)
    outcome: dict[str, Any] = result.return_value
    if "error" in outcome:
        raise TrainingError(outcome["error"])
    return outcome


@contextmanager
def _on_sigterm(act: Callable[[], object]) -> Iterator[None]:
    """Act at the first SIGTERM; a second one does as ever. Only the main thread may listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def once(*_: object) -> None:
        signal.signal(signal.SIGTERM, before)
        act()

    signal.signal(signal.SIGTERM, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """One worker, from the base model to the exported files. Rank 0 reports and uploads."""
    import torch
    from ray.train.torch import get_device

    from ray import train as ray_train
    from thinkscale.learn import attention
    from thinkscale.learn.checkpoint import CheckpointFolder, SaveError
    from thinkscale.learn.export import export_weights
    from thinkscale.learn.loop import NonFiniteLossError, StoppedError, fit
    from thinkscale.learn.model import load_model

    api: Any = ray_train
    job: Job = config["job"]
    first = api.get_context().get_world_rank() == 0
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        attention.use_kernel()
    base = local_model(job.reference)
    model = load_model(base, job.settings, device=device, context_parallel=job.context_parallel)
    store = job.artifact.store

    # Rows of many lengths leave holes in malloc's heap, on CPUs several hundred MB within a few steps.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if device.type == "cpu" else None

    notice: Any = None
    stop_wanted: Any = job.board.stop_wanted.remote() if first else None

    def on_step(metrics: StepMetrics) -> None:
        if trim is not None:
            trim(0)
        if first:
            job.board.put.remote(metrics.as_dict())

    def should_stop() -> bool:
        """A node is about to go (all workers hear of it alike), or the driver was told to end (the first one does)."""
        nonlocal notice, stop_wanted
        notice = api.get_preemption_info()
        wanted = False
        if first:  # the answer to what was asked a step ago
            wanted, stop_wanted = ray.get(stop_wanted), job.board.stop_wanted.remote()
        return notice is not None or wanted

    checkpoints = CheckpointFolder(
        store.fs, store.absolute(f"{job.artifact.path}/checkpoints"), asynchronous=job.settings.async_checkpoints
    )
    files: list[StoredFile] = []
    try:
        history = fit(
            model, ray.get(job.samples), job.settings,
            checkpoints=checkpoints, on_step=on_step, should_stop=should_stop,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="thinkscale-export-") as scratch:

            def upload(path: Path) -> None:
                files.append(job.artifact.add_file(path, f"export/{path.name}"))
                path.unlink()

            export_weights(model, base, Path(scratch), upload, eos_ids=job.eos_ids, thinking_format=job.thinking_format)
    except StoppedError as stopped:
        if notice is None:
            return {"error": f"{stopped}. Run again: training goes on from there."}
        if first:
            ray.get(job.board.put.remote({"note": f"a node is to be taken back; {stopped}; new workers go on from it"}))
        raise
    except (NonFiniteLossError, SaveError) as error:  # every rank sees it, and a retry would only see it again
        return {"error": str(error)}
    return {
        "files": files,
        "history": [metrics.as_dict() for metrics in history],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "attention": attention.kernel_name(device, job.settings.compute_dtype),
    }


def _commit(
    campaign: Campaign,
    artifact: Artifact,
    outcome: dict[str, Any],
    tokenized: Tokenized,
    rows: list[dict[str, Any]],
    traces: Manifest,
    *,
    elapsed_s: float,
) -> Manifest:
    """The model card and the metrics beside the weights, then the manifest over all."""
    import transformers

    from thinkscale.learn.export import CardFacts, model_card
    from thinkscale.learn.loop import StepMetrics

    history = [StepMetrics(**metrics) for metrics in outcome["history"]]
    ledger = _ledger(campaign, history, elapsed_s=elapsed_s)
    teachers = sorted({row["teacher"] for row in rows})
    terms = traces.extra.get("terms")
    prices = campaign.prices
    facts = CardFacts(
        name=f"{campaign.name}",
        base_model=campaign.model.base,
        traces=len(tokenized.samples),
        cut=tokenized.cut,
        dropped=len(tokenized.dropped),
        teachers=teachers,
        terms=terms,
        settings=campaign.train.model_dump(),
        gpu_hours=ledger.seconds("gpu") / 3600,
        cpu_hours=ledger.seconds("cpu") / 3600,
        usd=ledger.usd(cpu_hour_usd=prices.cpu_hour_usd, gpu_hour_usd=prices.gpu_hour_usd),
    )
    texts = {
        "export/README.md": model_card(facts, history),
        "metrics.jsonl": "".join(json.dumps(metrics) + "\n" for metrics in outcome["history"]),
    }
    files: list[StoredFile] = list(outcome["files"])
    with tempfile.TemporaryDirectory(prefix="thinkscale-card-") as scratch:
        for name, text in texts.items():
            path = Path(scratch) / Path(name).name
            path.write_text(text, encoding="utf-8")
            files.append(artifact.add_file(path, name))
    stats = {f"{device}_{what}_s": getattr(ledger, f"{device}_{what}_s") for device in ("cpu", "gpu")
             for what in ("busy", "startup")}  # fmt: skip
    return artifact.commit(
        "model/1",
        files=files,
        stats={
            **stats,
            "elapsed_s": elapsed_s,
            "trained_tokens": sum(metrics.tokens for metrics in history),
            "steps": len(history),
        },
        extra={
            "terms": terms,
            "teachers": teachers,
            "traces": len(tokenized.samples),
            "cut": tokenized.cut,
            "dropped": list(tokenized.dropped),
            "loss_first": history[0].loss,
            "loss_last": history[-1].loss,
            "workers": history[-1].ranks,
            "engine": {
                "name": "thinkscale.learn",
                "torch": outcome["torch"],
                "transformers": transformers.__version__,
                "device": outcome["device"],
                "attention": outcome["attention"],
                "compute_dtype": campaign.train.compute_dtype,
            },
        },
    )


def _ledger(campaign: Campaign, history: Sequence[StepMetrics], *, elapsed_s: float) -> Ledger:
    """Seconds over all workers: in steps (those of resumed runs included), and else start-up and export."""
    resources = campaign.resources
    busy_s = sum(metrics.seconds * metrics.ranks for metrics in history)
    startup_s = max(0.0, elapsed_s - sum(metrics.seconds for metrics in history)) * history[-1].ranks
    return Ledger(
        cpu_busy_s=busy_s * resources.cpus_per_train_worker,
        cpu_startup_s=startup_s * resources.cpus_per_train_worker,
        gpu_busy_s=busy_s * resources.gpus_per_train_worker,
        gpu_startup_s=startup_s * resources.gpus_per_train_worker,
    )
