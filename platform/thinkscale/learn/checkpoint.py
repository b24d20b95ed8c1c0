"""Checkpoints that survive a killed worker: sharded model, optimizer and history in one directory a step.

Owns where they lie, which is the newest whole one, and how many are kept. A checkpoint is whole once its
`.metadata` is there, which torch.distributed.checkpoint (DCP) writes last. Shards are read by name and
place, so that a run resumes on another number of ranks. Knows no Ray.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import pyarrow.fs as pafs
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from thinkscale.learn.loop import StepMetrics
from thinkscale.learn.model import PackedCausalLM

KEPT = 2


@dataclass(frozen=True)
class CheckpointFolder:
    """`<path>/step-N/` on any file system that pyarrow knows."""

    fs: pafs.FileSystem
    path: str
    """As `fs` wants it: `/runs/demo/model/checkpoints` or `bucket/prefix/...`."""

    def save(self, model: PackedCausalLM, optimizer: torch.optim.Optimizer, history: Sequence[StepMetrics]) -> None:
        """Write the state after `history`; all ranks call it. Older checkpoints but one are then removed."""
        target = f"{self.path}/{_step_name(len(history))}"
        self.fs.create_dir(target, recursive=True)
        if dist.get_rank() == 0:
            lines = "".join(json.dumps(asdict(metrics)) + "\n" for metrics in history)
            with self.fs.open_output_stream(f"{target}/history.jsonl") as stream:
                stream.write(lines.encode())
        dcp_save(_state(model, optimizer), storage_writer=self._writer(target))
        if dist.get_rank() == 0:
            for step in self.steps()[:-KEPT]:
                self.fs.delete_dir(f"{self.path}/{_step_name(step)}")

    def load_latest(self, model: PackedCausalLM, optimizer: torch.optim.Optimizer) -> list[StepMetrics]:
        """Restore the newest whole checkpoint in place; returns its history, empty where there is none."""
        chosen = [self.steps()[-1:]]
        dist.broadcast_object_list(chosen)  # one rank decides, should the listing differ
        if not chosen[0]:
            return []
        source = f"{self.path}/{_step_name(chosen[0][0])}"
        state = _state(model, optimizer)
        dcp_load(state, storage_reader=self._reader(source))
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        with self.fs.open_input_stream(f"{source}/history.jsonl") as stream:
            return [StepMetrics(**json.loads(line)) for line in bytes(stream.read()).splitlines()]

    def steps(self) -> list[int]:
        """The steps of whole checkpoints, ascending."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        names = [info.base_name for info in infos if info.base_name.startswith("step-")]
        wholes = self.fs.get_file_info([f"{self.path}/{name}/.metadata" for name in names]) if names else []
        return sorted(
            int(name.removeprefix("step-"))
            for name, whole in zip(names, wholes, strict=True)
            if whole.type == pafs.FileType.File
        )

    def _writer(self, target: str) -> FileSystemWriter:
        if isinstance(self.fs, pafs.LocalFileSystem):
            return FileSystemWriter(target)
        writer: Any = FileSystemWriter(target, sync_files=False)
        writer.fs, writer.path = _ArrowFiles(self.fs), target
        return cast(FileSystemWriter, writer)

    def _reader(self, source: str) -> FileSystemReader:
        reader: Any = FileSystemReader(source)
        if not isinstance(self.fs, pafs.LocalFileSystem):
            reader.fs, reader.path = _ArrowFiles(self.fs), source
        return cast(FileSystemReader, reader)


def _step_name(step: int) -> str:
    return f"step-{step}"


def _state(model: PackedCausalLM, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}


class _ArrowFiles(FileSystemBase):
    """DCP's view of a pyarrow file system."""

    def __init__(self, fs: pafs.FileSystem) -> None:
        self._fs = fs

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        opened = self._fs.open_input_file(str(path)) if mode == "rb" else self._fs.open_output_stream(str(path))
        with opened as stream:
            yield stream

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{path}/{suffix}"

    def init_path(self, path: str | os.PathLike[str]) -> str:
        return str(path)

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        self._fs.move(str(path), str(new_path))

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        self._fs.create_dir(str(path), recursive=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return isinstance(checkpoint_id, str)

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return bool(self._fs.get_file_info(str(path)).type != pafs.FileType.NotFound)

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self._fs.delete_file(str(path))
