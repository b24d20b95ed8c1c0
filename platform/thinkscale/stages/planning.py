"""What a campaign will take: hours, minutes and dollars of each stage before anything is spent, and what it took.
Owns the way from rows to dollars, and which rate is taken: the campaign's ([plan]), else that of earlier artifacts
below the root, else the package's (`rates.toml`). Every figure is an array of three: low, likely, high."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.reference import commented_toml
from thinkscale.domain.source import AddedSource, Benchmark
from thinkscale.forcing.sweep import curve_cells
from thinkscale.learn.arithmetic import PEAK_FLOPS, model_flops, peak_flops
from thinkscale.runtime.spend import Spending
from thinkscale.stages.artifacts import campaign_artifact, is_complete, shape, weights
from thinkscale.store.artifact import READERS, Artifact, ArtifactError, Manifest
from thinkscale.store.benchmarks import added_manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import plan as pieces_of
from thinkscale.store.locations import IngestError
from thinkscale.store.models import ModelError

Three = npt.NDArray[np.float64]
MEASURED_BETWEEN = (0.8, 1.25)  # of what earlier artifacts give: other questions are longer, other machines slower
MEASURED_S = 60.0  # device-seconds below which an artifact tells no rate: warming up is most of them
SPREAD = 1.4  # mean of the squared lengths over the square of their mean, of traces as s1's
NOTHING = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage will hold and cost; figures are low, likely, high."""

    stage: str
    work: str  # in words
    minutes: tuple[float, ...] = NOTHING
    cpu_hours: tuple[float, ...] = NOTHING
    gpu_hours: tuple[float, ...] = NOTHING
    usd: tuple[float, ...] = NOTHING
    rates: tuple[str, ...] = ()  # what it was counted with, and where each figure comes from


def make_plan(
    campaign: Campaign, store: Store, stages: Collection[str], refused: dict[str, Exception] | None = None
) -> list[StagePlan]:
    """`refused`: takes up, by stage, what was wrong with the inputs that were looked at."""
    planner = _Planner(campaign, store, {} if refused is None else refused)
    return [planner.plan(stage) for stage in stages]


def keep_plan(campaign: Campaign, store: Store, rows: Collection[StagePlan]) -> None:
    """Write the resolved campaign and its plan below the root: `campaign.toml`, `plan.json`."""
    store.write_bytes(f"{campaign.name}/campaign.toml", "\n".join(commented_toml(campaign)).encode())
    store.write_bytes(f"{campaign.name}/plan.json", json.dumps([asdict(row) for row in rows], indent=1).encode())


def against_actual(campaign: Campaign, store: Store, spent: Spending) -> list[dict[str, Any]]:
    """Of each stage that took something: minutes and dollars as planned before anything was spent, and as it was."""
    planned = store.read_json(f"{campaign.name}/plan.json") if spent.stages else []
    return [
        {name: row[name] for name in ("stage", "minutes", "usd")}
        | {"actual_minutes": seconds["elapsed_s"] / 60, "actual_usd": spent.usd_of(row["stage"])}
        for row in planned
        if (seconds := spent.stages.get(row["stage"]))
    ]


def plan_table(rows: Collection[StagePlan]) -> str:
    """The plan as text: a line for each stage and for all, then the rates."""
    heads = (f"{'GPU-hours':>10}{'CPU-hours':>11}", "minutes", "USD")
    lines = [f"{'stage':<12}{heads[0]}{heads[1]:>9} {'from..to':<14}{heads[2]:>9} {'from..to':<16} work"]
    totals: dict[str, Any] = {n: np.sum([getattr(row, n) for row in rows], axis=0) for n in _FIGURES}
    for row in [*rows, StagePlan(stage="all", work="", **totals)]:
        minutes, usd = (f"{each[1]:>9,.3g} {f'{each[0]:,.3g}..{each[2]:,.3g}':<14}" for each in (row.minutes, row.usd))
        lines.append(f"{row.stage:<12}{row.gpu_hours[1]:>10,.3g}{row.cpu_hours[1]:>11,.3g}{minutes}{usd}   {row.work}")
    return "\n".join([*lines, *(f"with {rate}" for rate in dict.fromkeys(rate for row in rows for rate in row.rates))])


