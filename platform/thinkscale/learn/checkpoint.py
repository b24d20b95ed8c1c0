"""Checkpoints that survive a killed worker: sharded model, optimizer and history in one directory a step. One is whole
once its `.metadata` is there, which torch.distributed.checkpoint (DCP) writes last. Shards are read by name and place,
so that a run resumes on another number of ranks. Knows no Ray."""

import errno
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow.fs as pafs
import torch
import torch.distributed as dist
from fsspec.implementations.arrow import ArrowFSWrapper
from torch.distributed.checkpoint._fsspec_filesystem import FileSystem as FsspecFiles
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from thinkscale.learn.loop import StepMetrics
from thinkscale.learn.model import PackedCausalLM

Check = Callable[[], object]

KEPT = 2
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EKEYEXPIRED}
"""Reasons of a failed write that the next try would meet again."""
TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
"""What the base model's files hold is not written again."""


class SaveError(RuntimeError):
    """Files cannot be written, and trying again would not help; says what, where, why and what to do."""


def lasting_cause(error: BaseException) -> str | None:
    """The full disk, missing permission or the like behind an error, None where a retry may help."""
    failures = error.failures if isinstance(error, CheckpointException) else {0: (error, None)}
    for inner, _ in failures.values():
        code = re.search(r"\(os error (\d+)\)", str(inner))  # safetensors' way
        if getattr(inner, "errno", code and int(code[1])) in LASTING:
            return str(inner)
    return None


class CheckpointFolder:
    """`<path>/step-N-<attempt>/` on any file system that pyarrow knows.
    Every attempt may go on from what another one wrote, but none writes into another's directories, and none removes
    what was written beside it: only its own and what it found when it began."""

    def __init__(
        self,
        fs: pafs.FileSystem,
        path: str,
        *,
        attempt: str = "0",
        asynchronous: bool = False,
        check: Check = lambda: None,
    ) -> None:
        """`path`: as `fs` wants it: `/runs/demo/model/checkpoints` or `bucket/prefix/...`. `attempt`: of a driver; its
        workers, however often they are replaced, have the same. `asynchronous`: `save` returns once the state is copied
        to the host's memory (12 bytes a trained weight, over all ranks), and the copy is written while training goes
        on. `check`: raises where nothing may be written or deleted (any more); called before each."""
        self.fs, self.path, self._attempt, self._check = fs, path, attempt, check
        self._found: set[str] = set()
        self._asynchronous = asynchronous
        self._group: Any = None
        self._stager: BlockingAsyncStager | None = None
        self._pending: tuple[int, Callable[[], object]] | None = None

    def save(self, model: PackedCausalLM, optimizer: torch.optim.Optimizer, history: Sequence[StepMetrics]) -> None:
        """Write the state after `history`, after the one before it is whole; all ranks call it.
        Raises SaveError where this checkpoint (or, asynchronous, the one before) cannot be written."""
        self.finish()
        self._check()
        step = len(history)
        target = f"{self.path}/{self._name(step)}"
        writer: Any = FileSystemWriter(target, sync_files=False)
        writer.fs, writer.path = _ArrowFiles(self.fs), target
        state = _state(model, optimizer)
        state["history"] = json.dumps([asdict(metrics) for metrics in history])
        if not self._asynchronous:
            self._pending = step, partial(dcp_save, state, storage_writer=writer)
            return self.finish()
        # Its collectives run beside those of the next steps, so they need a process group of their own.
        self._group = self._group or dist.new_group(backend="gloo")
        # On a GPU into pinned memory, kept from one checkpoint to the next (DefaultStager of torch 2.11 keeps nothing).
        self._stager = self._stager or BlockingAsyncStager(cache_staged_state_dict=model.device.type == "cuda")
        written: Any = async_save(state, storage_writer=writer, process_group=self._group, async_stager=self._stager)
        self._pending = step, written.result
        return None

    def finish(self) -> None:
        """Wait until the last checkpoint is whole, and remove those older than the one before it; all ranks call it.
        Raises SaveError where it cannot be written. The one before it is intact."""
        if self._pending is None:
            return
        (step, write), self._pending = self._pending, None
        first = dist.get_rank() == 0
        try:
            write()
        except CheckpointException as error:
            self._check()
            if first:
                with suppress(OSError):  # a full disk has better uses for its parts
                    self.fs.delete_dir(f"{self.path}/{self._name(step)}")
            if (cause := lasting_cause(error)) is None:
                raise RuntimeError(f"the checkpoint of step {step} was not written") from error
            kept = [s for s in self.steps() if s != step]
            raise SaveError(
                f"the checkpoint of step {step} cannot be written to {self.path}: {cause}. "
                + (f"That of step {kept[-1]} is intact. " if kept else "There is none before it. ")
                + "Make room there, then run again: training goes on from the last whole one."
            ) from error
        self._check()
        if first:
            held = [name for step, name in self._whole() if name in self._found or name == self._name(step)]
            for old in held[:-KEPT]:
                self.fs.delete_dir(f"{self.path}/{old}")

    def load_latest(self, model: PackedCausalLM, optimizer: torch.optim.Optimizer) -> list[StepMetrics]:
        """Restore the newest whole checkpoint in place; returns its history, empty where there is none."""
        names = [name for _, name in self._whole()]
        self._found.update(names)
        chosen = [names[-1:]]
        dist.broadcast_object_list(chosen)  # one rank decides, should the listing differ
        if not chosen[0]:
            return []
        source = f"{self.path}/{chosen[0][0]}"
        state = {**_state(model, optimizer), "history": ""}
        reader: Any = FileSystemReader(source)
        reader.fs, reader.path = _ArrowFiles(self.fs), source
        dcp_load(state, storage_reader=reader)
        found = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
        set_state_dict(model, optimizer, **found, options=TRAINED)
        return [StepMetrics(**metrics) for metrics in json.loads(state["history"])]

    def steps(self) -> list[int]:
        return sorted({step for step, _ in self._whole()})

    def _whole(self) -> list[tuple[int, str]]:
        infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        names = [info.base_name for info in infos if info.base_name.startswith("step-")]
        wholes = self.fs.get_file_info([f"{self.path}/{name}/.metadata" for name in names]) if names else []
        found = [name for name, whole in zip(names, wholes, strict=True) if whole.type == pafs.FileType.File]
        return sorted((int(name.split("-")[1]), name) for name in found)

    def _name(self, step: int) -> str:
        return f"step-{step}-{self._attempt}"


def _state(model: PackedCausalLM, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=TRAINED)
    return {"model": weights, "optimizer": moments}


class _ArrowFiles(FsspecFiles):
    def __init__(self, fs: pafs.FileSystem) -> None:
        super().__init__()
        self.fs, self._arrow = ArrowFSWrapper(fs, skip_instance_cache=True), fs

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        if mode == "rb":
            with self._arrow.open_input_file(str(path)) as stream:
                yield stream
            return
        with self._arrow.open_output_stream(str(path)) as stream:
            writing: Any = _Writing(stream)
            yield writing
            if writing.error is not None:
                raise writing.error
        if isinstance(self._arrow, pafs.LocalFileSystem):  # whole even if the machine stops
            with open(path, "rb") as written:
                os.fsync(written.fileno())


class _Writing:
    """A stream that remembers why a write failed instead of raising it through torch's writer.
    That reports such errors as its own, without the cause, and on Python 3.12 the process dies of it later."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, data: Any) -> Any:
        try:
            if self.error is None:
                self._stream.write(data)
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
