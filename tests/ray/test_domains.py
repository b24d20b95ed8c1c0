"""Questions without a domain get one before the selection: from clusters, or from a classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_curation import campaign

from thinkscale.domain.campaign import Campaign
from thinkscale.stages import select
from thinkscale.stages.domains import label_domains
from thinkscale.store import lineage
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DIFFICULTY, EMBEDDINGS, table

pytestmark = pytest.mark.usefixtures("ray_cluster")
TOPICS = ("the radius of the circle around the triangle {}", "the prime factors of the integer {}")


def attempted(tmp_path: Path, **curate: object) -> tuple[Campaign, Store]:
    """A campaign whose difficulty is committed: 20 questions of two topics, one of them with a domain of its own."""
    settings = campaign(tmp_path, curate=curate, select={"count": 4, "strategy": "diverse"})
    store, noise = Store(settings.root), np.random.default_rng(0).normal(scale=0.05, size=(20, 3))
    rows = [
        {
            "id": f"q{i:02d}", "question": f"Find {TOPICS[i % 2].format(i)}.", "answer": "1", "kind": "integer",
            "source": "hand", "domain": "the pool's" if i == 7 else None, "trace_tokens": i, "attempts": 1,
            "pass_rate": 0.0,
        }
        for i in range(20)
    ]  # fmt: skip
    vectors = [{"id": f"q{i:02d}", "embedding": np.eye(3)[i % 2] + noise[i]} for i in range(20)]
    for name, key, found, schema in (
        ("difficulty", "000000", rows, DIFFICULTY),
        ("embeddings", "pool=000000", vectors, EMBEDDINGS),
    ):
        artifact = Artifact(store, f"curated/{name}")
        artifact.begin({"model": "none"}, {})
        artifact.commit_segment(key, table(found, schema))
        artifact.commit(schema)
    return settings, store


def test_clusters_name_what_the_pool_does_not(tmp_path: Path) -> None:
    settings, store = attempted(tmp_path, domains="clusters", domain_clusters=2)
    rows = {row["id"]: row for row in label_domains(settings, store).read().to_pylist()}
    assert rows["q07"]["domain_by"] == "the pool"
    names = [{row["domain"] for id_, row in rows.items() if int(id_[1:]) % 2 == i and id_ != "q07"} for i in range(2)]
    [[circles], [primes]] = names
    assert "circle" in circles
    assert "prime" in primes
    assert select.select(settings, store)
    assert Artifact(store, "curated/selected").require().inputs == {
        "questions": Artifact(store, "curated/domains").require().fingerprint
    }
    assert set(Artifact(store, "curated/selected").read().column("domain").to_pylist()) == {
        circles,
        primes,
        "the pool's",
    }
    told = [sighting.text for sighting in lineage.why(settings, store, "q00") if sighting.artifact == "domains"]
    assert told == [f"domain {circles!r} by clusters of the embeddings"]


def test_what_the_classifier_does_not_name_is_unclassified_and_counted(tmp_path: Path) -> None:
    settings, store = attempted(tmp_path, domains="classifier")  # the tiny model has no room for the classes
    manifest = label_domains(settings, store).require()
    assert manifest.stats["unclassified"] == 19
    assert manifest.stats["classified"] == 0
    assert manifest.extra["fallback_domain"] == "unclassified"
    assert manifest.extra["engine"]["engine"] == "transformers"
    rows = {row["id"]: row["domain"] for row in label_domains(settings, store).read().to_pylist()}
    assert {id_: name for id_, name in rows.items() if name != "unclassified"} == {"q07": "the pool's"}
    [told] = [sighting.text for sighting in lineage.why(settings, store, "q00") if sighting.artifact == "domains"]
    assert told.startswith("domain 'unclassified' by the classifier ")
    assert told.endswith(", whose reply named no class")
