"""An embedding for each question of the pool and of the benchmarks, on Ray Data actors that hold the model."""

import threading

import numpy as np
import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.engines.embedding import Embedder
from thinkscale.runtime.segments import Actors, Result, run_segments
from thinkscale.stages.artifacts import benchmark_artifacts, campaign_artifact, fingerprints
from thinkscale.store.filesystem import Store
from thinkscale.store.models import directory_hash, local_model
from thinkscale.store.schemas import EMBEDDINGS
from thinkscale.store.stage import Segment, Slice, begin_stage, slices

MODEL_FILES = ("*.safetensors", "*.json")


def embed(campaign: Campaign, store: Store) -> bool:
    curate, resources = campaign.curate, campaign.resources
    pool, benchmarks = campaign_artifact(campaign, store, "pool"), benchmark_artifacts(campaign, store)
    stage = begin_stage(
        campaign_artifact(campaign, store, "embeddings"),
        {"embedding_model": curate.embedding_model, "segment_rows": curate.segment_rows},
        fingerprints(**{"pool": pool, **benchmarks}),
        lambda: [
            Segment(key=f"{name}={segment.key}", rows=segment.rows, work=segment.work)
            for name, artifact in {"pool": pool, **{f"benchmark={k}": a for k, a in benchmarks.items()}}.items()
            for segment in slices(artifact, curate.segment_rows)
        ],
    )
    if stage is None:
        return False
    run_segments(
        "embed",
        stage,
        read=read_questions_only,
        transform=EmbedQuestions,
        arguments=(curate.embedding_model, curate.embedding_batch_tokens, resources.threads_per_actor),
        actors=Actors(most=resources.embed_actors, gpus=resources.gpus_per_embed_actor, at_once=2),
    )
    return stage.commit(EMBEDDINGS)


def read_questions_only(work: Slice) -> pa.Table:
    return work.read(["id", "question"])


class EmbedQuestions:
    def __init__(self, model: str, batch_tokens: int, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        directory = local_model(model)
        self._embedder = Embedder(directory)
        self._batch_tokens, self._turn = batch_tokens, threading.Lock()
        self._engine = {
            "engine": "embedding",
            "model": model,
            "model_hash": directory_hash(directory, MODEL_FILES),
            "dtype": self._embedder.dtype,
            "device": self._embedder.device,
            "dimension": self._embedder.dimension,
            "max_tokens": self._embedder.files.max_tokens,
        }

    def __call__(self, rows: pa.Table) -> Result:
        with self._turn:  # what another segment reads and writes goes on meanwhile
            vectors = self._embedder.encode(rows.column("question").to_pylist(), self._batch_tokens)
        offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))
        kept = pa.Table.from_arrays([rows.column("id"), lists], schema=EMBEDDINGS)
        return Result(kept=kept, extra={"engine": self._engine})
