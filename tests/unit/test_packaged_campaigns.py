"""The packaged campaigns on small sets with the published columns, each as far as it goes without a cluster."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from thinkscale import pipeline
from thinkscale.domain.campaign import Campaign
from thinkscale.stages.attempts import FromSolutions
from thinkscale.stages.benchmarks import build_benchmarks
from thinkscale.stages.difficulty import untried
from thinkscale.stages.ingest import ingest_piece
from thinkscale.stages.select import select
from thinkscale.store.artifact import Artifact
from thinkscale.store.campaigns import CampaignError, load_campaign
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import plan
from thinkscale.store.schemas import DIFFICULTY, SELECTED, table
from thinkscale.store.templates import starting_campaign
from tiny_model import write_tiny_model

AIME, GPQA, MATH = "qq8933/AIME_1983_2024", "Idavidrein/gpqa", "qfq/openaimath/Algebra"
NUMINA = "AI-MO/NuminaMath-CoT/amc_aime"
LONG = "so it goes on " * 500
"""7,000 tokens of the tiny tokenizer, which has one a byte."""


def s1_row(text: str, source: str, *, solution: str | None = "4", attempt: str = "4", trace: str = "so") -> Any:
    boxed = f"Final Answer: The final answer is $\\boxed{{{attempt}}}$"
    traces = [trace] if trace else []
    return {"question": text, "solution": solution, "cot_type": "math", "source_type": source, "metadata": "{}",
            "cot": None, "thinking_trajectories": traces, "attempt": boxed}  # fmt: skip


FATES = {
    "Of AIME, traced rightly: find x.": (s1_row("", AIME), "seed"),
    "Of AIME with [asy]draw((0,0)--(1,1));[/asy]: find x.": (s1_row("", AIME), "seed"),
    "Of AIME, traced wrongly: find x.": (s1_row("", AIME, attempt="5"), "left"),
    "Of GPQA: which?\nAnswer Choices:\n(A) one\n(B) two\n(C) three\n(D) four":
        (s1_row("", GPQA, solution="It is the third.\n\nAnswer: C", attempt="C"), "seed"),
    "Of MATH, long and right: find x.":
        (s1_row("", MATH, solution="So $x = 2 + 2$.\nIt is $\\boxed{4}$.", trace=LONG), "seed"),
    "Of MATH, long and wrong: find x.": (s1_row("", MATH, attempt="5", trace=LONG), "left"),
    "Of MATH, short and right: find x.": (s1_row("", MATH), "left"),
    "Of AMC and AIME problems elsewhere: find x.": (s1_row("", NUMINA, trace=LONG), "left"),
    "Drawn with [asy]draw((0,0)--(1,1));[/asy]: find x.": (s1_row("", NUMINA), "ascii_art"),
    "An image is not there ![Image](1.png): find x.": (s1_row("", NUMINA), "absent_image"),
    "p12. Of a sheet of problems: find x.": (s1_row("", NUMINA), "inconsistent_numbering"),
    "**12.** Of a sheet of problems: find x.": (s1_row("", NUMINA), "inconsistent_numbering"),
    "Of USACO, which has no reference: write a program.":
        (s1_row("", "codegenning/usacobench_formatted", solution=None), "missing_reference"),
    "The teacher's service failed: find x.": (s1_row("", NUMINA, trace=""), "missing_reference"),
}  # fmt: skip
"""Questions of the 59K set's sources, and what the paper's rules make of them."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny"), special=special, positions=2048))


def local(name: str, tmp_path: Path, tiny: str, rows: Sequence[Mapping[str, Any]], *overrides: str) -> Campaign:
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [f'pool.0.paths=["{file}"]'] if rows else []
    return load_campaign(name, [f"root={tmp_path}/runs", f"model.base={tiny}", *paths, *overrides])


