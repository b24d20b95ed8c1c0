"""Two runs, or two models of one run, over the same questions: what differs and whether it is more than chance.
Owns the pairing. Knows no files and draws nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.report.metrics import budget_label, by_point, question_accuracies
from thinkscale.report.statistics import Gate, difference_interval, gate, mcnemar

PerQuestion = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """B against A under one budget, over the questions that both answered."""

    benchmark: str
    model_a: str
    model_b: str
    budget: str  # the budget in words; `all budgets`: the mean over the budgets that both have
    questions: int
    unpaired: int  # questions that only one of the two has
    accuracy_a: float
    accuracy_b: float
    difference: float  # B - A, in 0..1
    low: float
    high: float
    questions_better: int  # questions on which B is right more often
    questions_worse: int
    p_mcnemar: float
    gate: Gate  # B is better or worse where the interval of the difference excludes 0


def compare_tallies(tally_a: pa.Table, tally_b: pa.Table, *, seed: int = 0) -> list[Comparison]:
    """Compare two runs, each of one model, budget by budget and over all budgets together.
    Empty where they share no benchmark, budget and question. Raises ValueError where a run holds several models."""
    grids_a, grids_b = _grids(tally_a, "the first run"), _grids(tally_b, "the second run")
    found = []
    for benchmark in [name for name in grids_a if name in grids_b]:
        (model_a, grid_a), (model_b, grid_b) = grids_a[benchmark], grids_b[benchmark]
        shared = [cell for cell in grid_a if cell in grid_b]
        names = (benchmark, model_a, model_b)
        compared = [(budget_label(*cell), grid_a[cell], grid_b[cell]) for cell in shared]
        if len(shared) > 1:
            mean_a, mean_b = (_mean_over([grid[cell] for cell in shared]) for grid in (grid_a, grid_b))
            compared.append(("all budgets", mean_a, mean_b))
        found += [_compare_at(*names, *each, seed) for each in compared if each[1].keys() & each[2].keys()]
    return found


def comparison_table(rows: Iterable[Comparison]) -> str:
    lines = [
        f"{'model':<10} {'benchmark':<14} {'budget':<20} {'questions':>9} {'first':>7} {'second':>7} {'diff.':>7}   "
        f"{'95% interval':<17} {'p':>6}  verdict"
    ]
    for row in rows:
        model = row.model_a if row.model_a == row.model_b else f"{row.model_a}/{row.model_b}"
        interval = f"{row.low:+.1%} to {row.high:+.1%}"
        unpaired = f" ({row.unpaired:,} questions not in both)" if row.unpaired else ""
        lines.append(
            f"{model:<10} {row.benchmark:<14} {row.budget:<20} {row.questions:>9,} {row.accuracy_a:>7.1%} "
            f"{row.accuracy_b:>7.1%} {row.difference:>+7.1%}   {interval:<17} {row.p_mcnemar:>6.3f}  "
            f"{row.gate}{unpaired}"
        )
    return "\n".join(lines)


def renamed(parts: Iterable[pa.Table], run: str) -> Iterator[pa.Table]:
    """Samples whose models bear their run's name, so that two runs of one model can stand on one page."""
    for part in parts:
        models = pc.binary_join_element_wise(run, part["model"].cast(pa.string()), " ")
        yield part.set_column(part.schema.get_field_index("model"), part.schema.field("model"), models)


_ENGINE_FACTS = ("engine", "version", "dtype", "device", "tensor_parallel", "tokenizer_hash", "chat_template_hash")


def engine_differences(engines_a: Iterable[Mapping[str, Any]], engines_b: Iterable[Mapping[str, Any]]) -> list[str]:
    """How the engines that drew two runs' samples differ, one line a fact; empty where they do not.
    A difference that is due to them cannot be told from one that is due to the models. The model's own hash is not
    compared: models are what runs are compared for."""
    sides, lines = (list(engines_a), list(engines_b)), []
    for fact in _ENGINE_FACTS:
        values = [", ".join(sorted({str(engine.get(fact, "not recorded")) for engine in side})) for side in sides]
        if values[0] != values[1]:
            lines.append(f"{fact.replace('_', ' ')}: {values[0]} against {values[1]}")
    return lines


def _grids(tallied: pa.Table, which: str) -> dict[str, tuple[str, dict[tuple[int | None, int], PerQuestion]]]:
    found: dict[str, tuple[str, dict[tuple[int | None, int], PerQuestion]]] = {}
    for (model, benchmark, cap, waits), rows in by_point(tallied).items():
        known, grid = found.setdefault(benchmark, (model, {}))
        if known != model:
            raise ValueError(f"{which} holds several models on {benchmark} ({known}, {model}): compare one with one")
        grid[cap, waits] = question_accuracies(rows)
    return found


def _mean_over(grids: list[PerQuestion]) -> PerQuestion:
    shared = set.intersection(*(set(grid) for grid in grids))
    return {question: float(np.mean([grid[question] for grid in grids])) for question in sorted(shared)}


def _compare_at(
    benchmark: str, model_a: str, model_b: str, budget: str, a: PerQuestion, b: PerQuestion, seed: int
) -> Comparison:
    paired = sorted(a.keys() & b.keys())
    before = np.array([a[question] for question in paired])
    after = np.array([b[question] for question in paired])
    difference = difference_interval(before, after, seed=seed)
    return Comparison(
        benchmark=benchmark,
        model_a=model_a,
        model_b=model_b,
        budget=budget,
        questions=len(paired),
        unpaired=len(a.keys() ^ b.keys()),
        accuracy_a=float(before.mean()),
        accuracy_b=float(after.mean()),
        difference=difference.mean,
        low=difference.low,
        high=difference.high,
        questions_better=int((after > before).sum()),
        questions_worse=int((after < before).sum()),
        p_mcnemar=mcnemar(before, after),
        gate=gate(difference),
    )
