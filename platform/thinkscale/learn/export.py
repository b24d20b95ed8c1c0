"""The fine-tuned model in the Hugging Face layout.
Owns the files that a serving engine loads. Weights are gathered one parameter at a time, so that no host holds more
than one file of them. Knows no artifact: it hands over one finished local file after another."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from thinkscale.learn.checkpoint import SaveError, lasting_cause
from thinkscale.learn.model import PackedCausalLM, stored_parameters, whole_parameters

FILE_BYTES = 4 << 30
COPIED = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""Files of the base model that hold for the tuned one as well, where it has them."""


def export_weights(
    model: PackedCausalLM,
    base: Path,
    directory: Path,
    on_file: Callable[[Path], None],
    *,
    file_bytes: int = FILE_BYTES,
    eos_ids: Sequence[int] = (),
    thinking_format: Mapping[str, str] | None = None,
) -> None:
    """Write the weights (adapters merged) and the base model's other files, in its dtype. All ranks call it.
    `directory`: a local directory for one file at a time; used on rank 0 only. `on_file`: called on rank 0 with each
    finished file, which may then be removed. `eos_ids`: what ends a text of the tuned model, in its generation config
    beside the base model's own. `thinking_format`: how it was trained to think, in its tokenizer's config, where it is
    found when it is served. Raises SaveError: on all ranks, where rank 0 lacks room or permission."""
    writing = dist.get_rank() == 0
    dtype = model.stored_dtype
    files = _plan_files(model, dtype, file_bytes)
    weights = whole_parameters(model)
    failed: list[Any] = [None]

    def attempt(write: Callable[[], None]) -> None:
        if writing and failed[0] is None:
            try:
                write()
            except Exception as error:  # raised below: the other ranks would wait for ever in a gathering
                failed[0] = str(error), lasting_cause(error) is not None

    def write_weights(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file

        save_file(tensors, path, metadata={"format": "pt"})
        on_file(path)

    def write_small_files() -> None:
        for small in _base_files(base, directory, eos_ids, thinking_format):
            on_file(small)
        if len(files) > 1:
            total = sum(p.numel() for _, _, p in stored_parameters(model)) * dtype.itemsize
            places = {name: file for file, names in files.items() for name in names}
            index = {"metadata": {"total_size": total}, "weight_map": places}
            path = directory / "model.safetensors.index.json"
            path.write_text(json.dumps(index, indent=1, sort_keys=True))
            on_file(path)

    for file, names in files.items():
        tensors = {}
        for _ in names:
            name, tensor = next(weights)
            if writing:
                tensors[name] = tensor.detach().to("cpu", dtype).contiguous()
        attempt(partial(write_weights, directory / file, tensors))
    attempt(write_small_files)
    dist.broadcast_object_list(failed)
    if failed[0]:
        cause, lasting = failed[0]
        raise (SaveError if lasting else RuntimeError)(
            f"the model cannot be exported by way of {directory}: {cause}. Make room there (TMPDIR) and at the "
            "campaign's root, then run again: training goes on from its last checkpoint."
        )


def _plan_files(model: PackedCausalLM, dtype: torch.dtype, file_bytes: int) -> dict[str, list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, _, parameter in stored_parameters(model):
        size += parameter.numel() * dtype.itemsize
        if size > file_bytes and groups[-1]:
            groups.append([])
            size = parameter.numel() * dtype.itemsize
        groups[-1].append(name)
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, 1)}


def _base_files(
    base: Path, directory: Path, eos_ids: Sequence[int], thinking_format: Mapping[str, str] | None
) -> list[Path]:
    written = [Path(shutil.copyfile(base / name, directory / name)) for name in COPIED if (base / name).exists()]
    path = directory / "tokenizer_config.json"
    if thinking_format is not None and path.exists():
        config = {**json.loads(path.read_text(encoding="utf-8")), "thinking_format": dict(thinking_format)}
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    if (generation := _generation_config(base, eos_ids)) is not None:
        written.append(directory / "generation_config.json")
        written[-1].write_text(json.dumps(generation, indent=1))
    return written


def _generation_config(base: Path, eos_ids: Sequence[int]) -> dict[str, Any] | None:
    """The base model's generation config, in which what was trained to end a turn ends a generation."""
    path = base / "generation_config.json"
    config: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    own = config.get("eos_token_id")
    ids = [*eos_ids, *(own if isinstance(own, list) else [] if own is None else [own])]
    return {**config, "eos_token_id": list(dict.fromkeys(ids))} if ids else config or None