def ingested(campaign: Campaign) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The kept rows, and of the dropped ones the reason by their text."""
    (piece,) = plan(campaign.pool[0], 1024)
    result = ingest_piece(piece, campaign.curate.quality_rules)
    dropped = result.dropped.to_pylist() if result.dropped is not None else []
    return result.kept.drop(["exact_key"]).to_pylist(), {
        json.loads(row["row"])["question"]: row["reason"] for row in dropped
    }


def test_the_papers_rules_on_the_papers_columns(tmp_path: Path, tiny: str) -> None:
    rows = [row | {"question": text} for text, (row, _) in FATES.items()]
    campaign = local("s1k-qwen2.5-32b", tmp_path, tiny, rows, "select.count=7", "curate.domains=pool")
    kept, dropped = ingested(campaign)
    assert dropped == {text: fate for text, (_, fate) in FATES.items() if fate not in ("seed", "left")}
    by_text = {row["question"]: row for row in kept}
    assert {row["source"] for row in kept} == {AIME, GPQA, MATH, NUMINA}
    assert by_text["Of AIME, traced wrongly: find x."]["answer"] == "4"  # the reference, not the attempt
    store = Store(campaign.root)
    difficulty = Artifact(store, f"{campaign.name}/difficulty")
    difficulty.begin({}, {})
    lengths = [row | {"trace_tokens": len(row["solution"])} for row in kept]
    difficulty.commit_segment("0", table(lengths, DIFFICULTY))
    difficulty.commit(DIFFICULTY)
    select(campaign, store)
    chosen = Artifact(store, f"{campaign.name}/selected").read().to_pylist()
    seeds = {row["question"] for row in chosen if row["selected_by"].startswith("seed:")}
    assert seeds == {text for text, (_, fate) in FATES.items() if fate == "seed"}
    assert len(chosen) == 7
    assert all(row["selected_by"].startswith("s1:") for row in chosen[len(seeds) :])


def s1k_11_row(number: int, said: int) -> dict[str, Any]:
    return {
        "question": f"What is {number} + 2?", "solution": str(number + 2), "cot_type": "math", "source_type": AIME,
        "metadata": "{}", "deepseek_thinking_trajectory": f"{number} and two",
        "deepseek_attempt": f"It is \\boxed{{{said}}}",
        "gemini_thinking_trajectory": "hm", "gemini_attempt": "4", "gemini_grade": "Yes", "deepseek_grade": "Yes",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["s1k-1.1-qwen2.5-32b", "s1-7b-8xh100"])
def test_ready_traces_need_no_attempts_and_become_traces_as_they_are(tmp_path: Path, tiny: str, name: str) -> None:
    campaign = local(name, tmp_path, tiny, [s1k_11_row(1, 3), s1k_11_row(2, 5)])
    kept, dropped = ingested(campaign)
    assert not dropped
    hard = untried(table(kept, DIFFICULTY), tiny).kept
    assert [(row["attempts"], row["trace_tokens"]) for row in hard.to_pylist()] == [(0, len("1 and two"))] * 2
    store = Store(campaign.root)
    difficulty = Artifact(store, f"{campaign.name}/difficulty")
    difficulty.begin({}, {})
    difficulty.commit_segment("0", hard)
    difficulty.commit(DIFFICULTY)
    select(campaign, store)
    selected = Artifact(store, f"{campaign.name}/selected").read(SELECTED.names)
    made = {row["thinking"]: row for row in FromSolutions(tiny)(selected).kept.to_pylist()}
    assert {text: row["correct"] for text, row in made.items()} == {"1 and two": True, "2 and two": False}
    assert {row["teacher"] for row in made.values()} == {"deepseek-r1"}
    assert made["1 and two"]["answer"] == "It is \\boxed{3}"


def test_a_model_from_the_hub_is_evaluated_alone(tmp_path: Path, tiny: str) -> None:
    rows = {
        "aime24": [{"problem": "Find x.", "answer": "073", "solution": "So 73."}],
        "aime25": [{"problem": "Find y.", "answer": "70"}],
        "math500": [{"problem": "Find z.", "answer": "\\frac12", "solution": "..", "subject": "Algebra", "level": 3}],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (tmp_path / "gpqa.csv").open("w", newline="") as file:
        wrong = [f"Incorrect Answer {i}" for i in (1, 2, 3)]
        columns = ["Question", "Correct Answer", *wrong, "High-level domain", "Writer's Difficulty Estimate"]
        csv.writer(file).writerows([columns, ["Which?", "one", "two", "three", "four", "Physics", "Hard"]])
    files = [*(f"{name}.jsonl" for name in rows), "gpqa.csv"]
    at = [f'evaluate.benchmarks.{i}.source.paths=["{tmp_path / file}"]' for i, file in enumerate(files)]
    campaign = local("evaluate-r1-distill", tmp_path, tiny, [], *at)
    assert pipeline.chosen_stages(campaign, pipeline.FIRST, pipeline.LAST) == ["benchmarks", "evaluate", "report"]
    assert len(campaign.evaluate.budgets.caps) >= 6
    store = Store(campaign.root)
    build_benchmarks(campaign, store)
    made = [
        Artifact(store, f"{campaign.name}/benchmarks/{b.name}").read().to_pylist() for b in campaign.evaluate.benchmarks
    ]
    assert [(len(each), each[0]["kind"]) for each in made] == [
        (1, "integer"),
        (1, "integer"),
        (1, "math"),
        (1, "choice"),
    ]
    (gpqa,) = made[3]
    assert "one" in gpqa["question"].splitlines()[2 + ord(gpqa["answer"]) - ord("A")]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            'select.always_sources=["aime"]',
            r"select.always_sources: 'aime' is no source of the pool; there are: s1-59k",
        ),
        ("select.long_sources={ MATH = 5600 }", "select.long_sources: 'MATH' is no source of the pool"),
    ],
)
def test_a_source_that_no_row_has_is_refused_with_those_that_are_there(override: str, said: str) -> None:
    plain = ["pool.0.columns={}", 'select.always_sources=["s1-*"]', "select.long_sources={}"]
    load_campaign("s1k-qwen2.5-32b", plain)
    with pytest.raises(CampaignError, match=said):
        load_campaign("s1k-qwen2.5-32b", [*plain, override])


def test_the_recipes_benchmark_is_a_campaign_with_six_caps_and_four_numbers_of_waits() -> None:
    recipe = load_campaign(str(Path(__file__).parents[2] / "benchmarks" / "recipe" / "recipe.toml"))
    assert len(recipe.evaluate.budgets.caps) >= 6
    assert recipe.evaluate.budgets.waits == [0, 1, 2, 4]


def test_the_template_reads_the_same_columns_in_the_same_way(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    target.write_text(starting_campaign("s1k", "mine", None, None).replace('"CHANGE"', '"m"'))
    template, packaged = load_campaign(str(target)), load_campaign("s1k-qwen2.5-32b")
    assert template.pool == packaged.pool
    assert template.curate == packaged.curate
