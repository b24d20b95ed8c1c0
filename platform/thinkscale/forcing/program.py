"""Budget forcing in token ids: what is asked of an engine, step by step, for one question.
Owns the semantics of caps and Waits. A program is a generator: it yields steps and is sent what came of them; it does
no I/O and knows no engine and no clock. `forcing.driver` runs programs on any engine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from thinkscale.domain.generation import Completion, Finish, Request, Sampling, TokenIds, derived_seed
from thinkscale.domain.sample import Budget, ThinkingEnd, Thought
from thinkscale.forcing.formats import ForcingIds

Program = Generator["Step", Any, Any]
Part = Literal["thinking", "answer"]
Forced = tuple[tuple[Part, TokenIds], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """Run another program beside this one. Nothing is sent back."""

    key: Hashable
    program: Program


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """Run a request; its Completion is sent back. `marks`: once so many tokens have come (a stop that they complete not
    among them), the fork that the function makes of them starts, while the request goes on."""

    request: Request
    part: Part
    forced: Forced = ()  # what was put into the text since the last request, delimiters apart
    marks: Mapping[int, Callable[[TokenIds], Fork]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Join:
    """Wait for all forks; a dict of their results by key is sent back."""


Step = Generate | Fork | Join


def think(
    prompt_ids: TokenIds,
    budget: Budget,
    ids: ForcingIds,
    *,
    context_tokens: int,
    sampling: Sampling | None = None,
    unused_to_answer: bool = False,
) -> Generator[Step, Any, Thought]:
    """Think about one prompt under one budget, then answer.
    `prompt_ids`: the prompt with the start-of-thinking delimiter. `ids`: `formats.forcing_ids(tokenizer, format,
    budget)`. `context_tokens`: what the engine can hold, prompt and answer included. `unused_to_answer`: the answer may
    be longer by what the thinking leaves of its cap."""
    sampling = sampling or Sampling()
    cap = thinking_cap(len(prompt_ids), budget, ids, context_tokens)
    if cap < 0:
        return overflow(prompt_ids)
    trunk = Trunk(prompt_ids=prompt_ids)
    while len(trunk.thinking) < cap:
        completion = yield continue_thinking(trunk, cap, ids, sampling)
        trunk = trunk.with_completion(completion)
        if completion.finish == "stop":
            if trunk.waits_used == budget.waits:
                unused = cap - len(trunk.thinking) if unused_to_answer else 0
                budget = replace(budget, max_answer_tokens=budget.max_answer_tokens + unused)
                return (yield from answer(trunk, trunk.own_end, budget, ids, sampling))
            trunk = trunk.with_wait(ids.wait[: cap - len(trunk.thinking)])
    return (yield from answer(trunk, "cap", budget, ids, sampling))


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    prompt_ids: TokenIds
    thinking: TokenIds = ()
    forced: tuple[tuple[int, int], ...] = ()  # [start, stop) ranges of forced tokens
    waits_used: int = 0
    stop_tokens: int = 0  # tokens of end delimiters that the model wrote and that were dropped
    fresh: bool = False  # whether a Wait was just appended: the next token may not be a stop

    @property
    def decoded_tokens(self) -> int:
        return len(self.thinking) - sum(stop - start for start, stop in self.forced) + self.stop_tokens

    @property
    def last_wait(self) -> Forced:
        return (("thinking", self.thinking[slice(*self.forced[-1])]),) if self.fresh and self.forced else ()

    @property
    def own_end(self) -> ThinkingEnd:
        return "waits_used" if self.waits_used else "natural"

    def with_completion(self, completion: Completion) -> Trunk:
        stop_tokens = self.stop_tokens + len(completion.stop_ids)
        return replace(self, thinking=self.thinking + completion.ids, stop_tokens=stop_tokens, fresh=False)

    def with_wait(self, wait: TokenIds) -> Trunk:
        thinking, waits_used = self.thinking + wait, self.waits_used + 1
        forced = (*self.forced, (len(self.thinking), len(thinking)))
        return replace(self, thinking=thinking, forced=forced, waits_used=waits_used, fresh=True)

    def cut(self, cap: int) -> Trunk:
        """The trunk as it stood when its cap was reached."""
        forced = tuple((start, min(stop, cap)) for start, stop in self.forced if start < cap)
        return replace(self, thinking=self.thinking[:cap], forced=forced)


def thinking_room(prompt_tokens: int, budget: Budget, ids: ForcingIds, context_tokens: int) -> int:
    """Thinking tokens that leave room for the delimiter, the final-answer text and the answer; < 0: overflow."""
    close = len(ids.newline) + len(ids.close) + len(ids.final_answer)
    return context_tokens - prompt_tokens - close - budget.max_answer_tokens


def thinking_cap(prompt_tokens: int, budget: Budget, ids: ForcingIds, context_tokens: int) -> int:
    """The budget's cap, or less where there is less room; < 0: overflow."""
    room = thinking_room(prompt_tokens, budget, ids, context_tokens)
    return room if budget.max_thinking_tokens is None else min(budget.max_thinking_tokens, room)


