"""Domains for the questions that come without one: clusters of their embeddings, or an LLM classifier.
Owns the artifact `domains`: the rows of `difficulty`, each with a domain and who gave it. The pool's own labels stay.
What a cluster's name or a classifier's reply is, others decide."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from thinkscale.curate.domains import PROMPT_VERSION, UNCLASSIFIED, classify, cluster_names, fit_clusters, nearest
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Engine
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.runtime.asking import Failed
from thinkscale.runtime.asks import GradeAll, run_asks
from thinkscale.runtime.engines import EngineSettings
from thinkscale.runtime.segments import Result, itself, run_segments
from thinkscale.stages.artifacts import campaign_artifact, template_hash
from thinkscale.stages.difficulty import engine_actors
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DOMAINS, table
from thinkscale.store.stage import Column, Segment, Slice, begin_stage, slices, stored_vectors, vector_blocks

FITTED = 20_000  # random questions that clusters are fitted to and named by; the others go to the nearest


def label_domains(campaign: Campaign, store: Store) -> Artifact:
    """`domains`; or `difficulty` as it is where the campaign goes by the pool's own labels, or nothing is left."""
    names = ("difficulty", "embeddings", "domains")
    source, embeddings, output = (campaign_artifact(campaign, store, name) for name in names)
    settings = campaign.curate
    if settings.domains == "pool" or not source.require().rows:
        return source
    inputs = {"difficulty": source.require().fingerprint}
    config: dict[str, Any] = {"domains": settings.domains, "seed": campaign.seed}
    if settings.domains == "clusters":
        inputs["embeddings"] = embeddings.require().fingerprint
        config["domain_clusters"] = settings.domain_clusters
    else:
        reference = campaign.model.base if settings.domain_model == "base" else settings.domain_model
        config |= {
            "domain_model": reference,
            "domain_max_tokens": settings.domain_max_tokens,
            "template": template_hash(campaign, reference),
            "prompt_version": PROMPT_VERSION,
            "serve": campaign.serve.model_dump(include={"dtype", "context_tokens"}),
        }
    stage = begin_stage(output, config, inputs, lambda: slices(source, campaign.difficulty.segment_rows))
    if stage is None:
        return output
    if settings.domains == "clusters":
        work = _with_clusters(source, embeddings, stage.segments, settings.domain_clusters, campaign.seed)
        run_segments("domains", replace(stage, segments=work), read=itself, transform=set_domains)
    else:
        classes = Classes(max_tokens=settings.domain_max_tokens, by=f"the classifier {reference}")
        run_asks("domains", stage, classes, EngineSettings.of(campaign, reference), engine_actors(campaign))
    stage.commit(DOMAINS)
    return output


def _with_clusters(
    source: Artifact, embeddings: Artifact, segments: Sequence[Segment], count: int, seed: int
) -> tuple[Segment, ...]:
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
    return tuple(result)


def set_domains(work: tuple[Slice, list[str]]) -> Result:
    """The rows of a slice with the names of their clusters."""
    rows = work[0].read().to_pylist()
    return Result(kept=_labelled(rows, [(name, "clusters of the embeddings") for name in work[1]]))


def _labelled(rows: list[dict[str, Any]], found: list[tuple[str, str]]) -> pa.Table:
    for row, (name, by) in zip(rows, found, strict=True):
        row["domain"], row["domain_by"] = (row["domain"], "the pool") if row["domain"] else (name, by)
    return table(rows, DOMAINS)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A model names the class of each question that has no domain."""

    max_tokens: int
    by: str

    def key(self, row: dict[str, Any]) -> str:
        return str(row["id"])

    def expected(self, row: dict[str, Any]) -> float:
        return 0.0 if row["domain"] else len(row["question"])

    async def ask(self, engine: Engine, tokenizer: ModelTokenizer, row: dict[str, Any]) -> Any:
        """The class and the tokens decoded; None where the pool names the domain."""
        if not row["domain"]:
            return await classify(engine, tokenizer, row["question"], max_tokens=self.max_tokens)
        return None

    def collect(self, rows: Sequence[dict[str, Any]], answers: Sequence[Any], grade_all: GradeAll) -> Result:
        found = [self._domain(answer) for answer in answers]
        replies = [answer for answer in answers if isinstance(answer, tuple)]
        named = sum(name is not None for name, _ in replies)
        stats = {"classified": named, "unclassified": len(replies) - named, "reply_tokens": sum(n for _, n in replies)}
        return Result(kept=_labelled(list(rows), found), stats=stats, extra={"fallback_domain": UNCLASSIFIED})

    def _domain(self, answer: Any) -> tuple[str, str]:
        match answer:
            case Failed(error=error):
                return UNCLASSIFIED, f"{self.by}, which failed: {error}"
            case (str() as name, _):
                return name, self.by
        return UNCLASSIFIED, f"{self.by}, whose reply named no class"
