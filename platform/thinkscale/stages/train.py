"""Fine-tuning: traces in, a model in the Hugging Face layout out.
Reads the traces, tokenizes them, has `runtime.train_workers` fit the model, and commits it with its card."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.question import Trace
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.formats import ThinkingFormat, resolve_format
from thinkscale.learn.families import check_directory
from thinkscale.learn.masking import Tokenized, tokenize
from thinkscale.runtime import ending, scratch
from thinkscale.runtime.train_workers import TrainingError, fit_on_workers
from thinkscale.stages.artifacts import campaign_artifact
from thinkscale.stages.report import write_model_card
from thinkscale.store.artifact import Artifact, Manifest, StoredFile
from thinkscale.store.filesystem import Store
from thinkscale.store.models import directory_hash, local_model, stated_licence
from thinkscale.store.schemas import TRACES
from thinkscale.store.stage import begin_stage

if TYPE_CHECKING:
    from thinkscale.learn.loop import StepMetrics

RESOURCE_SETTINGS = {
    "pack_tokens", "checkpoint_layers", "compile", "checkpoint_every_steps", "async_checkpoints", "tensorboard",
}  # fmt: skip
"""Keys of [train] that change what a run costs and not what it computes."""


def train(campaign: Campaign, store: Store) -> bool:
    """Fine-tune the campaign's base model on its traces; resumes where an earlier run stopped.
    Raises ArtifactError: the traces are not there, or the model was begun with another configuration; TrainingError: no
    trace fits, the vocabulary does not match, or the loss is not finite; ModelError: the base model cannot be had."""
    traces, artifact = (campaign_artifact(campaign, store, name) for name in ("traces", "model"))
    traces_manifest, committed = traces.require(), artifact.manifest()
    if committed is None:
        check_base(campaign)
        base = local_model(campaign.model.base)
        base_hash = directory_hash(base, ("*.safetensors", "*.json", "*.jinja"))
        tokenizer = ModelTokenizer(base, date=campaign.model.date)
        tokenizer_hashes = [tokenizer.ids_hash, tokenizer.template_hash]
    else:  # what is complete needs no base model
        base_hash, tokenizer_hashes = committed.inputs["base"], committed.config["tokenizer"]
    config = {
        "model": campaign.model.model_dump(mode="json"),
        "train": campaign.train.model_dump(mode="json", exclude=RESOURCE_SETTINGS),
        "tokenizer": tokenizer_hashes,
    }
    stage = begin_stage(artifact, config, {"traces": traces_manifest.fingerprint, "base": base_hash})
    if stage is None:
        store.delete_directory(f"{artifact.path}/checkpoints")  # of a driver that was killed after its commit
        return False
    rows = traces.read(TRACES.names).to_pylist()
    tokenized = _tokenize(campaign, base, tokenizer, rows)
    began = time.monotonic()
    outcome = fit_on_workers(campaign, artifact, base, tokenized.samples, tokenizer)
    _commit(campaign, artifact, base, outcome, tokenized, rows, traces_manifest, elapsed_s=time.monotonic() - began)
    store.delete_directory(f"{artifact.path}/checkpoints")
    if outcome["told_to_end"]:  # too late to stop
        ending.terminate()
    return True


def check_base(campaign: Campaign) -> None:
    """Refuse, before anything is downloaded, what cannot be tuned: the base model, or for want of a package."""
    for setting, module, extra in (("lora_rank", "peft", "lora"), ("tensorboard", "tensorboard", "tensorboard")):
        if getattr(campaign.train, setting) not in (None, 0) and find_spec(module) is None:
            raise TrainingError(f"train.{setting} needs the package {module}: pip install 'thinkscale[{extra}]'")
    directory = local_model(campaign.model.base, weights=False)
    check_directory(directory)
    resolve_format(campaign.model, ModelTokenizer(directory, date=campaign.model.date))


def _tokenize(campaign: Campaign, base: Path, tokenizer: ModelTokenizer, rows: list[dict[str, Any]]) -> Tokenized:
    from thinkscale.learn.model import read_config

    config = read_config(base)
    thinking_format = resolve_format(campaign.model, tokenizer)

    def prompt_ids(question: str, opened: ThinkingFormat | None) -> tuple[int, ...]:
        make = tokenizer.question_ids if opened is None else tokenizer.prompt_ids
        return make(question, thinking_format, campaign.model.system_prompt)

    tokenized = tokenize(
        [Trace(**{name: row[name] for name in Trace.__dataclass_fields__ if name in row}) for row in rows],
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


def _commit(
    campaign: Campaign,
    artifact: Artifact,
    base: Path,
    outcome: dict[str, Any],
    tokenized: Tokenized,
    rows: list[dict[str, Any]],
    traces: Manifest,
    *,
    elapsed_s: float,
) -> Manifest:
    import transformers

    from thinkscale.learn.loop import StepMetrics

    history = [StepMetrics(**metrics) for metrics in outcome["history"]]
    files: list[StoredFile] = list(outcome["files"])
    with scratch.directory("thinkscale-metrics-") as directory:
        path = directory / "metrics.jsonl"
        path.write_text("".join(json.dumps(metrics) + "\n" for metrics in outcome["history"]), encoding="utf-8")
        files.append(artifact.add_file(path, path.name, outcome["attempt"]))
    manifest = artifact.commit(
        "model/1",
        files=files,
        stats={
            **_device_seconds(campaign, history, elapsed_s),
            "elapsed_s": elapsed_s,
            "worker_restarts": outcome["worker_restarts"],
            "trained_tokens": sum(metrics.tokens for metrics in history),
            "steps": len(history),
        },
        extra={
            "terms": traces.extra.get("terms") or [],
            "teachers": sorted({row["teacher"] for row in rows}),
            "traces": len(tokenized.samples),
            "cut": tokenized.cut,
            "dropped": list(tokenized.dropped),
            "loss_first": history[0].loss,
            "loss_last": history[-1].loss,
            "workers": history[-1].ranks,
            "base_licence": stated_licence(campaign.model.base, base),
            "engine": {
                "name": "thinkscale.learn",
                "torch": outcome["torch"],
                "transformers": transformers.__version__,
                **{name: outcome[name] for name in ("device", "attention", "compute_dtype")},
            },
        },
    )
    write_model_card(campaign, artifact)
    return manifest


def _device_seconds(campaign: Campaign, history: Sequence[StepMetrics], elapsed_s: float) -> dict[str, float]:
    """Seconds over all workers: in steps (those of resumed runs included), and else start-up and export."""
    held = {"cpu": campaign.resources.cpus_per_train_worker, "gpu": campaign.resources.gpus_per_train_worker}
    busy_s = sum(metrics.seconds * metrics.ranks for metrics in history)
    startup_s = max(0.0, elapsed_s - sum(metrics.seconds for metrics in history)) * history[-1].ranks
    seconds = {"busy": busy_s, "startup": startup_s}
    return {f"{device}_{use}_s": s * n for device, n in held.items() for use, s in seconds.items()}