def overflow(prompt_ids: TokenIds) -> Thought:
    """The result where the prompt leaves no room for an answer."""
    return Thought(thinking_ids=(), answer_ids=(), end="overflow", waits_used=0, prompt_tokens=len(prompt_ids))


def continue_thinking(trunk: Trunk, cap: int, ids: ForcingIds, sampling: Sampling) -> Generate:
    """The rest of the thinking, at most up to the cap."""
    prefix = trunk.prompt_ids + trunk.thinking
    # Its opening, which is there already, may not come first, nor right after a Wait its end.
    forbidden = () if trunk.thinking or ids.start[:1] == ids.end[:1] else ids.start[:1]
    if trunk.fresh:
        forbidden = (ids.end[0], *ids.eos)
    request = Request(
        prompt_ids=prefix,
        max_tokens=cap - len(trunk.thinking),
        stops=() if ids.end_text else (ids.end,),
        stop_text=ids.end_text,
        forbid_first=forbidden,
        sampling=sampling_at(sampling, "think", len(prefix)),
    )
    return Generate(request=request, part="thinking", forced=trunk.last_wait)


def answer(
    trunk: Trunk, end: ThinkingEnd, budget: Budget, ids: ForcingIds, sampling: Sampling
) -> Generator[Step, Completion, Thought]:
    prefix = trunk.prompt_ids + trunk.thinking
    given = ids.final_answer if end == "cap" else ()
    if end == "cap" and prefix[-1] not in ids.newline_ending:
        prefix += ids.newline
    forced = (*trunk.last_wait, *((("answer", given),) if given else ()))
    spoken = yield from speak(prefix + ids.close + given, budget.max_answer_tokens, ids, sampling, forced)
    return Thought(
        thinking_ids=trunk.thinking,
        answer_ids=given + spoken.ids,
        end=end,
        waits_used=trunk.waits_used,
        forced_positions=trunk.forced,
        answer_finish=spoken.finish,
        prompt_tokens=len(trunk.prompt_ids),
        decoded_tokens=trunk.decoded_tokens + spoken.decoded_tokens,
        answer_decoded_tokens=spoken.decoded_tokens,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    ids: TokenIds = ()
    finish: Finish = "stop"
    decoded_tokens: int = 0


def speak(
    prefix: TokenIds, max_tokens: int, ids: ForcingIds, sampling: Sampling, forced: Forced = ()
) -> Generator[Step, Completion, Spoken]:
    """An answer in which thinking is not opened again: where the model would, it has to say something else."""
    said, refused = Spoken(), TokenIds()
    opens = bool(ids.start) and sampling.json_schema is None  # JSON holds no control tokens, and any text
    while len(said.ids) < max_tokens:
        whole = prefix + said.ids
        request = Request(
            prompt_ids=whole,
            max_tokens=max_tokens - len(said.ids),
            stops=(ids.start,) if opens and not ids.start_text else (),
            stop_text=ids.start_text if opens else None,
            forbid_first=refused,
            sampling=sampling_at(sampling, "answer", len(whole) + len(refused)),
        )
        completion = yield Generate(request=request, part="answer", forced=forced)
        opened = completion.finish == "stop" and completion.stop_ids[-1:] not in {(eos,) for eos in ids.eos}
        said = Spoken(
            ids=said.ids + completion.ids,
            finish="length" if opened else completion.finish,
            decoded_tokens=said.decoded_tokens + len(completion.ids) + len(completion.stop_ids),
        )
        if not opened:
            break
        refused, forced = (() if completion.ids else refused) + (completion.stop_ids or ids.start)[:1], ()
    return said


def sampling_at(sampling: Sampling, phase: str, position: int) -> Sampling:
    """Each request of one sample draws from a stream of its own, and the same one at every rerun."""
    if phase == "think" and sampling.answers_apart:
        sampling = replace(sampling, json_schema=None, scores=None)
    if sampling.seed is None or sampling.temperature == 0:
        return sampling
    return replace(sampling, seed=derived_seed(sampling.seed, phase, position))
