"""Fine-tuning's worker group on Ray Train: learn's loop on every worker, from the base model to exported files.
Owns what the workers are given, which failures are tried again, and how training is told to stop. Knows nothing of a
step's arithmetic. A worker, a node or the driver may die: the next one goes on from the newest checkpoint below the
campaign's root. Told beforehand (a node is drained, the driver gets SIGTERM), the workers save after the step they are
at, so that none is lost."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray._raylet import is_localhost  # type: ignore[attr-defined]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ray
from thinkscale.domain.campaign import Campaign, Train
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.formats import resolve_format
from thinkscale.learn.masking import Sample
from thinkscale.runtime import ending, failure, metrics, scratch
from thinkscale.runtime.board import BOARD_TIMEOUT_S, Board, say, show
from thinkscale.store.artifact import Artifact, StoredFile, new_attempt
from thinkscale.store.filesystem import StoreError
from thinkscale.store.models import local_model

if TYPE_CHECKING:
    from thinkscale.learn.loop import StepMetrics

MAX_FAILURES = 8  # times that lost workers are replaced within one run
GPU_ENVIRONMENT = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Of the workers: rows of many lengths would leave holes in segments of fixed size."""


class TrainingError(RuntimeError):
    """Fine-tuning cannot start or go on; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker needs."""

    reference: str  # of the base model; each node resolves it for itself
    settings: Train
    context_parallel: int
    samples: Any  # object reference to the list of samples
    eos_ids: tuple[int, ...]  # what ends a text of the tuned model; the first was trained
    thinking_format: dict[str, str]  # how it is trained to think
    artifact: Artifact
    board: Any  # actor handle of `Board`
    attempt: str  # tells the files of this run from those of others


