"""From pool sources to the selected questions: each stage reads artifacts and writes one, on Ray Data.

Owns which artifacts a stage reads and writes and what its rows depend on. What happens to a row is decided
in `curate`; how segments run and resume, in `segments`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.cluster.attempts import Attempter, engine_actors
from thinkscale.cluster.deduplication import deduplicate
from thinkscale.cluster.domains import label_domains
from thinkscale.cluster.dropping import dropped_row, licences
from thinkscale.cluster.ingestion import build_benchmarks, ingest
from thinkscale.cluster.progress import Progress
from thinkscale.cluster.segments import Actors, Result, Segment, Slice, run_segments, slices
from thinkscale.curate import selection
from thinkscale.domain.campaign import Campaign
from thinkscale.engines.embedding import Embedder
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.card import data_card
from thinkscale.store.columns import stored_vectors
from thinkscale.store.filesystem import Store
from thinkscale.store.funnel_plot import draw_funnel
from thinkscale.store.lineage import FunnelStep, cascade, funnel
from thinkscale.store.locations import IngestError
from thinkscale.store.models import directory_hash, local_model
from thinkscale.store.schemas import DIFFICULTY, DROPPED, EMBEDDINGS, SELECTED, table

__all__ = ["build_benchmarks", "deduplicate", "embed", "ingest", "score_difficulty", "select"]

MODEL_FILES = ("*.safetensors", "*.json")


def embed(campaign: Campaign, store: Store) -> Manifest:
    """`embeddings`: a vector for each question of the pool and of the benchmarks."""
    pool, benchmarks = _artifact(campaign, store, "pool"), _benchmarks(campaign, store)
    output = _artifact(campaign, store, "embeddings")
    model = campaign.curate.embedding_model
    done = output.begin(
        {"embedding_model": model, "segment_rows": campaign.curate.segment_rows},
        {name: a.require().fingerprint for name, a in {"pool": pool, **benchmarks}.items()},
    )
    if (manifest := output.manifest()) is not None:
        return manifest
    segments = [
        Segment(key=f"{name}={segment.key}", rows=segment.rows, work=segment.work)
        for name, artifact in {"pool": pool, **{f"benchmark={k}": a for k, a in benchmarks.items()}}.items()
        for segment in slices(artifact, campaign.curate.segment_rows)
    ]
    resources = campaign.resources
    run_segments(
        "embed",
        output,
        segments,
        done,
        read=read_questions_only,
        transform=EmbedQuestions,
        arguments=(model, campaign.curate.embedding_batch_tokens, resources.threads_per_actor),
        actors=Actors(most=resources.embed_actors, gpus=resources.gpus_per_embed_actor),
    )
    return output.commit(EMBEDDINGS, expected_segments={segment.key for segment in segments})


def score_difficulty(campaign: Campaign, store: Store) -> Manifest:
    """`difficulty`: what each model of the cascade failed; a question that one of them solves is dropped.

    Every model but the last writes an artifact of its own, `difficulty-<n>`, that the next one reads.
    """
    source = _artifact(campaign, store, "unique")
    models = campaign.difficulty.models
    manifest = source.require()
    for place, model in enumerate(models, 1):
        output = _artifact(campaign, store, "difficulty" if place == len(models) else f"difficulty-{place}")
        manifest = _attempt(campaign, source, output, model)
        source = output
    return manifest


def select(campaign: Campaign, store: Store) -> Manifest:
    """`selected`: the questions to train on, by the campaign's strategy, in the order in which they were chosen.

    Before it `domains`, where the campaign labels questions itself.
    """
    source, output = label_domains(campaign, store), _artifact(campaign, store, "selected")
    embeddings = _artifact(campaign, store, "embeddings")
    inputs = {"questions": source} | ({"embeddings": embeddings} if campaign.select.strategy == "facility" else {})
    output.begin({"select": campaign.select.model_dump(), "seed": campaign.seed}, _inputs(**inputs))
    if (manifest := output.manifest()) is not None:
        return manifest
    rows = source.require().rows
    progress = Progress("select", min(campaign.select.count, rows))
    if not rows:
        raise IngestError(
            f"{source.url} is empty: no question is left to select. Every question was dropped before or is solved by "
            "a model of difficulty.models; add harder sources or weaker models"
        )
    if rows < campaign.select.count:
        progress.note(f"select.count is {campaign.select.count:,}, only {rows:,} are left: all are selected")
    candidates = [
        selection.Candidate(
            id=row["id"],
            source=intern(row["source"]),
            domain=intern(row["domain"] or row["source"]),
            trace_tokens=row["trace_tokens"] or 0,
        )
        for part in source.iter_tables(["id", "source", "domain", "trace_tokens"])
        for row in part.to_pylist()
    ]
    candidates.sort(key=lambda candidate: candidate.id)
    vectors = stored_vectors(embeddings, [candidate.id for candidate in candidates]) if "embeddings" in inputs else None
    picks = selection.select(candidates, campaign.select, campaign.seed, vectors)
    chosen = _chosen(source, picks)
    left = {candidate.id for candidate in candidates} - {pick.id for pick in picks}
    output.commit_segment("000000", table(chosen, SELECTED), dropped=_not_selected(sorted(left), campaign))
    progress.advance(len(chosen))
    facts, costs = licences(chosen), cascade(campaign, store)
    steps = [*funnel(campaign, store), _own_step(rows, len(chosen))]
    card = data_card(campaign, len(chosen), facts["licences"], steps, costs)
    files = [output.write_file("README.md", card.encode())]
    for kind, image in draw_funnel(steps, title=f"{campaign.name}: {len(chosen):,} questions").items():
        files.append(output.write_file(f"funnel.{kind}", image))
    return output.commit(SELECTED, extra={**facts, "cascade": [asdict(cost) for cost in costs]}, files=files)


# --- parts of the stages -----------------------------------------------------------------------------


def _own_step(rows: int, chosen: int) -> FunnelStep:
    dropped = {"not_selected": rows - chosen} if chosen < rows else {}
    return FunnelStep(artifact="selected", rows_in=rows, rows_kept=chosen, dropped=dropped)


def _chosen(source: Artifact, picks: Sequence[selection.Pick]) -> list[dict[str, Any]]:
    """The picked rows in the order of the picks; all others are read and forgotten a part at a time."""
    wanted = pa.array([pick.id for pick in picks])
    parts = source.iter_tables(DIFFICULTY.names)
    found = pa.concat_tables(rows.filter(pc.is_in(rows.column("id"), wanted)) for rows in parts)
    by_id = {row["id"]: row for row in found.to_pylist()}
    return [
        {
            **by_id[pick.id],
            "metadata": json.dumps(dict(by_id[pick.id]["metadata"] or ())),
            "selected_rank": rank,
            "selected_by": pick.by,
        }
        for rank, pick in enumerate(picks)
    ]


def _not_selected(ids: Sequence[str], campaign: Campaign) -> pa.Table:
    """Rows of `dropped`; their content stands in the artifact that they were selected from."""
    fixed = dropped_row("select", None, "not_selected", {"strategy": campaign.select.strategy})
    columns = {**{name: pa.repeat(pa.scalar(value, pa.string()), len(ids)) for name, value in fixed.items()}, "id": ids}
    return pa.table(columns, schema=DROPPED)


def _artifact(campaign: Campaign, store: Store, name: str) -> Artifact:
    return Artifact(store, f"{campaign.name}/{name}")


def _benchmarks(campaign: Campaign, store: Store) -> dict[str, Artifact]:
    return {b.name: _artifact(campaign, store, f"benchmarks/{b.name}") for b in campaign.evaluate.benchmarks}


def _inputs(**artifacts: Artifact) -> dict[str, str]:
    return {name: artifact.require().fingerprint for name, artifact in artifacts.items()}


def read_questions_only(work: Slice) -> pa.Table:
    return work.read(["id", "question"])


class EmbedQuestions:
    """In an actor: questions to vectors."""

    def __init__(self, model: str, batch_tokens: int, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        directory = local_model(model)
        self._embedder = Embedder(directory)
        self._batch_tokens = batch_tokens
        self._extra = {
            "engine": {
                "engine": "embedding",
                "model": model,
                "model_hash": directory_hash(directory, MODEL_FILES),
                "dtype": self._embedder.dtype,
                "device": self._embedder.device,
                "dimension": self._embedder.dimension,
                "max_tokens": self._embedder.files.max_tokens,
            }
        }

    def __call__(self, rows: pa.Table) -> Result:
        vectors = self._embedder.encode(rows.column("question").to_pylist(), self._batch_tokens)
        offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))
        kept = pa.Table.from_arrays([rows.column("id"), lists], schema=EMBEDDINGS)
        return Result(kept=kept, extra=self._extra)


def _attempt(campaign: Campaign, source: Artifact, output: Artifact, model: str) -> Manifest:
    reference = campaign.model.base if model == "base" else model
    settings = campaign.difficulty
    done = output.begin(
        {
            "model": reference,
            "difficulty": settings.model_dump(exclude={"models"}),
            "serve": campaign.serve.model_dump(include={"dtype", "context_tokens"}),
            "base": campaign.model.base,
            "seed": campaign.seed,
        },
        _inputs(questions=source),
    )
    if (manifest := output.manifest()) is not None:
        return manifest
    segments = slices(source, settings.segment_rows)
    run_segments(
        "difficulty",
        output,
        segments,
        done,
        transform=Attempter,
        arguments=(campaign, reference, model),
        actors=engine_actors(campaign),
    )
    return output.commit(DIFFICULTY, expected_segments={segment.key for segment in segments})
