"""Where a campaign's artifacts lie, and what identifies them as inputs."""

from thinkscale.domain.campaign import Campaign
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.models import local_model


def campaign_artifact(campaign: Campaign, store: Store, name: str) -> Artifact:
    twin = f"{campaign.from_campaign}/{name}" if campaign.from_campaign else None
    return Artifact(store, f"{campaign.name}/{name}", twin)


def benchmark_artifacts(campaign: Campaign, store: Store) -> dict[str, Artifact]:
    """The campaign's benchmarks by name."""
    return {b.name: campaign_artifact(campaign, store, f"benchmarks/{b.name}") for b in campaign.evaluate.benchmarks}


def fingerprints(**artifacts: Artifact) -> dict[str, str]:
    """Fingerprints of committed artifacts. Raises ArtifactError where one is not complete."""
    return {name: artifact.require().fingerprint for name, artifact in artifacts.items()}


def template_hash(campaign: Campaign, reference: str) -> str:
    """Of the rendered chat template of a model, the campaign's date in it: prompts of another are others."""
    return ModelTokenizer(local_model(reference, weights=False), date=campaign.model.date).template_hash