def actual_table(rows: Collection[dict[str, Any]]) -> str:
    """The plan against what was seen, as text; empty where nothing was spent."""
    lines = [f"{'stage':<12}{'planned minutes':>16} {'from..to':<14}{'actual':>9}{'planned USD':>13}{'actual':>9}"]
    for row in rows:
        low, likely, high = row["minutes"]
        minutes = f"{likely:>16,.3g} {f'{low:,.3g}..{high:,.3g}':<14}{row['actual_minutes']:>9,.3g}"
        lines.append(f"{row['stage']:<12}{minutes}{row['usd'][1]:>13,.3g}{row['actual_usd']:>9,.3g}")
    return "\n".join(lines) if rows else ""


_FIGURES = ("minutes", "cpu_hours", "gpu_hours", "usd")


class _Planner:
    def __init__(self, campaign: Campaign, store: Store, refused: dict[str, Exception]) -> None:
        self._refused = refused
        self._campaign, self._store, self._wanted = campaign, store, campaign.resources
        self._packaged = tomllib.loads((resources.files("thinkscale") / "rates.toml").read_text(encoding="utf-8"))
        self._used: dict[str, None] = {}
        self._asked_usd = np.zeros(3)  # what endpoints ask for the stage

    def plan(self, stage: str) -> StagePlan:
        if is_complete(self._campaign, self._store, stage):
            return StagePlan(stage=stage, work="complete")
        self._used, self._asked_usd = {}, np.zeros(3)
        try:
            work, wall_s, n, cpus, gpus = getattr(self, f"_{stage}")()
        except (IngestError, ModelError, ArtifactError) as error:
            self._refused[stage] = error
            return StagePlan(stage=stage, work="not known: what it needs is refused")
        prices, hours = self._campaign.prices, wall_s * n / 3600
        usd = hours * (cpus * prices.cpu_hour_usd + gpus * prices.gpu_hour_usd) + self._asked_usd
        figures = zip(_FIGURES, (wall_s / 60, hours * cpus, hours * gpus, usd), strict=True)
        found = {name: tuple(each.tolist()) for name, each in figures}
        return StagePlan(stage=stage, work=work, **found, rates=tuple(self._used))

    # Rows, and other amounts

    @cached_property
    def _pool(self) -> float:
        stated = self._campaign.plan.get("pool_rows")
        return stated or float(sum(piece.rows for source in self._campaign.pool for piece in pieces_of(source, 1024)))

    @cached_property
    def _asked(self) -> float:
        stated = self._campaign.plan.get("benchmark_rows")
        return stated or float(sum(map(self._rows_of, self._campaign.evaluate.benchmarks)))

    def _rows_of(self, benchmark: Benchmark) -> int:
        made = campaign_artifact(self._campaign, self._store, f"benchmarks/{benchmark.name}").manifest()
        if isinstance(benchmark.source, AddedSource):
            made = made or added_manifest(self._store, benchmark.name)
        elif made is None:
            return min(sum(piece.rows for piece in pieces_of(benchmark.source, 1024)), benchmark.limit or 1 << 60)
        return min(made.rows, benchmark.limit or 1 << 60)

    def _left(self, name: str, otherwise: Callable[[], Three]) -> Three:
        made = campaign_artifact(self._campaign, self._store, name).manifest()
        return otherwise() if made is None else np.full(3, float(made.rows))

    def _unique(self) -> Three:
        return self._left("unique", lambda: self._pool * self._rate("pool_kept"))

    def _unsolved(self, models: int) -> Three:
        return self._unique() * (1 - self._rate("solved")[::-1]) ** models

    def _selected(self) -> Three:
        settings = self._campaign
        left = self._left("difficulty", lambda: self._unsolved(len(settings.difficulty.models)))
        return self._left("selected", lambda: np.minimum(left, settings.select.count))

    # Rates

    def _rate(self, name: str) -> Three:
        packaged, found = self._packaged[name], self._measured.get(name)
        if (stated := self._campaign.plan.get(name)) is not None:  # type: ignore[call-overload]
            low, likely, high, source = stated, stated, stated, "the campaign"
        elif found:
            likely = sum(work for work, _, _ in found) / sum(seconds for _, seconds, _ in found)
            each, source = [work / seconds for work, seconds, _ in found], ", ".join(path for _, _, path in found[:3])
            low, high = min(each) * MEASURED_BETWEEN[0], max(each) * MEASURED_BETWEEN[1]
        else:
            low, likely, high = (packaged[key] for key in ("low", "value", "high"))
            source = f"benchmarks/results/{packaged['file']}.json" if "file" in packaged else packaged["source"]
        self._used[f"{name} = {likely:.4g} ({source})"] = None
        return np.array([low, likely, high])

    @cached_property
    def _measured(self) -> dict[str, list[tuple[float, float, str]]]:
        """Work, device-seconds and artifact of what was measured below the root, by rate."""
        found, engine = defaultdict(list), self._campaign.serve.engine
        engine = ("vllm" if find_spec("vllm") else "transformers") if engine == "auto" else engine
        for path, manifest in _manifests(self._store):
            seen = _observed(manifest)
            drawn_by = (manifest.extra.get("engine") or {}).get("engine", engine)
            if seen is not None and seen[2] >= MEASURED_S and drawn_by in (engine, "embedding"):
                found[seen[0]].append((*seen[1:], path))
        return found

    # The stages: work in words, seconds, and how many workers hold how many CPUs and GPUs each

    def _light(self, count: float, what: str, rate: str | None = None) -> _Held:
        wall_s = self._rate("light_start_s") + (count / self._rate(rate)[::-1] if rate else 0)
        return f"{count:,.0f} {what}", wall_s, 1, 1, 0

    def _decoding(self, work: str, n: int, *asked: tuple[str | None, Three]) -> _Held:
        cpus, gpus = self._wanted.cpus_per_replica, self._wanted.gpus_per_replica
        device = "gpu" if gpus else "cpu"
        names = [self._campaign.model.base if model in ("base", None) else model for model, _ in asked]
        tflop = sum(2e-12 * weights(str(name)) * tokens for name, (_, tokens) in zip(names, asked, strict=True))
        busy_s = tflop / self._rate(f"{device}_decode_tflop_per_s")[::-1]
        return work, busy_s / (n * (gpus or cpus)) + len(asked) * self._rate(f"{device}_engine_start_s"), n, cpus, gpus

    def _benchmarks(self) -> _Held:
        return self._light(self._asked, "questions")

    def _ingest(self) -> _Held:
        return self._light(self._pool, "rows", "ingest_rows_per_s")

    def _embed(self) -> _Held:
        rows, n, gpus = self._pool + self._asked, self._wanted.embed_actors, self._wanted.gpus_per_embed_actor
        busy_s = rows / self._rate(f"{'gpu' if gpus else 'cpu'}_embed_rows_per_s")[::-1]
        return f"{rows:,.0f} questions", self._rate("light_start_s") + busy_s / (n * (gpus or 1)), n, 1, gpus

    def _deduplicate(self) -> _Held:
        return self._light(self._pool, "rows", "deduplicate_rows_per_s")

    def _difficulty(self) -> _Held:
        settings, rows = self._campaign.difficulty, self._unique()
        tokens = np.minimum(self._rate("attempt_tokens"), settings.max_tokens) * settings.attempts
        asked = [(model, self._unsolved(place) * tokens) for place, model in enumerate(settings.models)]
        work = f"{rows[1]:,.0f} questions, {len(asked)} model(s), {tokens[1]:,.0f} tokens each"
        return self._decoding(work, self._wanted.difficulty_actors, *asked)

    def _select(self) -> _Held:
        settings, rows = self._campaign.curate, self._selected()
        if settings.domains != "classifier":
            return self._light(rows[1], "questions")
        left = self._left("difficulty", lambda: self._unsolved(len(self._campaign.difficulty.models)))
        asked = (settings.domain_model, left * [0.1, 0.3, 1.0] * settings.domain_max_tokens)
        return self._decoding(f"{left[1]:,.0f} domains", self._wanted.difficulty_actors, asked)

    def _distill(self) -> _Held:
        rows, asked = self._selected(), list[tuple[str | None, Three]]()
        attempts = sum(teacher.attempts for teacher in self._campaign.teacher if teacher.source == "engine")
        for teacher in (each for each in self._campaign.teacher if each.source == "engine"):
            most = teacher.max_thinking_tokens + teacher.max_answer_tokens
            tokens = rows * teacher.attempts * self._rate("trace_tokens").clip(max=most)
            if teacher.endpoint is None:
                asked.append((teacher.model, tokens))
            else:  # the prompts are a trifle beside the traces
                share = 0.5 if teacher.api == "batch" else 1.0
                self._asked_usd = self._asked_usd + share * tokens / 1e6 * teacher.prices.completion_usd_per_million
        if not asked:
            return self._light(rows[1] * max(attempts, 1), "traces")
        return self._decoding(f"{rows[1] * attempts:,.0f} traces", self._wanted.replicas, *asked)

    def _train(self) -> _Held:
        settings, wanted = self._campaign.train, self._wanted
        rows = self._left("traces", self._selected)
        tokens = self._rate("trace_tokens").clip(max=settings.context_tokens)
        n, cpus, gpus = wanted.train_workers, wanted.cpus_per_train_worker, wanted.gpus_per_train_worker
        if gpus:
            kind = wanted.gpu or "H100"
            self._used[f"peak = {PEAK_FLOPS[kind] / 1e12:g} TFLOP/s ({kind})"] = None
        rate = self._rate("mfu") * PEAK_FLOPS[kind] if gpus else self._rate("cpu_train_tflop_per_s") * 1e12
        busy_s = training_flop(self._campaign.model.base, rows * settings.epochs, tokens) / rate[::-1]
        work = f"{rows[1]:,.0f} samples of {tokens[1]:,.0f} tokens, {settings.epochs} epoch(s)"
        start_s = self._rate(f"{'gpu' if gpus else 'cpu'}_train_start_s")
        return work, start_s + busy_s / (n * (gpus or cpus)), n, cpus, gpus

    def _evaluate(self) -> _Held:
        settings, budgets = self._campaign.evaluate, self._campaign.evaluate.budgets
        answers = self._cells * self._rate("answer_tokens").clip(max=budgets.max_answer_tokens)
        each = self._rate("thinking_tokens").clip(max=max(budgets.caps)) + answers
        most = settings.max_samples if settings.target_interval else settings.samples
        drawn = self._asked * np.array([settings.samples, np.sqrt(settings.samples * most), most])
        work = f"{drawn[1]:,.0f} samples, {len(settings.models)} model(s), {each[1]:,.0f} tokens each"
        return self._decoding(work, self._wanted.replicas, *[("base", drawn * each)] * len(settings.models))

    def _report(self) -> _Held:
        settings = self._campaign.evaluate
        answers = self._asked * settings.samples * self._cells * len(settings.models)
        return self._light(answers, "answers", "report_samples_per_s")

    @property
    def _cells(self) -> int:
        return len(curve_cells(self._campaign.evaluate.budgets.caps, self._campaign.evaluate.budgets.waits))


