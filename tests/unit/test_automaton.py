"""The automaton inside engines against the program that defines the semantics, token for token."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.domain.budget import Budget
from thinkscale.domain.generation import TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.engines.scripted import ScriptedEngine, hashed_logits
from thinkscale.forcing.automaton import ForcingAutomaton, forcing_spec, read_thought
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import think, thinking_room

VOCABULARY = 9
CONTEXT = 64
token = st.integers(1, VOCABULARY - 1)
tokens = st.lists(token, min_size=1, max_size=3).map(tuple)


@st.composite
def forcing(draw: st.DrawFn) -> ForcingIds:
    end = (draw(token),)
    return ForcingIds(
        end=end,
        close=end + draw(st.lists(token, max_size=2).map(tuple)),
        wait=draw(tokens),
        final_answer=draw(st.lists(token, max_size=2).map(tuple)),
        newline=draw(tokens),
        newline_ending=frozenset(draw(st.sets(token, max_size=3))),
        eos=(0,),
    )


@dataclass
class Row:
    """A request as an engine holds it."""

    prompt: TokenIds
    slot: int
    out: list[int]


def decode_together(
    prompts: list[TokenIds], budgets: list[Budget], ids: ForcingIds, seed: int, shuffle: int
) -> list[Thought]:
    """All requests in one batch of changing composition and order, greedily; some steps are thrown away."""
    next_logits = hashed_logits(vocab_size=VOCABULARY, seed=seed)
    automaton = ForcingAutomaton(len(prompts) + 1, len(prompts) + 2, sorted(ids.newline_ending), VOCABULARY)
    draw = random.Random(shuffle)
    specs = []
    rows = []
    for slot, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True), 1):
        room = thinking_room(len(prompt), budget, ids, CONTEXT)
        cap = room if budget.max_thinking_tokens is None else min(room, budget.max_thinking_tokens)
        specs.append(forcing_spec(prompt, budget, ids, cap=cap))
        rows.append(Row(prompt, slot, []))
    automaton.assign({row.slot: spec for row, spec in zip(rows, specs, strict=True)})
    active = list(rows)
    while active:
        draw.shuffle(active)
        batch = active[: draw.randint(1, len(active))]
        automaton.set_rows([row.slot for row in batch])
        logits = torch.tensor([next_logits(row.prompt + tuple(row.out)) for row in batch], dtype=torch.float64)
        automaton.mask(logits)
        thrown_away = torch.tensor([draw.random() < 0.1 for _ in batch])
        got = automaton.step(logits.argmax(1), thrown_away).tolist()
        for row, one, lost in zip(batch, got, thrown_away.tolist(), strict=True):
            if lost:
                continue
            if one == 0:
                active.remove(row)
            else:
                row.out.append(one)
    return [
        read_thought(automaton.host_state[row.slot].tolist(), tuple(row.out), spec, len(row.prompt))
        for row, spec in zip(rows, specs, strict=True)
    ]


@settings(max_examples=300, deadline=None)
@given(
    ids=forcing(),
    budgets=st.lists(
        st.builds(
            Budget,
            max_thinking_tokens=st.one_of(st.none(), st.integers(0, 20)),
            num_waits=st.integers(0, 4),
            max_answer_tokens=st.integers(1, 4),
        ),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 10_000),
    shuffle=st.integers(0, 1000),
)
def test_in_a_batch_as_alone(ids: ForcingIds, budgets: list[Budget], seed: int, shuffle: int) -> None:
    prompts = [(3, 5, 1 + i) for i in range(len(budgets))]
    engine = ScriptedEngine(vocab_size=VOCABULARY, seed=seed, context_tokens=CONTEXT)

    async def alone() -> list[Thought]:
        return [
            await run(engine, think(prompt, budget, ids, context_tokens=CONTEXT))
            for prompt, budget in zip(prompts, budgets, strict=True)
        ]

    assert decode_together(prompts, budgets, ids, seed, shuffle) == asyncio.run(alone())


def test_requests_without_forcing_pass_but_for_a_forbidden_first_token() -> None:
    automaton = ForcingAutomaton(2, 4, [], VOCABULARY)
    automaton.assign({1: [4, 0]})
    automaton.set_rows([0, 1])
    for first in (True, False):
        logits = torch.zeros(2, VOCABULARY)
        automaton.mask(logits)
        assert torch.isinf(logits[1, [0, 4]]).all() == first
        assert not torch.isinf(logits[0]).any()
        assert automaton.step(torch.tensor([4, 5]), torch.tensor([False, False])).tolist() == [4, 5]
