"""A campaign's stored samples, with the verdicts that count. A regrading is an artifact of verdicts alone (VERDICTS),
row by row those of the samples' parts; each lies under its own fingerprint and is never changed, and `current.json`
beside them names the one that counts. Knows nothing of how an answer is judged."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Artifact, ArtifactError, StoredFile
from thinkscale.store.campaigns import CampaignError, load_campaign, packaged_campaigns
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import SAMPLES, VERDICTS

_REPLACED = [name for name in VERDICTS.names if name != "sample_id"]


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """The samples of one model on one benchmark, complete or not."""

    store: Store
    campaign: str  # its directory below the store's root
    model: str
    benchmark: str
    partial: bool = False  # also what is committed of samples that are not complete

    @property
    def artifact(self) -> Artifact:
        return Artifact(self.store, f"{self.campaign}/samples/{self._slug}", partial=self.partial)

    @property
    def benchmark_artifact(self) -> Artifact:
        return Artifact(self.store, f"{self.campaign}/benchmarks/{self.benchmark}")

    @property
    def label(self) -> str:
        return f"{self.model} {self.benchmark}"

    @property
    def _slug(self) -> str:
        return f"model={self.model}/benchmark={self.benchmark}"

    @property
    def _pointer(self) -> str:
        return f"{self.campaign}/regraded/{self._slug}/current.json"

    def regrading_artifact(self, fingerprint: str) -> Artifact:
        """Where the regrading of this fingerprint lies."""
        return Artifact(self.store, f"{self.campaign}/regraded/{self._slug}/{fingerprint}")

    def count_regrading(self, fingerprint: str) -> None:
        """From now on the verdicts of this regrading count, in every process that reads."""
        self.regrading_artifact(fingerprint).require()
        self.store.check()
        self.store.write_bytes(self._pointer, json.dumps({"regrading": fingerprint}).encode())

    def regrading(self) -> Artifact | None:
        """The regrading whose verdicts count: the last one made of these very samples. None: the stored ones do."""
        if (pointer := self.store.read_json(self._pointer)) is None:
            return None
        artifact = self.regrading_artifact(pointer["regrading"])
        same = artifact.require().inputs["samples"] == self.artifact.require().fingerprint
        return artifact if same else None

    def gradings(self) -> list[object]:
        """The graders whose verdicts count: their versions as `stages.regrade.grading_facts` tells them."""
        regrading = self.regrading()
        manifest = (self.artifact if regrading is None else regrading).require()
        return [manifest.config] if regrading is not None else list(manifest.extra.get("grading", []))

    def iter_tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The samples part by part, with the verdicts that count. `columns`: columns of SAMPLES; None: all. Raises
        ArtifactError where the samples are not complete, or a file is missing or damaged."""
        regrading = self.regrading()
        if regrading is None or (columns is not None and not set(columns) & set(_REPLACED)):
            yield from self.artifact.iter_tables(columns)
            return
        wanted = SAMPLES.names if columns is None else columns
        for file, verdicts_file in zip(self.artifact.parts(), regrading.parts(), strict=True):
            part = self.artifact.read_part(file, list(dict.fromkeys([*wanted, "sample_id"])))
            yield with_verdicts_of(part, regrading, verdicts_file).select(wanted)


def with_verdicts_of(part: pa.Table, regrading: Artifact, file: StoredFile) -> pa.Table:
    """A part of the samples with a regrading's verdicts, as far as it has their columns."""
    verdicts = regrading.read_part(file)
    if not part["sample_id"].equals(verdicts["sample_id"]):
        raise ArtifactError(f"{regrading.url}/{file.path} holds other samples than its part of them")
    for name in set(part.schema.names) & set(_REPLACED):
        position = part.schema.get_field_index(name)
        part = part.set_column(position, part.schema.field(name), verdicts[name])
    return part


def locate_campaign(campaign: str, root: str | None = None) -> tuple[Store, str]:
    """Where a campaign's artifacts lie: the store and the campaign's directory in it. `campaign`: A directory or URL
    (`runs/demo`, `s3://bucket/prefix/demo`), a TOML file's path, a packaged campaign's name, or a name below the root.
    `root`: replaces the TOML's root; else the root of a bare name, `runs` by default."""
    if campaign.endswith(".toml") or campaign in packaged_campaigns():
        loaded = load_campaign(campaign, [f'root="{root}"'] if root else [])
        return Store(loaded.root), loaded.name
    where, _, name = campaign.rstrip("/").rpartition("/")
    if not name or (where and root):
        raise CampaignError(f"{campaign!r}: give a campaign's directory, or its name and --root")
    return Store(where or ("/" if campaign.startswith("/") else root or "runs")), name


def find_campaign(campaign: str, overrides: Sequence[str] = (), root: str | None = None) -> Campaign:
    """As `load_campaign`, or as it was when it last ran: `campaign` may be its directory, or its name below the root.
    `root`: replaces the campaign's."""
    if not campaign.endswith(".toml") and campaign not in packaged_campaigns():
        store, name = locate_campaign(campaign, root)
        if "campaign.toml" in store.files(name):
            written = store.read_bytes(f"{name}/campaign.toml")
            return load_campaign(store.url(name), [*overrides, f'root="{store.uri}"'], written)
    return load_campaign(campaign, [*overrides, *([f'root="{root}"'] if root else [])])


def sample_sets(store: Store, campaign: str) -> list[SampleSet]:
    """The complete samples that lie in a campaign's directory, by model and benchmark.
    Raises CampaignError: there is no such campaign; ArtifactError: it has none."""
    check_campaign(store, campaign)
    found = []
    for directory in store.directories(f"{campaign}/samples"):
        model = directory.removeprefix("model=")
        for name in store.directories(f"{campaign}/samples/{directory}"):
            benchmark = name.removeprefix("benchmark=")
            found.append(SampleSet(store=store, campaign=campaign, model=model, benchmark=benchmark))
    return complete_ones(found, store.url(campaign))


def complete_ones(found: Iterable[SampleSet], campaign_url: str) -> list[SampleSet]:
    """Those that are complete. Raises ArtifactError where none is."""
    if complete := [samples for samples in found if samples.artifact.manifest() is not None]:
        return complete
    raise ArtifactError(f"{campaign_url} holds no complete samples: run the stage evaluate first")


def check_campaign(store: Store, campaign: str) -> None:
    """Raises CampaignError where no campaign of this name has begun below the store's root."""
    if campaign not in (there := store.directories("")):
        told = f"there are: {', '.join(there)}" if there else f"{store.uri} holds none"
        raise CampaignError(f"there is no campaign {campaign!r} under {store.uri}; {told}")