_Held = tuple[str, Three, int, float, float]


def training_flop(reference: str, samples: Three | float, tokens: Three | float) -> Any:
    """FLOP of so many samples of so many tokens in the mean, their lengths spread as those of s1's traces are."""
    once, twice = (model_flops([n], shape(reference), weights(reference)) for n in (1, 2))
    square = twice / 2 - once  # what a sample costs is linear * tokens + square * tokens ** 2
    return samples * tokens * (once - square + SPREAD * square * tokens)


def _manifests(store: Store) -> Iterator[tuple[str, Manifest]]:
    names = store.directories("")
    samples = [f"{name}/samples/{each}" for name in names for each in store.directories(f"{name}/samples")]
    paths = [f"{place}/{each}" for place in [*names, *samples] for each in store.directories(place)]
    with ThreadPoolExecutor(READERS) as pool:
        found = zip(paths, pool.map(lambda path: Artifact(store, path).manifest(), paths), strict=True)
        yield from ((path, made) for path, made in found if made and "taken_from" not in made.extra)


def _observed(manifest: Manifest) -> tuple[str, float, float] | None:
    """A rate's name, the work and the device-seconds that an artifact took; None where it tells of none."""
    stats, engine, kind = manifest.stats, manifest.extra.get("engine") or {}, manifest.schema.partition("/")[0]
    device = "gpu" if stats.get("gpu_busy_s") else "cpu"
    busy_s, tokens = stats.get(f"{device}_busy_s"), stats.get("attempt_tokens") or stats.get("decoded_tokens")
    try:
        if busy_s and kind == "embeddings":
            return f"{device}_embed_rows_per_s", manifest.rows, busy_s
        if busy_s and kind == "model":
            samples = manifest.extra["traces"] * manifest.config["train"]["epochs"]
            flop = training_flop(manifest.config["model"]["base"], samples, stats["trained_tokens"] / samples)
            peak = peak_flops(engine["device"])
            return ("mfu", flop / peak, busy_s) if peak else ("cpu_train_tflop_per_s", flop / 1e12, busy_s)
        if busy_s and tokens:
            return f"{device}_decode_tflop_per_s", 2e-12 * weights(engine["model"]) * tokens, busy_s
    except (ModelError, KeyError, AttributeError):  # a model that is not there any more, or of another shape
        pass
    return None
