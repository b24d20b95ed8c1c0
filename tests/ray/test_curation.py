"""Curation on a small cluster: a whole campaign's data side, its funnel, refusals, and killed drivers and workers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import psutil
import pyarrow as pa
import pytest

import ray
from ray import cloudpickle
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.terms import TermsError, check_terms
from thinkscale.runtime.segments import Actors, Result, run_segments
from thinkscale.stages import benchmarks, deduplicate, difficulty, distill, embed, ingest, select
from thinkscale.store import lineage
from thinkscale.store.artifact import Artifact, ConfigDriftError
from thinkscale.store.filesystem import Store
from thinkscale.store.locations import IngestError
from thinkscale.store.schemas import EMBEDDINGS, table
from thinkscale.store.stage import begin_stage, slices
from tiny_model import write_tiny_model

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
pytestmark = pytest.mark.usefixtures("ray_cluster")

BENCH = (
    "A train leaves the station at noon and travels north at 60 kilometres an hour for three hours. How far is that?"
)
POOL = [
    {"q": "A baker makes 12 loaves every morning and sells 9 of them before noon. How many are left?", "a": 3},
    {"q": "A baker makes 12 loaves  every morning and sells 9 of them before noon. How many are left?", "a": 3},
    {"q": "A baker makes 12 loaves each morning and sells 9 of them before noon. How many are left?", "a": 3},
    {"q": BENCH.replace("leaves the station", "departs from the station"), "a": 180},
    {"q": "What is the area of the region in the figure below?", "a": 4},
    {"q": "How many legs do 7 dogs have altogether?", "a": "28", "why": "7 * 4 = 28."},
]


def campaign(tmp_path: Path, **changes: Any) -> Campaign:
    lines = [json.dumps(row) for row in POOL]
    (tmp_path / "pool.jsonl").write_text("\n".join([*lines[:3], '{"q": "cut', *lines[3:]]))
    (tmp_path / "bench.jsonl").write_text(json.dumps({"q": BENCH, "a": 180}) + "\n")
    columns = {"question": "q", "answer": "a"}
    files = {"type": "files", "kind": "integer", "licence": "CC0-1.0"}
    hand = {**files, "name": "hand", "paths": [str(tmp_path / "pool.jsonl")], "columns": {**columns, "solution": "why"}}
    trains = {**files, "name": "trains", "paths": [str(tmp_path / "bench.jsonl")], "columns": columns}
    tiny = tmp_path / "tiny"
    if not tiny.exists():
        write_tiny_model(tiny)
    return Campaign.model_validate(
        {
            "name": "curated",
            "root": str(tmp_path / "runs"),
            "pool": [
                hand,
                {"type": "reasoning_gym", "name": "gym", "families": ["gcd", "chain_sum", "aiw"], "rows": 30},
            ],
            "model": {"base": str(tiny)},
            "curate": {"segment_rows": 8, "near_duplicate_similarity": 0.6},
            "difficulty": {"models": ["base", str(tiny)], "max_tokens": 4, "segment_rows": 16},
            "select": {"count": 12},
            "teacher": {"source": "solutions"},
            "evaluate": {
                "benchmarks": [{"name": "trains", "source": trains}],
                "budgets": {"caps": [8], "max_answer_tokens": 8},
            },
            "serve": {"engine": "transformers", "dtype": "float32", "context_tokens": 512},
            "resources": {
                "embed_actors": 1, "difficulty_actors": 1, "replicas": 1, "gpus_per_replica": 0.0,
                "cpus_per_replica": 0.5, "threads_per_actor": 1,
            },
            **changes,
        }
    )  # fmt: skip


STAGES = (
    benchmarks.build_benchmarks, ingest.ingest, embed.embed, deduplicate.deduplicate, difficulty.score_difficulty,
    select.select, distill.distill,
)  # fmt: skip


def dropped(store: Store, name: str) -> dict[str, Any]:
    """Reason -> evidence of the rows that one artifact dropped."""
    rows = Artifact(store, f"curated/{name}").read_dropped()
    return {row["reason"]: json.loads(row["detail"]) for row in rows.to_pylist()} if rows else {}


def test_two_answers_to_one_question_are_both_kept_and_copies_told_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = campaign(tmp_path)
    legs = POOL[-1]
    rows = [legs, {**legs, "a": "24"}, legs]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(settings.root)
    ingest.ingest(settings, store)
    kept = [row for row in Artifact(store, "curated/pool").read().to_pylist() if row["source"] == "hand"]
    assert [row["answer"] for row in kept] == ["28", "24"]
    assert "1 texts have several reference answers" in capfd.readouterr().err
    story = [(s.artifact, s.kept, s.text) for s in lineage.why(settings, store, kept[0]["id"])]
    assert [(name, is_kept) for name, is_kept, _ in story] == [("ingested", True)] * 2 + [
        ("pool", True),
        ("pool", False),
    ]
    assert story[2][2].endswith("pool.jsonl:1")
    assert "pool.jsonl:3: exact_duplicate" in story[3][2]
    assert story[3][2].endswith("pool.jsonl:1")


def test_a_seeds_source_that_no_row_has_is_refused_once_the_pool_is_read(tmp_path: Path) -> None:
    rows = [{"q": f"What is {i} plus {i}?", "a": 2 * i, "from": f"set/{i % 2}"} for i in range(4)]
    settings = campaign(tmp_path)
    hand = settings.pool[0].model_dump() | {"columns": {"question": "q", "answer": "a", "source": "from"}}
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = settings.model_dump() | {"pool": [hand]}
    ingest.ingest(Campaign.model_validate(raw | {"select": {"always_sources": ["set/*"]}}), Store(settings.root))
    wrong = Campaign.model_validate(raw | {"select": {"long_sources": {"sets": 5}}})
    with pytest.raises(
        IngestError, match=r"select.long_sources: 'sets' is no source of the pool; there are: set/0, set/1"
    ):
        ingest.ingest(wrong, Store(settings.root))


def test_a_campaign_is_curated_and_every_row_accounted_for(tmp_path: Path) -> None:
    settings = campaign(tmp_path)
    store = Store(settings.root)
    for stage in STAGES:
        stage(settings, store)

    ingested = dropped(store, "ingested")
    assert ingested["unreadable_line"]["locator"].endswith("pool.jsonl:4")
    assert ingested["absent_image"]["evidence"] == "'figure below'"
    assert "kept" in dropped(store, "pool")["exact_duplicate"]
    unique = dropped(store, "unique")
    assert unique["leak:trains"]["overlap"] > 0.7
    assert unique["leak:trains"]["similarity"] > 0.8
    assert "near_duplicate" in unique

    vectors = Artifact(store, "curated/embeddings")
    assert vectors.require().rows == Artifact(store, "curated/pool").require().rows + 1
    assert vectors.require().extra["engine"]["dimension"] == 384

    difficulty = Artifact(store, "curated/difficulty")
    assert difficulty.require().extra["engine"]["engine"] == "transformers"
    rows = {row["id"]: row for row in difficulty.read().to_pylist()}
    assert all(row["attempts"] == 1 and row["pass_rate"] == 0 for row in rows.values())
    assert all(row["trace_tokens"] > 0 for row in rows.values() if row["solution"])

    selected = Artifact(store, "curated/selected").read().to_pylist()
    assert sorted(row["selected_rank"] for row in selected) == list(range(12))
    traces = Artifact(store, "curated/traces")
    unsolved = traces.require().dropped.get("no_solution", 0)
    assert traces.require().rows + unsolved == 12
    by_id = {row["id"]: row for row in selected}
    for row in traces.read().to_pylist():
        assert row["thinking"] == by_id[row["question_id"]]["solution"]
        assert row["thinking_tokens"] == len(row["thinking"].encode())
    assert {entry["source"]: entry["licence"] for entry in traces.require().extra["licences"]}["gym"] == "Apache-2.0"

    card = Path(settings.root, "curated", "selected", "README.md").read_text()
    assert "| gym | Apache-2.0 |" in card
    assert "1 leak:trains" in card
    [first, second] = Artifact(store, "curated/selected").require().extra["cascade"]
    assert first["questions"] - first["solved"] == second["questions"] > 12
    assert f"Together {first['tokens'] + second['tokens']:,} tokens, " in card
    assert Path(settings.root, "curated", "selected", "funnel.png").read_bytes().startswith(b"\x89PNG")
    assert b"near_duplicate" in Path(settings.root, "curated", "selected", "funnel.svg").read_bytes()

    steps = {step.artifact: step for step in lineage.funnel(settings, store)}
    assert list(steps) == ["ingested", "pool", "unique", "difficulty-1", "difficulty", "selected", "traces"]
    assert steps["ingested"].rows_in == len(POOL) + 1 + 30
    for before, after in pairwise(steps.values()):
        assert after.rows_in == before.rows_kept
    leak = Artifact(store, "curated/unique").read_dropped().to_pylist()[0]["id"]
    assert [(s.artifact, s.kept) for s in lineage.why(settings, store, leak)] == [
        ("ingested", True),
        ("pool", True),
        ("unique", False),
    ]
    story = lineage.why(settings, store, selected[0]["id"])
    assert [s.kept for s in story[:6]] == [True] * 6
    assert story[5].text == f"chosen as number 1 by {selected[0]['selected_by']}"

    directory, cache = Path(settings.root, "curated", "selected"), str(tmp_path / "cache")
    parts = str(directory / "part-*.parquet")
    by_parts = datasets.load_dataset("parquet", data_files=parts, split="train", cache_dir=cache)
    by_card = datasets.load_dataset(str(directory), split="train", cache_dir=cache)
    assert by_parts.to_list() == by_card.to_list() == selected

    before = {stage: stage(settings, store) for stage in STAGES}
    assert before == {stage: stage(settings, store) for stage in STAGES}
    with pytest.raises(ConfigDriftError, match=r"seed was 0, is 7"):
        select.select(settings.model_copy(update={"seed": 7}), store)


def test_an_empty_pool_is_told_with_its_reasons(tmp_path: Path) -> None:
    columns = {"question": "q", "answer": "a"}
    pool = [{"type": "files", "name": "hand", "paths": [str(tmp_path / "pool.jsonl")], "columns": columns}]
    settings = campaign(tmp_path, pool=pool)
    (tmp_path / "pool.jsonl").write_text('{"q": "", "a": 1}\n{"q"\n{"q": "In the figure below, what is x?", "a": 1}\n')
    with pytest.raises(IngestError, match=r"the pool is empty: 1 .*, 1 .*, 1 "):
        ingest.ingest(settings, Store(settings.root))


def test_a_broken_array_in_a_worker_is_told_as_it_is(tmp_path: Path) -> None:
    settings = campaign(tmp_path)
    rows = [json.dumps(row) for row in POOL] * 40  # the head that is looked at beforehand is whole
    (tmp_path / "pool.json").write_text("[" + ",\n".join(rows) + ',\n{"q" 1}]')
    source = settings.pool[0].model_copy(update={"paths": [str(tmp_path / "pool.json")]})
    with pytest.raises(IngestError, match=r"pool\.json, line 241: broken JSON array"):
        ingest.ingest(settings.model_copy(update={"pool": [source]}), Store(settings.root))


def test_terms_are_asked_for_before_anything_else(tmp_path: Path) -> None:
    teacher = {"source": "engine", "model": "teacher"}
    with pytest.raises(TermsError, match="'teacher' has no terms"):
        check_terms(campaign(tmp_path, teacher=teacher))
    forbidden = {**teacher, "terms": {"licence": "https://example.com/terms", "may_train": False}}
    with pytest.raises(TermsError, match="do not allow training"):
        distill.distill(campaign(tmp_path, teacher=forbidden), Store(str(tmp_path / "runs")))


def numbers(store: Store, count: int) -> Artifact:
    """An artifact of so many rows in four parts."""
    artifact = Artifact(store, "numbers")
    artifact.begin({}, {})
    for part in range(4):
        rows = [{"id": str(i), "embedding": [float(i)]} for i in range(part * count // 4, (part + 1) * count // 4)]
        artifact.commit_segment(f"{part}", table(rows, EMBEDDINGS))
    artifact.commit(EMBEDDINGS)
    return artifact


class Noting:
    """Writes a mark for each segment it begins, dawdles, and keeps the rows."""

    def __init__(self, marks: str, seconds: float) -> None:
        self._marks, self._seconds = Path(marks), seconds

    def __call__(self, rows: pa.Table) -> Result:
        first = rows.column("id")[0].as_py()
        (self._marks / f"{first}-{os.getpid()}-{time.monotonic_ns()}").touch()
        self._dawdle()
        return Result(kept=rows)

    def _dawdle(self) -> None:
        time.sleep(self._seconds)

    def _turn(self) -> int:
        """How many came before, over all workers; no two are told the same."""
        for number in itertools.count():
            with suppress(FileExistsError):
                (self._marks.with_name("turns") / str(number)).touch(exist_ok=False)
                return number
        raise AssertionError


class Held(Noting):
    """Ends four segments; the others never, so that whoever waits for them can be killed at any time."""

    def _dawdle(self) -> None:
        if self._turn() >= 4:
            time.sleep(3600)


class Dying(Noting):
    """Its process is killed within the third segment that is begun."""

    def _dawdle(self) -> None:
        if self._turn() == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def test_an_actor_may_hold_every_cpu_of_the_cluster(tmp_path: Path) -> None:
    store, marks = Store(str(tmp_path / "runs")), tmp_path / "marks"
    marks.mkdir()
    source, output = numbers(store, 20), Artifact(store, "copied")
    stage = begin_stage(output, {}, {}, lambda: slices(source, 5))
    assert stage is not None
    everything = Actors(most=2, cpus=ray.cluster_resources()["CPU"])
    run_segments("copy", stage, transform=Noting, arguments=(str(marks), 0.0), actors=everything)
    stage.commit(EMBEDDINGS)
    assert output.read().column("id").to_pylist() == [str(i) for i in range(20)]


def resume(root: str, marks: str, seconds: float, use_actors: bool, work: type[Noting] = Noting) -> Artifact:
    store = Store(root)
    source, output = Artifact(store, "numbers"), Artifact(store, "copied")
    stage = begin_stage(output, {}, {}, lambda: slices(source, 5))
    assert stage is not None
    if use_actors:
        run_segments("copy", stage, transform=work, arguments=(marks, seconds), actors=Actors(most=1, cpus=0.5))
    else:
        run_segments("copy", stage, transform=work(marks, seconds))
    stage.commit(EMBEDDINGS)
    return output


def began(marks: Path) -> Counter[str]:
    return Counter(mark.name.split("-")[0] for mark in marks.iterdir())


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition: Callable[[], bool], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.mark.parametrize("use_actors", [False, True])
def test_after_a_killed_driver_only_missing_segments_run_again(tmp_path: Path, use_actors: bool) -> None:
    store, marks = Store(str(tmp_path / "runs")), tmp_path / "marks"
    for name in ("marks", "turns"):
        (tmp_path / name).mkdir()
    numbers(store, 60)
    code = (
        "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); sys.path.insert(0, sys.argv[2]); "
        "from test_curation import Held, resume; resume(sys.argv[3], sys.argv[4], 0.0, sys.argv[5] == 'True', Held)"
    )
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-c", code, address, str(Path(__file__).parent), store.uri, str(marks), str(use_actors)],
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it is on loopback, as the cluster
        },
    )  # fmt: skip
    segments = Path(store.uri, "copied", "segments")
    wait_until(lambda: len(list(segments.glob("0*.json"))) >= 3 or driver.poll() is not None)
    assert driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # What was under way may still commit, as long as its workers live.
    wait_until(lambda: not any(lives(int(mark.name.split("-")[1])) for mark in marks.iterdir()))
    committed = {record.stem for record in segments.glob("0*.json")}
    before = began(marks)
    assert 3 <= len(committed) <= 4

    output = resume(store.uri, str(marks), 0.0, use_actors)
    assert sorted(output.read().column("id").to_pylist(), key=int) == [str(i) for i in range(60)]
    again = began(marks) - before
    assert sum(again.values()) == 12 - len(committed), (committed, before, again)
    assert not {str(int(key) * 5) for key in committed} & again.keys()


def test_a_killed_worker_costs_its_segment_and_no_more(tmp_path: Path) -> None:
    store, marks = Store(str(tmp_path / "runs")), tmp_path / "marks"
    for name in ("marks", "turns"):
        (tmp_path / name).mkdir()
    numbers(store, 60)
    output = resume(store.uri, str(marks), 0.0, use_actors=True, work=Dying)
    assert output.read().column("id").to_pylist() == [str(i) for i in range(60)]
    assert 12 < sum(began(marks).values()) <= 14
