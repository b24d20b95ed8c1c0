"""Domains for the questions that come without one: clusters of their embeddings, or an LLM classifier.

Owns the artifact `domains`: the rows of `difficulty`, each with a domain and who gave it. The pool's own labels
stay. What a cluster's name or a classifier's reply is, others decide.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from thinkscale.cluster.attempts import EngineLoop
from thinkscale.cluster.segments import Actors, Result, Segment, Slice, itself, run_segments, slices
from thinkscale.curate.domains import cluster_names, fit_clusters, nearest
from thinkscale.domain.campaign import Campaign
from thinkscale.engines.classifier import PROMPT_VERSION, UNCLASSIFIED, classify
from thinkscale.store.artifact import Artifact
from thinkscale.store.columns import stored_vectors, vector_blocks
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DOMAINS

FITTED = 20_000
"""Random questions that clusters are fitted to and named by; the others go to the nearest."""


def label_domains(campaign: Campaign, store: Store) -> Artifact:
    """`domains`; or `difficulty` as it is where the campaign goes by the pool's own labels, or nothing is left."""
    source, embeddings, output = (
        Artifact(store, f"{campaign.name}/{name}") for name in ("difficulty", "embeddings", "domains")
    )
    settings = campaign.curate
    if settings.domains == "pool" or not source.require().rows:
        return source
    inputs = {"difficulty": source.require().fingerprint}
    config: dict[str, Any] = {"domains": settings.domains, "seed": campaign.seed}
    if settings.domains == "clusters":
        inputs["embeddings"] = embeddings.require().fingerprint
        config["domain_clusters"] = settings.domain_clusters
    else:
        config |= {
            "domain_model": campaign.model.base if settings.domain_model == "base" else settings.domain_model,
            "domain_max_tokens": settings.domain_max_tokens,
            "prompt_version": PROMPT_VERSION,
            "serve": campaign.serve.model_dump(include={"dtype", "context_tokens"}),
        }
    done = output.begin(config, inputs)
    if output.manifest() is not None:
        return output
    segments = slices(source, campaign.difficulty.segment_rows)
    if settings.domains == "clusters":
        work = _with_clusters(source, embeddings, segments, settings.domain_clusters, campaign.seed)
        run_segments("domains", output, work, done, read=itself, transform=set_domains)
    else:
        resources = campaign.resources
        run_segments(
            "domains",
            output,
            segments,
            done,
            transform=ClassifyRows,
            arguments=(campaign, config["domain_model"]),
            actors=Actors(
                most=resources.difficulty_actors,
                cpus=resources.cpus_per_replica,
                gpus=resources.gpus_per_replica,
                at_once=2,
            ),
        )
    output.commit(DOMAINS, expected_segments={segment.key for segment in segments})
    return output


def _with_clusters(
    source: Artifact, embeddings: Artifact, segments: list[Segment], count: int, seed: int
) -> list[Segment]:
    """The segments' work with the names of their rows' clusters."""
    rows = pa.concat_tables(source.iter_tables(["id", "domain"]))
    ids = rows.column("id").to_pylist()
    unlabelled = np.nonzero([not domain for domain in rows.column("domain").to_pylist()])[0]
    if not len(unlabelled):
        return [replace(segment, work=(segment.work, [""] * segment.rows)) for segment in segments]
    generator = np.random.default_rng(seed)
    fitted = np.sort(generator.choice(unlabelled, min(FITTED, len(unlabelled)), replace=False))
    vectors = stored_vectors(embeddings, [ids[i] for i in fitted])
    centroids = fit_clusters(vectors, count, seed)
    names = cluster_names(_questions(source, fitted), nearest(vectors, centroids).tolist())
    labels = np.zeros(len(ids), dtype=np.int64)
    for places, block in vector_blocks(embeddings, ids):
        labels[places] = nearest(block, centroids)
    result, first = [], 0
    for segment in segments:
        own = [names[label] for label in labels[first : first + segment.rows]]
        result.append(replace(segment, work=(segment.work, own)))
        first += segment.rows
    return result


def _questions(source: Artifact, places: np.ndarray[Any, np.dtype[np.int64]]) -> list[str]:
    found, first = [], 0
    for rows in source.iter_tables(["question"]):
        within = places[(places >= first) & (places < first + rows.num_rows)] - first
        found += rows.column("question").take(pa.array(within)).to_pylist()
        first += rows.num_rows
    return found


def set_domains(work: tuple[Slice, list[str]]) -> Result:
    """The rows of a slice with the names of their clusters."""
    rows = work[0].read()
    return Result(kept=_labelled(rows, [(name, "clusters of the embeddings") for name in work[1]]))


def _labelled(rows: pa.Table, found: list[tuple[str, str]]) -> pa.Table:
    """Domain and who gave it, for the rows that have none of the pool."""
    own = rows.column("domain").to_pylist()
    told = [(domain, "the pool") if domain else made for domain, made in zip(own, found, strict=True)]
    at = rows.column_names.index("domain")
    rows = rows.set_column(at, "domain", pa.array([domain for domain, _ in told], pa.string()))
    return rows.append_column("domain_by", pa.array([by for _, by in told], pa.string())).cast(DOMAINS)


class ClassifyRows:
    """In an actor: a model names the class of each question that has no domain."""

    def __init__(self, campaign: Campaign, reference: str) -> None:
        self._max_tokens, self._reference = campaign.curate.domain_max_tokens, reference
        self._engine = EngineLoop(campaign, reference)

    def __call__(self, rows: pa.Table) -> Result:
        asked = {
            i: question
            for i, (question, domain) in enumerate(
                zip(*(rows.column(name).to_pylist() for name in ("question", "domain")), strict=True)
            )
            if not domain
        }
        replies = dict(zip(asked, self._engine.run(self._classify_all(list(asked.values()))), strict=True))
        found = []
        for i in range(rows.num_rows):
            name, _ = replies.get(i, (None, 0))
            by = f"the classifier {self._reference}" + ("" if name else ", whose reply named no class")
            found.append((name or UNCLASSIFIED, by))
        return Result(
            kept=_labelled(rows, found),
            stats={
                "classified": sum(name is not None for name, _ in replies.values()),
                "unclassified": sum(name is None for name, _ in replies.values()),
                "decoded_tokens": sum(tokens for _, tokens in replies.values()),
            },
            extra={"engine": asdict(self._engine.engine.info), "fallback_domain": UNCLASSIFIED},
        )

    async def _classify_all(self, questions: list[str]) -> list[tuple[str | None, int]]:
        engine = self._engine
        work = (classify(engine.engine, engine.tokenizer, text, max_tokens=self._max_tokens) for text in questions)
        return await asyncio.gather(*work)
