"""The automaton inside engines against the program that defines the semantics, token for token."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.domain.budget import Budget
from thinkscale.domain.generation import Sampling, TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.engines.scripted import ScriptedEngine, hashed_logits
from thinkscale.forcing.automaton import ForcingAutomaton, text_moves
from thinkscale.forcing.driver import run
from thinkscale.forcing.ending import text_stop
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.inside import Inside, force
from thinkscale.forcing.program import think

VOCABULARY = 9
CONTEXT = 64
token = st.integers(1, VOCABULARY - 1)
tokens = st.lists(token, min_size=1, max_size=3).map(tuple)


def text_of(i: int) -> bytes:
    """The pieces of the random models: ids 4 to 8 are cut out of the texts that end and open thinking."""
    return (b"", b"a", b"b\n", b"c.", b"<", b"/t", b"</", b"t>", b">x")[i]


class Pieces:
    vocab_size = VOCABULARY

    def encode(self, text: str) -> list[int]:
        return [{"a": 1, "c.": 3, "<": 4, ".": 2}.get(text, 1)]

    def token_bytes(self, i: int) -> bytes:
        return text_of(i)


PIECES = Pieces()
ENDS = [("<t>", (4, 7)), ("</t>", (6, 7)), ("</t>", (4, 5, 8)), ("a<", (1, 4)), ("/tt>", (5, 7))]


@st.composite
def forcing(draw: st.DrawFn) -> ForcingIds:
    end = (draw(token),)
    text, pieces = draw(st.sampled_from([(None, None), *ENDS]))
    opening, start = draw(st.sampled_from([(None, ()), (None, (5,)), ("<t", (4, 7)), ("<", (4,)), ("</t>", (6, 7))]))
    return ForcingIds(
        end=pieces or end,
        close=(pieces or end) + draw(st.lists(token, max_size=2).map(tuple)),
        wait=draw(tokens),
        final_answer=draw(st.lists(token, max_size=2).map(tuple)),
        newline=draw(tokens),
        newline_ending=frozenset(draw(st.sets(token, max_size=3))),
        eos=(0,),
        end_text=text and text_stop(PIECES, text),
        start=start,
        start_text=opening and text_stop(PIECES, opening),
    )


@dataclass(eq=False)
class Row:
    """A request as an engine holds it."""

    request: Inside
    slot: int
    out: list[int]
    done: asyncio.Future[tuple[list[int], TokenIds]]


class Batches:
    """An engine with the automaton inside: batches of changing composition and order; some steps are thrown away."""

    def __init__(self, ids: ForcingIds, slots: int, seed: int, shuffle: int) -> None:
        self._next_logits = hashed_logits(vocab_size=VOCABULARY, seed=seed)
        self._automaton = ForcingAutomaton(slots + 1, slots + 2, sorted(ids.newline_ending), VOCABULARY)
        self._automaton.set_texts(text_moves(ids.end_text), text_moves(ids.start_text))
        self._draw, self._free, self._active = random.Random(shuffle), list(range(1, slots + 1)), list[Row]()

    def submit(self, request: Inside) -> asyncio.Future[tuple[list[int], TokenIds]]:
        row = Row(request, self._free.pop(), [], asyncio.get_running_loop().create_future())
        self._automaton.assign({row.slot: request.spec})
        self._active.append(row)
        return row.done

    def step(self) -> None:
        self._draw.shuffle(self._active)
        batch = self._active[: self._draw.randint(1, len(self._active))]
        self._automaton.set_rows([row.slot for row in batch])
        logits = torch.tensor(
            [self._next_logits(row.request.prompt_ids + tuple(row.out)) for row in batch], dtype=torch.float64
        )
        self._automaton.mask(logits)
        thrown_away = torch.tensor([self._draw.random() < 0.1 for _ in batch])
        got = self._automaton.step(logits.argmax(1), thrown_away).tolist()
        for row, one, lost in zip(batch, got, thrown_away.tolist(), strict=True):
            if lost:
                continue
            row.out += [one] if one else []
            if one and len(row.out) < row.request.max_tokens:
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
    engine = ScriptedEngine(vocab_size=VOCABULARY, seed=seed, context_tokens=CONTEXT)

    async def one(prompt: TokenIds, budget: Budget) -> Thought:
        program = force(prompt, budget, ids, context_tokens=CONTEXT, sampling=Sampling())
        reply: Any = None
        while True:
            try:
                step = program.send(reply)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            reply = await (batches.submit(step) if isinstance(step, Inside) else engine.generate(step.request))

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

    inside, expected = asyncio.run(decode_together(prompts, budgets, ids, seed, shuffle)), asyncio.run(alone())
    if ids.start and ids.start_text is None:  # an opening in the answer is masked inside, else drawn and dropped
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
