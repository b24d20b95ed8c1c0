"""Budget forcing with an engine that has the automaton inside: what is asked of it, and what follows where it ends.

Owns the order of requests: one, but where a delimiter of ordinary tokens must be taken back. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from thinkscale.domain.budget import Budget
from thinkscale.domain.generation import Completion, Sampling, TextStop, TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.forcing.automaton import ForcingSpec, forcing_spec, handed_back, read_thought
from thinkscale.forcing.ending import Match
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import (
    Spoken,
    Step,
    Trunk,
    answer,
    first_forbidden,
    overflow,
    sampling_at,
    speak,
    thinking_room,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inside:
    """Run a request with the automaton; the state of its slot and its tokens, without the last stop, are sent back."""

    prompt_ids: TokenIds
    spec: ForcingSpec
    sampling: Sampling
    max_tokens: int


def force(
    prompt_ids: TokenIds, budget: Budget, ids: ForcingIds, *, context_tokens: int, sampling: Sampling
) -> Generator[Any, Any, Thought]:
    """What `forcing.program.think` gives, in as few requests as can be.

    Raises ValueError where the delimiters, texts or Waits do not fit the automaton.
    """
    room = thinking_room(len(prompt_ids), budget, ids, context_tokens)
    if room < 0:
        return overflow(prompt_ids)
    cap = room if budget.max_thinking_tokens is None else min(budget.max_thinking_tokens, room)
    trunk = Trunk(prompt_ids=prompt_ids)
    while not trunk.thinking or len(trunk.thinking) < cap:
        prefix, left = prompt_ids + trunk.thinking, cap - len(trunk.thinking)
        first = first_forbidden(ids, trunk)
        spec = forcing_spec(prefix, budget, ids, cap=left, waits_used=trunk.waits_used, first=first)
        longest = left + len(ids.newline) + len(ids.close) + len(ids.final_answer) + budget.max_answer_tokens + 1
        drawn = sampling_at(sampling, "think", len(prefix)) if trunk.thinking else sampling
        longest = min(longest, context_tokens - len(prefix))
        row, tokens = yield Inside(prompt_ids=prefix, spec=spec, sampling=drawn, max_tokens=longest)
        where = handed_back(row)
        if where == "thinking":
            trunk = trunk.with_completion(_end_of_thinking(tokens, ids))
            if trunk.waits_used == budget.num_waits:
                return (yield from answer(trunk, trunk.own_end, budget, ids, sampling))
            trunk = trunk.with_wait(ids.wait[: cap - len(trunk.thinking)])
            continue
        thought = read_thought(row, tokens, spec, len(prefix))
        if where == "answer":
            thought = yield from _go_on(prefix, tokens, thought, budget, ids, sampling)
        return replace(
            thought,
            thinking_ids=trunk.thinking + thought.thinking_ids,
            end="waits_used" if trunk.waits_used and thought.end == "natural" else thought.end,
            waits_used=trunk.waits_used + thought.waits_used,
            forced_positions=(*trunk.forced, *thought.forced_positions),
            prompt_tokens=len(prompt_ids),
            decoded_tokens=trunk.decoded_tokens + thought.decoded_tokens,
        )
    return (yield from answer(trunk, "cap", budget, ids, sampling))


def _end_of_thinking(tokens: TokenIds, ids: ForcingIds) -> Completion:
    """A thinking that ended at the text of its delimiter, or else at an end-of-text token."""
    kept, stop_ids = _split(tokens, ids.end_text)
    return Completion(ids=kept, finish="stop", stop_ids=stop_ids or ids.eos[:1])


def _split(tokens: TokenIds, text: TextStop | None) -> tuple[TokenIds, TokenIds]:
    """The tokens before the text that the last one completes, and its own; all and none where it does not."""
    match = Match(text) if text else None
    found = [match.push(token) for token in tokens] if match else []
    return match.split(tokens) if match and found[-1:] == [True] else (tokens, ())


def _go_on(
    prefix: TokenIds, tokens: TokenIds, thought: Thought, budget: Budget, ids: ForcingIds, sampling: Sampling
) -> Generator[Step, Completion, Thought]:
    """An answer that has opened thinking again goes on before the opening."""
    given = ids.final_answer if thought.end == "cap" else ()
    decoded = thought.answer_ids[len(given) :]
    kept, opening = _split(decoded, ids.start_text)
    said = Spoken(ids=kept, finish="length", decoded_tokens=len(decoded))
    before = prefix + tokens[: len(tokens) - len(decoded)]
    refused = (opening or ids.start)[:1]
    spoken = yield from speak(before, budget.max_answer_tokens, ids, sampling, said=said, refused=refused)
    return replace(
        thought,
        answer_ids=given + spoken.ids,
        answer_finish=spoken.finish,
        decoded_tokens=thought.decoded_tokens - thought.answer_decoded_tokens + spoken.decoded_tokens,
        answer_decoded_tokens=spoken.decoded_tokens,
    )
