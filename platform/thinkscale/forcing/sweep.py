"""Forked sweeps: a whole grid of caps and Waits for the price of its longest trace.
A smaller cap is a prefix of a larger one, and k Waits of k + 1: one trunk serves every cell, and an answer is forked at
each distinct end point. Cell by cell the result is what `forcing.think` gives. No I/O, no engine, no clock."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thinkscale.domain.generation import Sampling, TokenIds
from thinkscale.domain.sample import Budget, Thought
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import Fork, Join, Step, Trunk, answer, continue_thinking, overflow, thinking_room


@dataclass(frozen=True, order=True, slots=True)
class Cell:
    cap: int  # thinking tokens at most
    waits: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """The grid's results; `decoded_tokens` is what the sweep cost, `separate_tokens` what single runs would."""

    thoughts: dict[Cell, Thought]
    decoded_tokens: int

    @property
    def separate_tokens(self) -> int:
        return sum(thought.decoded_tokens for thought in self.thoughts.values())


def curve_cells(caps: Sequence[int], waits: Sequence[int]) -> list[Cell]:
    """The scaling curve's cells: every cap without Waits, and every number of Waits at the largest cap."""
    return sorted({Cell(cap, 0) for cap in caps} | {Cell(max(caps), count) for count in waits})


def sweep(
    prompt_ids: TokenIds,
    cells: Sequence[Cell],
    budget: Budget,
    ids: ForcingIds,
    *,
    context_tokens: int,
    sampling: Sampling | None = None,
) -> Generator[Step, Any, SweepResult]:
    """Think once along the longest trace and answer at every cell's end point.
    `cells`: the grid; a cell's cap and Waits stand for the budget's. `budget`: its texts and `max_answer_tokens`."""
    sampling = sampling or Sampling()
    room = thinking_room(len(prompt_ids), budget, ids, context_tokens)
    if room < 0:
        return SweepResult(thoughts={cell: overflow(prompt_ids) for cell in cells}, decoded_tokens=0)

    def at_cap(trunk: Trunk) -> Fork:
        return Fork(key=("cap", len(trunk.thinking)), program=answer(trunk, "cap", budget, ids, sampling))

    def at_mark(trunk: Trunk) -> Callable[[TokenIds], Fork]:
        return lambda come: at_cap(replace(trunk, thinking=trunk.thinking + come, fresh=False))

    end_points: dict[Cell, tuple[str, int]] = {}
    alive = {cell: min(cell.cap, room) for cell in cells}
    trunk = Trunk(prompt_ids=prompt_ids)

    def end(ended: dict[Cell, int], how: str, at: int | None = None) -> None:
        for cell, cap in ended.items():
            end_points[cell] = (how, cap if at is None else at)
            del alive[cell]

    while alive:
        # Caps that the trunk stands at or has passed: 0 at first, later those inside the last Wait.
        passed = {cell: cap for cell, cap in alive.items() if cap <= len(trunk.thinking)}
        for cap in sorted(set(passed.values())):
            yield at_cap(trunk.cut(cap))
        end(passed, "cap")
        if not alive:
            break

        start, longest = len(trunk.thinking), max(alive.values())
        marks = {cap - start: at_mark(trunk) for cap in sorted(set(alive.values())) if cap < longest}
        completion = yield replace(continue_thinking(trunk, longest, ids, sampling), marks=marks)
        trunk = trunk.with_completion(completion)
        if completion.finish == "length":
            yield at_cap(trunk)
            end(dict(alive), "cap")
            break
        # A cap that lies before the stop's last token was reached first; its mark has forked.
        seen = start + len(completion.ids) + len(completion.stop_ids)
        end({cell: cap for cell, cap in alive.items() if cap < seen}, "cap")
        if out_of_waits := {cell: cap for cell, cap in alive.items() if cell.waits <= trunk.waits_used}:
            yield Fork(key=("own", trunk.waits_used), program=answer(trunk, trunk.own_end, budget, ids, sampling))
            end(out_of_waits, "own", trunk.waits_used)
        if alive:
            trunk = trunk.with_wait(ids.wait[: max(alive.values()) - len(trunk.thinking)])

    thoughts: dict[Any, Thought] = yield Join()
    return SweepResult(
        thoughts={cell: thoughts[end_points[cell]] for cell in cells},
        decoded_tokens=trunk.decoded_tokens + sum(thought.answer_decoded_tokens for thought in thoughts.values()),
    )
