"""What a request of the OpenAI interface asks of the engine, choice by choice, and what comes of it.
Owns prompts, the sharing out of lengths, and stop texts. Knows nothing of HTTP and of the shape of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from thinkscale.domain.generation import Completion, Engine, EngineInfo, Request, Sampling, TokenIds
from thinkscale.domain.sample import Budget, Thought
from thinkscale.domain.service import Service
from thinkscale.engines.tokenizer import ModelTokenizer, TextStream
from thinkscale.forcing.driver import Told, force, run
from thinkscale.forcing.ending import check_request, check_sampling
from thinkscale.forcing.formats import ForcingIds, ThinkingFormat, behind, control_cuts, forcing_ids
from thinkscale.forcing.program import Spoken, speak, think, thinking_room
from thinkscale.server.bodies import AnyBody, ApiError, ChatBody, CompletionBody, Thinking, budget

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default length of /v1/completions
MAX_FORCED_TOKENS = 400  # of Wait and final-answer text: an engine that forces inside holds 512, delimiters included


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One completion: plain (`request`; with `ids` it may not open thinking), or forced (`budget`, `ids`)."""

    sampling: Sampling
    stop_texts: tuple[str, ...]
    prompt_ids: TokenIds
    request: Request | None = None
    budget: Budget | None = None
    ids: ForcingIds | None = None
    prompt_number: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    part: Literal["thinking", "answer"]
    text: str
    ids: TokenIds


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A choice that is complete. Counts are tokens; forced ones are Waits in the thinking, and what a cap begins the
    answer with."""

    content: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    prompt_number: int  # choices of one prompt share it
    answer_tokens: int
    answer_ids: TokenIds  # those of the content
    token_ids: TokenIds = ()  # of a plain completion: all ids, its stop included
    rest: Delta | None = None  # what a stream has not told yet
    reasoning: str | None = None
    thinking_tokens: int = 0
    forced_tokens: int = 0
    waits_used: int = 0
    end: str | None = None  # how thinking ended (`domain.sample.ThinkingEnd`)


Emit = Callable[[Delta], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    info: EngineInfo
    tokenizer: ModelTokenizer
    thinking_format: ThinkingFormat
    service: Service

    @property
    def forced(self) -> str:
        """Where thinking is forced, for the record."""
        ids = forcing_ids(self.tokenizer, self.thinking_format, Budget())
        return "inside the engine" if self.info.engine == "vllm" and ids.fits_engine else "by continuation"


def chat_choices(body: ChatBody, served: Served) -> list[Choice]:
    """Raises ApiError or ValueError where the request is impossible."""
    model, given = served.service.model, served.thinking_format
    messages = [message.for_template() for message in body.messages]
    if model.system_prompt and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": model.system_prompt})
    # A format that nobody has named is no reason to put an empty block of it before a model that may not know it.
    known = given if body.thinks or model.format != "auto" else None
    prompt = served.tokenizer.chat_ids(messages, known, thinking=body.thinks, effort=body.effort)
    count = _count(body.n, 1, served)
    if body.thinks:
        cap = body.cap(served.service.reasoning_efforts)
        return _several(_forced(body, prompt, cap, body.total_tokens, served), body, count)
    length = body.total_tokens or max(served.info.context_tokens - len(prompt), 1)
    choice = replace(_plain(body, prompt, length, served), ids=forcing_ids(served.tokenizer, given, Budget()))
    return _several(choice, body, count)


def completion_choices(body: CompletionBody, served: Served) -> list[Choice]:
    """Raises ApiError or ValueError where the request is impossible."""
    prompts = _prompts(body, served.tokenizer)
    count = _count(body.n, len(prompts), served)
    known = {*(body.stop_token_ids or ()), *served.info.eos_ids}
    if body.ignore_eos and body.stop_token_ids is not None and not known <= {*body.stop_token_ids}:
        raise ApiError("an end-of-text token always ends a completion here", param="ignore_eos")
    choices = []
    for number, prompt in enumerate(prompts):
        cap, thinking = body.thinking_token_budget, body.thinking
        if thinking.enabled if thinking is not None else cap is not None:
            start = tuple(behind(served.tokenizer, served.thinking_format.start))
            whole = prompt if prompt[-len(start) :] == start else prompt + start
            choice = _forced(body, whole, None if cap == -1 else cap, body.max_tokens, served)
        else:
            choice = _plain(body, prompt, body.max_tokens or DEFAULT_COMPLETION_TOKENS, served)
        choices += _several(replace(choice, prompt_number=number), body, count)
    return choices


def _several(choice: Choice, body: AnyBody, count: int) -> list[Choice]:
    return [
        replace(choice, sampling=each, request=choice.request and replace(choice.request, sampling=each))
        for each in map(body.sampling, range(count))
    ]


async def run_choice(engine: Engine, tokenizer: ModelTokenizer, choice: Choice, emit: Emit | None) -> Outcome:
    """Make a choice; `emit` is called with text as it comes."""
    if emit is None and not choice.stop_texts:
        return _complete(choice, await _generate(engine, choice, None), tokenizer)
    teller = _Teller(choice, tokenizer, emit)
    task = asyncio.create_task(_generate(engine, choice, teller))
    teller.on_stop = task.cancel
    try:
        return teller.outcome(await task)
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if not teller.stopped or (current is not None and current.cancelling()):
            raise
        return teller.outcome(None)


async def _generate(engine: Engine, choice: Choice, teller: _Teller | None) -> Completion | Thought:
    tell = None if teller is None else teller.tell
    if choice.request is not None and choice.ids is not None and not choice.sampling.penalises_generated:
        request = choice.request
        program = speak(request.prompt_ids, request.max_tokens, choice.ids, request.sampling)
        spoken: Spoken = await run(engine, program, tell)
        return Completion(ids=spoken.ids, finish=spoken.finish)
    if choice.request is not None:
        on_tokens = None if tell is None else (lambda ids: tell(Told("answer", ids)))
        return await engine.generate(choice.request, on_tokens)
    assert choice.budget is not None
    assert choice.ids is not None
    if choice.sampling.answers_apart:
        context, sampling = engine.info.context_tokens, choice.sampling
        apart: Thought = await run(
            engine,
            think(choice.prompt_ids, choice.budget, choice.ids, context_tokens=context, sampling=sampling,
                  unused_to_answer=True),
            tell,
        )  # fmt: skip
        return apart
    # A stop text ends a generation early: only the continuation form knows by then what was forced.
    in_engine = not choice.stop_texts
    thought = await force(
        engine, choice.prompt_ids, choice.budget, choice.ids, sampling=choice.sampling, tell=tell, in_engine=in_engine
    )
    unused = (choice.budget.max_thinking_tokens or 0) - thought.thinking_tokens
    if thought.answer_finish != "length" or unused < 1 or choice.sampling.penalises_generated:
        return thought
    # The completion's length is for both: the answer goes on with what the thinking has left.
    prefix = choice.prompt_ids + thought.thinking_ids + choice.ids.close + thought.answer_ids
    more: Spoken = await run(engine, speak(prefix, unused, choice.ids, choice.sampling), tell)
    return replace(thought, answer_ids=thought.answer_ids + more.ids, answer_finish=more.finish)


class _Teller:
    def __init__(self, choice: Choice, tokenizer: ModelTokenizer, emit: Emit | None) -> None:
        self._choice, self._tokenizer, self._emit = choice, tokenizer, emit
        self._thinking, self._answer = TextStream(tokenizer), TextStream(tokenizer)
        self._held = ""  # text of the answer that may be the beginning of a stop text
        self._texts: dict[str, list[str]] = {"thinking": [], "answer": []}
        self._counts = {"thinking": 0, "answer": 0}
        self._forced = self._waits = 0
        self._ids: list[int] = []
        self.stopped = False
        self.on_stop: Callable[[], object] = lambda: None

    def tell(self, told: Told) -> None:
        if self.stopped:
            return
        self._counts[told.part] += len(told.ids)
        self._forced += len(told.ids) if told.forced else 0
        if told.part == "thinking":
            self._waits += told.forced
            self._put("thinking", self._thinking.push(told.ids), told.ids)
            return
        if self._counts["answer"] == len(told.ids):  # the first of the answer: thinking is complete
            self._put("thinking", self._thinking.end(), ())
        self._ids += told.ids
        self._put("answer", self._until_stop(self._answer.push(told.ids)), told.ids)
        if self.stopped:
            self.on_stop()

    def outcome(self, made: Completion | Thought | None) -> Outcome:
        """`made`: None where a stop text ended the generation."""
        rest = "" if self.stopped else self._until_stop(self._answer.end()) + self._held
        self._texts["answer"].append(rest)
        content = "".join(self._texts["answer"])
        if made is not None:
            stop_ids = made.stop_ids if isinstance(made, Completion) else ()
            outcome = _complete(self._choice, made, self._tokenizer)
            if self.stopped:  # in the very last tokens: the engine had ended by itself
                outcome = replace(outcome, finish="stop", answer_ids=self._before_stop(content))
            return replace(outcome, content=content, rest=Delta("answer", rest, stop_ids))
        limits = self._choice.budget
        capped = limits is not None and self._counts["thinking"] == limits.max_thinking_tokens
        return Outcome(
            content=content,
            finish="stop",
            prompt_tokens=len(self._choice.prompt_ids),
            prompt_number=self._choice.prompt_number,
            answer_tokens=self._counts["answer"],
            answer_ids=self._before_stop(content),
            token_ids=tuple(self._ids),
            reasoning="".join(self._texts["thinking"]) if self._choice.request is None else None,
            thinking_tokens=self._counts["thinking"],
            forced_tokens=self._forced,
            waits_used=self._waits,
            end="cap" if capped else "waits_used" if self._waits else "natural",
        )

    def _before_stop(self, content: str) -> TokenIds:
        """The ids of the answer that begin before its stop text."""
        sizes = accumulate((len(self._tokenizer.token_bytes(token)) for token in self._ids), initial=0)
        size = len(content.encode())
        return tuple(token for token, before in zip(self._ids, sizes, strict=False) if before < size)

    def _put(self, part: Literal["thinking", "answer"], text: str, ids: TokenIds) -> None:
        self._texts[part].append(text)
        if self._emit is not None and (text or ids):
            self._emit(Delta(part, text, ids))

    def _until_stop(self, text: str) -> str:
        """What of the text may be given out: all but what may begin a stop text, nothing from a stop text on."""
        stops = self._choice.stop_texts
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        beginnings = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        keep = len(text) - max(beginnings, default=0)
        self._held = text[keep:]
        return text[:keep]


def _complete(choice: Choice, made: Completion | Thought, tokenizer: ModelTokenizer) -> Outcome:
    ids, finish = (made.ids, made.finish) if isinstance(made, Completion) else (made.answer_ids, made.answer_finish)
    outcome = Outcome(
        content=tokenizer.decode(tokenizer.visible(ids)),
        finish="stop" if finish == "stop" else "length",
        prompt_tokens=len(choice.prompt_ids),
        prompt_number=choice.prompt_number,
        answer_tokens=len(ids),
        answer_ids=tuple(tokenizer.visible(ids)),
    )
    if isinstance(made, Completion):
        return replace(outcome, token_ids=made.ids + made.stop_ids)
    return replace(
        outcome,
        reasoning=tokenizer.decode(tokenizer.visible(made.thinking_ids)),
        thinking_tokens=made.thinking_tokens,
        forced_tokens=made.forced_tokens + (len(choice.ids.final_answer) if choice.ids and made.end == "cap" else 0),
        waits_used=made.waits_used,
        end=made.end,
    )


def _forced(body: AnyBody, prompt: TokenIds, cap: int | None, total_tokens: int | None, served: Served) -> Choice:
    thinking, (sampling, stop_texts) = body.thinking or Thinking(), _drawn(body, served)
    if sampling.json_schema is not None:
        if "final_answer_text" in thinking.model_fields_set:
            raise ApiError(
                "thinking.final_answer_text is no JSON: it does not go with response_format", param="thinking"
            )
        thinking = thinking.model_copy(update={"final_answer_text": ""})
    texts = Budget(**thinking.model_dump(include={"waits", "wait_text", "final_answer_text"}))
    ids = forcing_ids(served.tokenizer, served.thinking_format, texts)
    if control_cuts(served.tokenizer, thinking.wait_text) or {*ids.wait} & {*ids.end, *ids.eos}:
        raise ApiError("thinking.wait_text holds a token that ends thinking or the text", param="thinking.wait_text")
    if (forced := len(ids.wait) + len(ids.final_answer)) > MAX_FORCED_TOKENS:
        raise ApiError(
            f"thinking.wait_text and thinking.final_answer_text are {forced} tokens: at most {MAX_FORCED_TOKENS}",
            param="thinking",
        )
    if sampling.penalises_generated and (stop_texts or sampling.answers_apart or not ids.fits_engine):
        raise ApiError(
            "presence_penalty and frequency_penalty do not go with thinking and stop texts, logprobs, JSON or a format "
            "that opens or ends thinking with several tokens: those are decoded in several requests"
        )
    room = 1 + thinking_room(len(prompt), Budget(max_answer_tokens=1), ids, served.info.context_tokens)
    answer: dict[str, Any] = {
        "answer_tokens": served.service.answer_tokens,
        "answer_share": served.service.answer_share,
    }
    final = len(ids.final_answer)
    limits = budget(thinking, cap=cap, total_tokens=total_tokens, room=room, final_answer_tokens=final, **answer)
    return Choice(sampling=sampling, stop_texts=stop_texts, prompt_ids=prompt, budget=limits, ids=ids)


def _plain(body: AnyBody, prompt: TokenIds, length: int, served: Served) -> Choice:
    extra: dict[str, Any] = {}
    if isinstance(body, CompletionBody):
        extra["stops"] = tuple((token,) for token in body.stop_token_ids or ())
        extra["forbid_first"] = body.forbid_first(served.info.vocab_size)
    sampling, stop_texts = _drawn(body, served)
    request = Request(prompt_ids=prompt, max_tokens=length, sampling=sampling, **extra)
    try:
        check_request(request, served.info)
    except ValueError as error:
        too_long = len(prompt) + length > served.info.context_tokens
        raise ApiError(str(error), code="context_length_exceeded" if too_long else None) from error
    return Choice(sampling=sampling, stop_texts=stop_texts, prompt_ids=prompt, request=request)


def _drawn(body: AnyBody, served: Served) -> tuple[Sampling, tuple[str, ...]]:
    sampling, engine = body.sampling(0), served.info.engine
    for field, value in (("logprobs", sampling.scores), ("response_format", sampling.json_schema)):
        if value is not None and engine != "vllm":
            raise ApiError(f"{field}: the {engine} engine does not have it, vllm has", param=field)
    check_sampling(sampling, served.info)
    return sampling, body.stop_texts()


def _prompts(body: CompletionBody, tokenizer: ModelTokenizer) -> list[TokenIds]:
    given: list[Any] = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if given and all(isinstance(each, int) for each in given):
        given = [given]
    prompts = [tuple(tokenizer.encode(each) if isinstance(each, str) else each) for each in given]
    if not prompts or not all(prompts):
        raise ApiError("the prompt is empty", param="prompt")
    if any(not 0 <= token < tokenizer.vocab_size for each in prompts for token in each):
        raise ApiError(f"the prompt holds ids outside the vocabulary of {tokenizer.vocab_size}", param="prompt")
    return prompts


def _count(n: int | None, prompts: int, served: Served) -> int:
    count = n or 1
    if count * prompts > served.service.max_choices:
        raise ApiError(f"{count * prompts} completions in one request: at most {served.service.max_choices}", param="n")
    return count
