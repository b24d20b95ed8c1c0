"""A forked sweep against separate runs: cell by cell, token for token."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.domain.generation import Sampling
from thinkscale.domain.sample import Budget, Thought
from thinkscale.engines.scripted import ScriptedEngine
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import think
from thinkscale.forcing.sweep import Cell, SweepResult, curve_cells, sweep

VOCABULARY = 8
token = st.integers(1, VOCABULARY - 1)
tokens = st.lists(token, min_size=1, max_size=3).map(tuple)


@st.composite
def forcing(draw: st.DrawFn) -> ForcingIds:
    end = draw(tokens)
    return ForcingIds(
        end=end,
        close=end + draw(st.lists(token, max_size=2).map(tuple)),
        wait=draw(tokens),
        final_answer=draw(tokens),
        newline=draw(tokens),
        newline_ending=frozenset(draw(st.sets(token, max_size=3))),
        eos=(0,),
    )


async def both(
    engine: ScriptedEngine, cells: list[Cell], ids: ForcingIds, sampling: Sampling, context: int
) -> tuple[SweepResult, dict[Cell, Thought]]:
    prompt, budget = (3, 5), Budget(max_answer_tokens=3)
    result = await run(engine, sweep(prompt, cells, budget, ids, context_tokens=context, sampling=sampling))
    separate = {
        cell: await run(
            engine,
            think(
                prompt,
                replace(budget, max_thinking_tokens=cell.cap, waits=cell.waits),
                ids,
                context_tokens=context,
                sampling=sampling,
            ),
        )
        for cell in cells
    }
    return result, separate


@settings(max_examples=300, deadline=None)
@given(
    ids=forcing(),
    caps=st.lists(st.integers(0, 24), min_size=1, max_size=5, unique=True),
    waits=st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
    full_grid=st.booleans(),
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.0, 1.0]),
    context=st.integers(8, 48),
)
def test_every_cell_equals_its_separate_run(
    ids: ForcingIds,
    caps: list[int],
    waits: list[int],
    full_grid: bool,
    seed: int,
    temperature: float,
    context: int,
) -> None:
    engine = ScriptedEngine(vocab_size=VOCABULARY, seed=seed, context_tokens=context)
    cells = [Cell(c, w) for c in caps for w in waits] if full_grid else curve_cells(caps, waits)
    sampling = Sampling(temperature=temperature, seed=seed)
    result, separate = asyncio.run(both(engine, cells, ids, sampling, context))
    assert result.thoughts == separate
    assert result.separate_tokens == sum(thought.decoded_tokens for thought in separate.values())


def test_a_curve_costs_its_longest_trace_and_the_answers() -> None:
    def never_ends(prefix: tuple[int, ...]) -> list[float]:
        return [0.0, 0.0, 9.0, 0.0]

    ids = ForcingIds(
        end=(1,), close=(1,), wait=(3,), final_answer=(3,), newline=(3,), newline_ending=frozenset(), eos=(0,)
    )
    engine = ScriptedEngine(never_ends, vocab_size=4)
    cells = curve_cells([10, 20, 40, 80], [0, 1, 2])
    budget = Budget(max_answer_tokens=2)
    result = asyncio.run(run(engine, sweep((2,), cells, budget, ids, context_tokens=200)))
    assert engine.decoded_tokens == result.decoded_tokens == 80 + 4 * 2
    assert result.separate_tokens == (10 + 20 + 40 + 80 * 3) + 6 * 2


def test_samples_have_the_same_distribution_in_every_cell() -> None:
    """Unseeded by cell: 4,000 sweeps against 4,000 separate runs on a small vocabulary (chi-squared, 1e-4)."""
    from scipy.stats import chi2_contingency

    ids = ForcingIds(
        end=(1,), close=(1,), wait=(2,), final_answer=(2,), newline=(2,), newline_ending=frozenset({2}), eos=(0,)
    )
    engine = ScriptedEngine(vocab_size=4, seed=3)
    cells = [Cell(2, 0), Cell(3, 1), Cell(4, 2)]
    budget = Budget(max_answer_tokens=1)

    async def draw() -> dict[Cell, tuple[Counter[object], Counter[object]]]:
        counts = {cell: (Counter[object](), Counter[object]()) for cell in cells}
        for seed in range(2000):
            swept = await run(
                engine,
                sweep((3,), cells, budget, ids, context_tokens=64, sampling=Sampling(temperature=1, seed=seed)),
            )
            for cell in cells:
                alone = await run(
                    engine,
                    think(
                        (3,),
                        replace(budget, max_thinking_tokens=cell.cap, waits=cell.waits),
                        ids,
                        context_tokens=64,
                        sampling=Sampling(temperature=1, seed=100_000 + seed),
                    ),
                )
                for side, thought in enumerate((swept.thoughts[cell], alone)):
                    counts[cell][side][thought.thinking_ids, thought.answer_ids] += 1
        return counts

    for cell, (swept, alone) in asyncio.run(draw()).items():
        outcomes = [key for key in swept | alone if swept[key] + alone[key] >= 20]
        table = [[side[key] for key in outcomes] for side in (swept, alone)]
        assert chi2_contingency(table).pvalue > 1e-4, cell
