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

from thinkscale.curate.classifier import PROMPT_VERSION, UNCLASSIFIED, classify
from thinkscale.curate.domains import cluster_names, fit_clusters, nearest
from thinkscale.domain.campaign import Campaign
from thinkscale.runtime.segments import Result, Segment, Slice, itself, run_segments, slices
from thinkscale.stages.artifacts import template_hash
from thinkscale.stages.difficulty import EngineLoop, engine_actors
from thinkscale.store.artifact import Artifact
from thinkscale.store.columns import Column, stored_vectors, vector_blocks
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DOMAINS, table

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
        named = settings.domain_model
        config |= {
            "domain_model": campaign.model.base if named == "base" else named,
            "domain_max_tokens": settings.domain_max_tokens,
            "template": template_hash(campaign, campaign.model.base if named == "base" else named),
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
        run_segments(
            "domains",
            output,
            segments,
            done,
            transform=ClassifyRows,
            arguments=(campaign, config["domain_model"]),
            actors=engine_actors(campaign),
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
    names, labels = [""], np.zeros(len(ids), dtype=np.int64)
    if len(unlabelled):
        fitted = np.random.default_rng(seed).choice(unlabelled, min(FITTED, len(unlabelled)), replace=False)
        fitted.sort()
        vectors, questions = stored_vectors(embeddings, [ids[i] for i in fitted]), Column(source, "question")
        centroids = fit_clusters(vectors, count, seed)
        names = cluster_names([questions[i] for i in fitted.tolist()], nearest(vectors, centroids).tolist())
        for places, block in vector_blocks(embeddings, ids):
            labels[places] = nearest(block, centroids)
    result, first = [], 0
    for segment in segments:
        own = [names[label] for label in labels[first : first + segment.rows]]
        result.append(replace(segment, work=(segment.work, own)))
        first += segment.rows
    return result


def set_domains(work: tuple[Slice, list[str]]) -> Result:
    """The rows of a slice with the names of their clusters."""
    rows = work[0].read().to_pylist()
    return Result(kept=_labelled(rows, [(name, "clusters of the embeddings") for name in work[1]]))


def _labelled(rows: list[dict[str, Any]], found: list[tuple[str, str]]) -> pa.Table:
    """The rows with the domain found and who gave it, where the pool gives none."""
    for row, (name, by) in zip(rows, found, strict=True):
        row["domain"], row["domain_by"] = (row["domain"], "the pool") if row["domain"] else (name, by)
    return table(rows, DOMAINS)


class ClassifyRows:
    """In an actor: a model names the class of each question that has no domain."""

    def __init__(self, campaign: Campaign, reference: str) -> None:
        self._max_tokens, self._by = campaign.curate.domain_max_tokens, f"the classifier {reference}"
        self._engine = EngineLoop(campaign, reference)

    def __call__(self, batch: pa.Table) -> Result:
        rows = batch.to_pylist()
        asked = [row["question"] for row in rows if not row["domain"]]
        replies = self._engine.run(self._classify_all(asked))
        each = iter(replies)
        found = [(row["domain"], 0) if row["domain"] else next(each) for row in rows]
        missed = f"{self._by}, whose reply named no class"
        unclassified = sum(name is None for name, _ in replies)
        return Result(
            kept=_labelled(rows, [(name, self._by) if name else (UNCLASSIFIED, missed) for name, _ in found]),
            stats={
                "classified": len(replies) - unclassified,
                "unclassified": unclassified,
                "reply_tokens": sum(tokens for _, tokens in replies),
            },
            extra={"engine": asdict(self._engine.engine.info), "fallback_domain": UNCLASSIFIED},
        )

    async def _classify_all(self, questions: list[str]) -> list[tuple[str | None, int]]:
        engine = self._engine
        work = (classify(engine.engine, engine.tokenizer, text, max_tokens=self._max_tokens) for text in questions)
        return await asyncio.gather(*work)
