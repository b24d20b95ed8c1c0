"""Asks on actors that die: a poisoned row is a row's status, its neighbours are answered, and engines do not mix."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray import cloudpickle
from thinkscale.domain.generation import Engine, EngineDiedError, Request
from thinkscale.domain.models import Serve
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.runtime.asks import GradeAll, answered, run_asks
from thinkscale.runtime.engines import EngineSettings, MixedEnginesError
from thinkscale.runtime.segments import Actors, Result, dropped_row
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DROPPED, EMBEDDINGS, table
from thinkscale.store.stage import Stage, begin_stage, slices
from tiny_model import write_tiny_model

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
pytestmark = pytest.mark.usefixtures("ray_cluster")


class Killing:
    """Asks for one token about each row; a row may kill the engine, or the whole process."""

    def __init__(self, engine_killer: str = "", process_killer: str = "") -> None:
        self.engine_killer, self.process_killer = engine_killer, process_killer

    def key(self, row: str) -> str:
        return row

    def expected(self, row: str) -> float:
        return 0.0

    async def ask(self, engine: Engine, tokenizer: ModelTokenizer, row: str) -> int:
        completion = await engine.generate(Request(prompt_ids=(5, 9, 2, 7), max_tokens=1))
        if row == self.process_killer:
            os.kill(os.getpid(), signal.SIGKILL)
        if row == self.engine_killer:
            raise EngineDiedError("out of memory")
        return len(completion.ids)

    def collect(self, rows: Sequence[str], answers: Sequence[Any], grade: GradeAll) -> Result:
        found, failed = answered(rows, answers)
        return Result(
            kept=table([{"id": row, "embedding": [float(count)]} for row, count in found], EMBEDDINGS),
            dropped=table([dropped_row("ask", row, "failed", {"error": a.error}) for row, a in failed], DROPPED),
        )


def ids(table: pa.Table) -> list[str]:
    return list(table.column("id").to_pylist())


def begun(root: Path, rows: int = 24) -> tuple[Stage, EngineSettings]:
    store = Store(str(root / "runs"))
    source = Artifact(store, "asking/numbers")
    if source.manifest() is None:
        source.begin({}, {})
        source.commit_segment("0", table([{"id": str(i), "embedding": [float(i)]} for i in range(rows)], EMBEDDINGS))
        source.commit(EMBEDDINGS)
    tiny = root / "tiny"
    if not tiny.exists():
        write_tiny_model(tiny)
    serve = Serve(engine="transformers", dtype="float32", context_tokens=512, max_concurrent_sequences=16)
    stage = begin_stage(Artifact(store, "asking/asked"), {}, {}, lambda: slices(source, 8))
    assert stage is not None
    return stage, EngineSettings(reference=str(tiny), serve=serve, threads=1)


@pytest.mark.parametrize("killer", [{"engine_killer": "13"}, {"process_killer": "5"}])
def test_a_row_that_kills_is_dropped_by_name_and_all_others_are_answered(
    tmp_path: Path, killer: dict[str, str]
) -> None:
    stage, settings = begun(tmp_path)
    run_asks("ask", stage, Killing(**killer), settings, Actors(most=1, cpus=0.5), ids)
    stage.commit(EMBEDDINGS)
    [poison] = killer.values()
    output = stage.output
    assert sorted(output.read()["id"].to_pylist(), key=int) == [str(i) for i in range(24) if str(i) != poison]
    dropped = output.read_dropped()
    assert dropped is not None
    assert dropped["id"].to_pylist() == [poison]
    assert "while it was alone" in dropped["detail"][0].as_py()
    assert output.require().stats["failed"] == 1


def test_another_engine_is_refused_on_resume_unless_asked_for(tmp_path: Path) -> None:
    stage, settings = begun(tmp_path)
    for segment in stage.pending[:1]:
        other = {"engine": "vllm", "version": "0.1", "dtype": "float32"}
        stage.output.commit_segment(segment.key, segment.work.read(), extra={"engine": other})
    stage, settings = begun(tmp_path)
    actors = Actors(most=1, cpus=0.5)
    with pytest.raises(MixedEnginesError, match="engine was 'vllm', is 'transformers'"):
        run_asks("ask", stage, Killing(), settings, actors, ids)
    mixed = settings.serve.model_copy(update={"mixed_engines": True})
    run_asks("ask", stage, Killing(), EngineSettings(reference=settings.reference, serve=mixed, threads=1), actors, ids)
    stage.commit(EMBEDDINGS)
    assert [each["engine"] for each in stage.output.require().extra["engines"]] == ["vllm", "transformers"]
