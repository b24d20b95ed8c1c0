"""Where a campaign's artifacts lie, and what identifies them as inputs."""

import json
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.learn.arithmetic import parameter_count
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.models import ModelError, local_model
from thinkscale.store.samples import SampleSet


def campaign_artifact(campaign: Campaign, store: Store, name: str) -> Artifact:
    twin = f"{campaign.from_campaign}/{name}" if campaign.from_campaign else None
    return Artifact(store, f"{campaign.name}/{name}", twin)


def benchmark_artifacts(campaign: Campaign, store: Store) -> dict[str, Artifact]:
    return {b.name: campaign_artifact(campaign, store, f"benchmarks/{b.name}") for b in campaign.evaluate.benchmarks}


def fingerprints(**artifacts: Artifact) -> dict[str, str]:
    """Fingerprints of committed artifacts. Raises ArtifactError where one is not complete."""
    return {name: artifact.require().fingerprint for name, artifact in artifacts.items()}


def template_hash(campaign: Campaign, reference: str) -> str:
    """Of the rendered chat template of a model, the campaign's date in it: prompts of another are others."""
    return ModelTokenizer(local_model(reference, weights=False), date=campaign.model.date).template_hash


@cache
def shape(reference: str) -> Any:
    """A model's config, as the arithmetic of `learn` takes it. Raises ModelError where there is none."""
    try:
        raw = json.loads((local_model(reference, weights=False) / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{reference} holds no config.json: is it a model in the Hugging Face layout?") from error
    return SimpleNamespace(**{"tie_word_embeddings": False, **raw, **raw.get("text_config", {})})


def weights(reference: str) -> int:
    """How many weights a model has; of a mixture of experts, those that a token meets."""
    return parameter_count(shape(reference))


def sample_sets(campaign: Campaign, store: Store, *, partial: bool = False) -> list[SampleSet]:
    """Of every model on every benchmark, in the campaign's order, complete or not."""
    names = [benchmark.name for benchmark in campaign.evaluate.benchmarks]
    whole = product(campaign.evaluate.models, names)
    return [SampleSet(store=store, campaign=campaign.name, model=m, benchmark=b, partial=partial) for m, b in whole]


def stage_artifacts(campaign: Campaign, store: Store, stage: str) -> list[Artifact]:
    """What a stage makes: once all of it is committed, the stage has nothing to do any more."""
    if stage == "benchmarks":
        return list(benchmark_artifacts(campaign, store).values())
    if stage == "evaluate":
        return [samples.artifact for samples in sample_sets(campaign, store)]
    name = {"ingest": "pool", "embed": "embeddings", "deduplicate": "unique", "select": "selected"}.get(stage, stage)
    name = {"distill": "traces", "train": "model"}.get(name, name)
    return [campaign_artifact(campaign, store, name)]


def is_complete(campaign: Campaign, store: Store, stage: str) -> bool:
    """Whether a stage has nothing to do any more."""
    return all(artifact.manifest() is not None for artifact in stage_artifacts(campaign, store, stage))
