"""The automaton inside engines against the program that defines the semantics, token for token."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.domain.generation import TokenIds
from thinkscale.domain.sample import Budget, Thought
from thinkscale.engines.scripted import ScriptedEngine, hashed_logits
from thinkscale.forcing.automaton import ForcingAutomaton, ForcingSpec, forcing_spec, read_thought
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import overflow, think, thinking_cap

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
        start=draw(st.sampled_from([(), (5,)])),
    )


@dataclass(eq=False)
class Row:
    """A request as an engine holds it."""

    prompt_ids: TokenIds
    spec: ForcingSpec
    slot: int
    out: list[int]
    done: asyncio.Future[tuple[list[int], TokenIds]]


class Batches:
    """An engine with the automaton inside: batches of changing composition and order; some steps are thrown away."""

    def __init__(self, ids: ForcingIds, slots: int, seed: int, shuffle: int) -> None:
        self._next_logits = hashed_logits(vocab_size=VOCABULARY, seed=seed)
        self._automaton = ForcingAutomaton(slots + 1, slots + 2, sorted(ids.newline_ending), VOCABULARY)
        self._draw, self._free, self._active = random.Random(shuffle), list(range(1, slots + 1)), list[Row]()

    def submit(self, prompt_ids: TokenIds, spec: ForcingSpec) -> asyncio.Future[tuple[list[int], TokenIds]]:
        row = Row(prompt_ids, spec, self._free.pop(), [], asyncio.get_running_loop().create_future())
        self._automaton.assign({row.slot: spec})
        self._active.append(row)
        return row.done

    def step(self) -> None:
        self._draw.shuffle(self._active)
        batch = self._active[: self._draw.randint(1, len(self._active))]
        self._automaton.set_rows([row.slot for row in batch])
        logits = torch.tensor(
            [self._next_logits(row.prompt_ids + tuple(row.out)) for row in batch], dtype=torch.float64
        )
        self._automaton.mask(logits)
        thrown_away = torch.tensor([self._draw.random() < 0.1 for _ in batch])
        got = self._automaton.step(logits.argmax(1), thrown_away).tolist()
        for row, one, lost in zip(batch, got, thrown_away.tolist(), strict=True):
            if lost:
                continue
            row.out += [one] if one else []
            if one and len(row.out) < row.spec.max_tokens:
                continue
            self._active.remove(row)
            self._free.append(row.slot)
            row.done.set_result((self._automaton.host_state[row.slot].tolist(), tuple(row.out)))

    @property
    def busy(self) -> bool:
        return bool(self._active)


async def decode_together(
    prompts: list[TokenIds], budgets: list[Budget], ids: ForcingIds, seed: int, shuffle: int
) -> list[Thought]:
    """All requests in one batch, greedily."""
    batches = Batches(ids, len(prompts), seed, shuffle)

    async def one(prompt: TokenIds, budget: Budget) -> Thought:
        cap = thinking_cap(len(prompt), budget, ids, CONTEXT)
        if cap < 0:
            return overflow(prompt)
        spec = forcing_spec(prompt, budget, ids, cap)
        return read_thought(*await batches.submit(prompt, spec), spec, len(prompt))

    async with asyncio.TaskGroup() as group:
        work = [group.create_task(one(*each)) for each in zip(prompts, budgets, strict=True)]
        while not all(task.done() for task in work):
            if batches.busy:
                batches.step()
            await asyncio.sleep(0)
    return [task.result() for task in work]


@settings(max_examples=150, deadline=None)
@given(
    ids=forcing(),
    budgets=st.lists(
        st.builds(
            Budget,
            max_thinking_tokens=st.one_of(st.none(), st.integers(0, 20)),
            waits=st.integers(0, 4),
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

    inside, expected = asyncio.run(decode_together(prompts, budgets, ids, seed, shuffle)), asyncio.run(alone())
    if ids.start:  # an opening in the answer is masked inside, else drawn and dropped
        inside, expected = (
            [replace(thought, decoded_tokens=0, answer_decoded_tokens=0) for thought in thoughts]
            for thoughts in (inside, expected)
        )
    assert inside == expected


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
