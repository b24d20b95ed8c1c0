"""Budget forcing in token ids: what is asked of an engine, step by step, for one question.

Owns the semantics of caps and Waits. A program is a generator: it yields steps and is sent what came of
them; it does no I/O and knows no engine and no clock. `engines.driver` runs programs on any engine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from thinkscale.domain.budget import Budget, ThinkingEnd
from thinkscale.domain.generation import Completion, Request, Sampling, TokenIds, derived_seed
from thinkscale.domain.sample import Thought
from thinkscale.forcing.formats import ForcingIds

Program = Generator["Step", Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """Run another program beside this one. Nothing is sent back."""

    key: Hashable
    program: Program


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Run a request; its Completion is sent back.

    `marks`: once so many tokens have come (a stop that they complete not among them), the fork that the
    function makes of them starts, while the request goes on.
    """

    request: Request
    marks: Mapping[int, Callable[[TokenIds], Fork]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for all forks; a dict of their results by key is sent back."""


Step = Ask | Fork | Join


def think(
    prompt_ids: TokenIds,
    budget: Budget,
    ids: ForcingIds,
    *,
    context_tokens: int,
    sampling: Sampling | None = None,
) -> Generator[Step, Any, Thought]:
    """Think about one prompt under one budget, then answer.

    Args:
        prompt_ids: the prompt with the start-of-thinking delimiter.
        ids: `formats.forcing_ids(tokenizer, format, budget)`.
        context_tokens: what the engine can hold, prompt and answer included.
    """
    sampling = sampling or Sampling()
    room = thinking_room(len(prompt_ids), budget, ids, context_tokens)
    if room < 0:
        return overflow(prompt_ids)
    cap = room if budget.max_thinking_tokens is None else min(budget.max_thinking_tokens, room)
    trunk = Trunk(prompt_ids=prompt_ids)
    while len(trunk.thinking) < cap:
        completion = yield Ask(request=continue_thinking(trunk, cap, ids, sampling))
        trunk = trunk.with_completion(completion)
        if completion.finish == "stop":
            if trunk.waits_used == budget.num_waits:
                return (yield from answer(trunk, trunk.own_end, budget, ids, sampling))
            trunk = trunk.with_wait(ids.wait[: cap - len(trunk.thinking)])
    return (yield from answer(trunk, "cap", budget, ids, sampling))


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """A thinking phase under way."""

    prompt_ids: TokenIds
    thinking: TokenIds = ()
    forced: tuple[tuple[int, int], ...] = ()
    """[start, stop) ranges of forced tokens."""
    waits_used: int = 0
    stop_tokens: int = 0
    """Tokens of end delimiters that the model wrote and that were dropped."""
    fresh: bool = False
    """Whether a Wait was just appended: the next token may not be a stop."""

    @property
    def decoded_tokens(self) -> int:
        return len(self.thinking) - sum(stop - start for start, stop in self.forced) + self.stop_tokens

    @property
    def own_end(self) -> ThinkingEnd:
        return "waits_used" if self.waits_used else "natural"

    def with_completion(self, completion: Completion) -> Trunk:
        return replace(
            self,
            thinking=self.thinking + completion.ids,
            stop_tokens=self.stop_tokens + len(completion.stop_ids),
            fresh=False,
        )

    def with_wait(self, wait: TokenIds) -> Trunk:
        start = len(self.thinking)
        return replace(
            self,
            thinking=self.thinking + wait,
            forced=(*self.forced, (start, start + len(wait))),
            waits_used=self.waits_used + 1,
            fresh=True,
        )

    def cut(self, cap: int) -> Trunk:
        """The trunk as it stood when its cap was reached."""
        forced = tuple((start, min(stop, cap)) for start, stop in self.forced if start < cap)
        return replace(self, thinking=self.thinking[:cap], forced=forced)


def thinking_room(prompt_tokens: int, budget: Budget, ids: ForcingIds, context_tokens: int) -> int:
    """Thinking tokens that leave room for the delimiter, the final-answer text and the answer; < 0: overflow."""
    close = len(ids.newline) + len(ids.close) + len(ids.final_answer)
    return context_tokens - prompt_tokens - close - budget.max_answer_tokens


def overflow(prompt_ids: TokenIds) -> Thought:
    """The result where the prompt leaves no room for an answer."""
    return Thought(thinking_ids=(), answer_ids=(), end="overflow", waits_used=0, prompt_tokens=len(prompt_ids))


def continue_thinking(trunk: Trunk, cap: int, ids: ForcingIds, sampling: Sampling) -> Request:
    """The request for the rest of the thinking, at most up to the cap."""
    prefix = trunk.prompt_ids + trunk.thinking
    return Request(
        prompt_ids=prefix,
        max_tokens=cap - len(trunk.thinking),
        stops=(ids.end,),
        forbid_first=(ids.end[0], *ids.eos) if trunk.fresh else (),
        sampling=_sampling_at(sampling, "think", len(prefix)),
    )


def answer(
    trunk: Trunk, end: ThinkingEnd, budget: Budget, ids: ForcingIds, sampling: Sampling
) -> Generator[Step, Completion, Thought]:
    """Close the thinking and generate the answer."""
    prefix = trunk.prompt_ids + trunk.thinking
    given = ids.final_answer if end == "cap" else ()
    if end == "cap" and prefix[-1] not in ids.newline_ending:
        prefix += ids.newline
    prefix += ids.close + given
    request = Request(
        prompt_ids=prefix,
        max_tokens=budget.max_answer_tokens,
        sampling=_sampling_at(sampling, "answer", len(prefix)),
    )
    completion = yield Ask(request=request)
    answer_decoded = len(completion.ids) + len(completion.stop_ids)
    return Thought(
        thinking_ids=trunk.thinking,
        answer_ids=given + completion.ids,
        end=end,
        waits_used=trunk.waits_used,
        forced_positions=trunk.forced,
        answer_finish=completion.finish,
        prompt_tokens=len(trunk.prompt_ids),
        decoded_tokens=trunk.decoded_tokens + answer_decoded,
        answer_decoded_tokens=answer_decoded,
    )


def _sampling_at(sampling: Sampling, phase: str, position: int) -> Sampling:
    """Each request of one sample draws from a stream of its own, and the same one at every rerun."""
    if sampling.seed is None or sampling.temperature == 0:
        return sampling
    return replace(sampling, seed=derived_seed(sampling.seed, phase, position))