def fit_on_workers(
    campaign: Campaign, artifact: Artifact, base: Path, samples: tuple[Sample, ...], tokenizer: ModelTokenizer
) -> dict[str, Any]:
    """Run the workers to their end, showing progress meanwhile; returns what rank 0 returned."""
    from ray.train.torch import TorchConfig, TorchTrainer

    from ray import train as ray_train

    api: Any = ray_train  # its static types are those of version 1, which does not run

    resources = campaign.resources
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lasting = {"max_restarts": -1, "max_task_retries": -1}  # new workers would ask a lost one in vain
    board: Any = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here, **lasting).remote()
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
        attempt=new_attempt(),
    )
    over, stepping = threading.Event(), threading.Event()
    devices = {"cpu": resources.cpus_per_train_worker, "gpu": resources.gpus_per_train_worker}
    telling = (board, over, stepping, campaign.train.tensorboard, devices)
    shown = threading.Thread(target=show, args=telling, daemon=True)
    shown.start()
    fewest = resources.min_train_workers

    def stop() -> None:
        """Have the workers save after the step they are at, where they are at any."""
        if not stepping.is_set():
            ending.terminate()
        board.stop.remote()

    class Trainer(TorchTrainer):
        """Ctrl-C stays as it is: Ray's own handler would stay behind after the training, and end with code 0."""

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    class Backend(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_listen_where_the_node_does)
            super().on_start(worker_group, backend_config)

    class Group(TorchConfig):
        backend_cls = Backend

    def fit(scratch_directory: Path) -> Any:
        return Trainer(
            cast(Callable[[dict[str, Any]], None], _work),
            train_loop_config={"job": job},
            torch_config=Group(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
            scaling_config=api.ScalingConfig(
                num_workers=(fewest, resources.train_workers) if fewest else resources.train_workers,
                use_gpu=on_gpu,
                resources_per_worker=per_worker,
            ),
            run_config=api.RunConfig(
                name=campaign.name,
                storage_path=str(scratch_directory),
                failure_config=api.FailureConfig(max_failures=0),  # which failures are worth another try is ours to say
                logging_config=api.LoggingConfig(log_level="WARNING"),
                worker_runtime_env={"env_vars": GPU_ENVIRONMENT} if on_gpu else None,
            ),
        ).fit()

    try:
        # Checkpoints go to the campaign's root by themselves; Ray Train keeps nothing of value here.
        with _on_sigterm(stop) as told, scratch.directory("thinkscale-train-") as directory:
            result, restarts = _until_it_ends(lambda: fit(directory), stepping)
    finally:
        over.set()
        shown.join(BOARD_TIMEOUT_S)
        ray.kill(board)
    outcome: dict[str, Any] = result.return_value
    if "stopped" in outcome:
        say(outcome["stopped"])
        ending.terminate()
    if "error" in outcome:
        raise TrainingError(outcome["error"])
    return {**outcome, "told_to_end": told.is_set(), "worker_restarts": restarts}


def _listen_where_the_node_does() -> None:
    """In a worker of a private cluster: torch's store would listen on every interface, gloo on that of the machine's
    name, and neither asks for a token."""
    module: Any = importlib.import_module("torch.distributed.rendezvous")
    store = module.TCPStore

    def on_loopback(host_name: str, port: int, *, is_master: bool, **options: Any) -> Any:
        listening = {"master_listen_fd": socket.create_server((host_name, port)).detach()} if is_master else {}
        return store(host_name, port, is_master=is_master, **listening, **options)

    if is_localhost(ray.util.get_node_ip_address()):
        module.TCPStore = on_loopback
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def _until_it_ends(fit: Callable[[], Any], stepping: threading.Event) -> tuple[Any, int]:
    """Fit with new workers as long as they may get further than those before them; says how often that was.
    That is where workers were lost, and where one raised what may pass (of the network, of storage), unless new ones
    raise the very same without a step in between. Anything else would only be raised again."""
    from ray.train import WorkerGroupError

    before = ""
    for failures in range(1, MAX_FAILURES + 2):
        stepping.clear()
        try:
            return fit(), failures - 1
        except WorkerGroupError as error:
            found, line = failure.cause(error), failure.headline(error)
            lost = failure.is_rays(found)
            again = lost or (isinstance(found, RuntimeError | OSError) and (stepping.is_set() or line != before))
            if not again or failures > MAX_FAILURES:
                raise
            metrics.count({"lost_workers": int(lost)})
            say(f"{'a worker was lost' if lost else line}; new ones start from the last checkpoint")
            before = line
    raise AssertionError("unreachable")


@contextmanager
def _on_sigterm(act: Callable[[], object]) -> Iterator[threading.Event]:
    """Act at the first SIGTERM, which sets the event; a second one does as ever. Only the main thread may listen."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.getsignal(signal.SIGTERM)

    def once(*_: object) -> None:
        signal.signal(signal.SIGTERM, before)
        told.set()
        act()

    signal.signal(signal.SIGTERM, once)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """One worker, from the base model to the exported files. Rank 0 reports and uploads."""
    import torch
    from ray.train.torch import get_device

    from ray import train as ray_train
    from thinkscale.engines.precision import fast_dtype
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
    settings = job.settings
    if settings.compute_dtype == "auto":
        settings = settings.model_copy(update={"compute_dtype": fast_dtype(device.type)})
    base = local_model(job.reference)
    model = load_model(base, settings, device=device, context_parallel=job.context_parallel)
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
        store.fs,
        store.absolute(f"{job.artifact.path}/checkpoints"),
        attempt=job.attempt,
        asynchronous=settings.async_checkpoints,
        check=store.check,
    )
    files: list[StoredFile] = []
    try:
        history = fit(
            model, ray.get(job.samples), settings,
            checkpoints=checkpoints, on_step=on_step, should_stop=should_stop,
        )  # fmt: skip
        with scratch.directory("thinkscale-export-") as directory:

            def upload(path: Path) -> None:
                files.append(job.artifact.add_file(path, f"export/{path.name}", job.attempt))
                path.unlink()

            export_weights(model, base, directory, upload, eos_ids=job.eos_ids, thinking_format=job.thinking_format)
    except StoppedError as stopped:
        if notice is None:
            return {"stopped": str(stopped)}
        if first:
            ray.get(job.board.put.remote({"note": f"a node is to be taken back; {stopped}; new workers go on from it"}))
        raise
    except (NonFiniteLossError, SaveError, StoreError) as error:  # every rank sees it, a retry would too
        return {"error": str(error)}
    return {
        "files": files,
        "attempt": job.attempt,
        "history": [metrics.as_dict() for metrics in history],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "attention": attention.kernel_name(device, settings.compute_dtype),
        "compute_dtype": settings.compute_dtype,
    }
