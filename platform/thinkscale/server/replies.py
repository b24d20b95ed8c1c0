"""The JSON of OpenAI's answers, whole and in parts. Pure."""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from thinkscale.domain.generation import ScoredId
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.server.bodies import AnyBody, ChatBody, CompletionBody
from thinkscale.server.choices import Delta, Outcome

REASONING = ("reasoning_content", "reasoning")  # what clients call the thinking: both names are given


LEAST = -9999.0  # stands for a log probability of minus infinity, which is no JSON


class Reply:
    def __init__(self, body: AnyBody, model: str, tokenizer: ModelTokenizer) -> None:
        self._scored, self._tokenizer = body.sampling(0).scores is not None, tokenizer
        self._chat = isinstance(body, ChatBody)
        self._ids = isinstance(body, CompletionBody) and bool(body.return_token_ids)
        self._with_usage = body.stream_options is not None and body.stream_options.include_usage
        chat = "chat.completion.chunk" if body.stream else "chat.completion"
        name, kind = ("chatcmpl", chat) if self._chat else ("cmpl", "text_completion")
        head_id, created = f"{name}-{uuid.uuid4().hex}", int(time.time())
        self._head = {"id": head_id, "object": kind, "created": created, "model": model}

    def whole(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        choices = [self._choice(index, outcome) for index, outcome in enumerate(outcomes)]
        return {**self._head, "choices": choices, "usage": usage(outcomes)}

    def beginning(self, count: int) -> Iterator[dict[str, Any]]:
        if self._chat:
            for index in range(count):
                yield self._part(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def part(self, index: int, come: Delta | Outcome) -> Iterator[dict[str, Any]]:
        if isinstance(come, Delta):
            yield self._part(index, self._delta(come), None)
            return
        if come.rest is not None and (come.rest.text or (self._ids and come.rest.ids)):
            yield self._part(index, self._delta(come.rest), None)
        end: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        yield self._part(index, {**end, "logprobs": self._logprobs(come), **_thinking(come)}, come.finish)

    def last_part(self, outcomes: Iterable[Outcome]) -> Iterator[dict[str, Any]]:
        if self._with_usage:
            yield {**self._head, "choices": [], "usage": usage(list(outcomes))}

    def _choice(self, index: int, outcome: Outcome) -> dict[str, Any]:
        logprobs = self._logprobs(outcome)
        choice: dict[str, Any] = {"index": index, "finish_reason": outcome.finish, "logprobs": logprobs}
        reasoning = {} if outcome.reasoning is None else dict.fromkeys(REASONING, outcome.reasoning)
        if self._chat:
            choice["message"] = {"role": "assistant", "content": outcome.content, "refusal": None, **reasoning}
        else:
            choice |= {"text": outcome.content, **reasoning}
            if self._ids:
                choice["token_ids"] = list(outcome.token_ids)
        return {**choice, **_thinking(outcome)}

    def _logprobs(self, outcome: Outcome) -> dict[str, Any] | None:
        """Of the content's tokens; one that was forced has 0."""
        if not self._scored:
            return None
        scored = [token if isinstance(token, ScoredId) else ScoredId(token, 0.0) for token in outcome.answer_ids]
        own = [self._token(token, token.logprob) for token in scored]
        tops = [[self._token(*each) for each in token.top] for token in scored]
        if self._chat:
            content = [{**token, "top_logprobs": top} for token, top in zip(own, tops, strict=True)]
            return {"content": content, "refusal": None}
        texts = [token["token"] for token in own]
        return {
            "tokens": texts,
            "token_logprobs": [token["logprob"] for token in own],
            "top_logprobs": [{each["token"]: each["logprob"] for each in top} for top in tops],
            "text_offset": list(accumulate(map(len, texts[:-1]), initial=0)) if texts else [],
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        held = self._tokenizer.token_bytes(token)
        text = held.decode(errors="replace") or self._tokenizer.decode([token])
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(held)}

    def _delta(self, delta: Delta) -> dict[str, Any]:
        reasoning: dict[str, Any] = dict.fromkeys(REASONING, delta.text)
        if self._chat:
            return {"delta": reasoning if delta.part == "thinking" else {"content": delta.text}}
        texts = {"text": delta.text} if delta.part == "answer" else {"text": "", **reasoning}
        return texts | ({"token_ids": list(delta.ids)} if self._ids else {})

    def _part(self, index: int, what: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": index, "finish_reason": finish, "logprobs": None, **what}]}


def usage(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    prompts = {outcome.prompt_number: outcome.prompt_tokens for outcome in outcomes}
    prompt = sum(prompts.values())
    thinking, forced = (sum(getattr(o, name) for o in outcomes) for name in ("thinking_tokens", "forced_tokens"))
    completion = thinking + sum(outcome.answer_tokens for outcome in outcomes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": thinking, "forced_tokens": forced},
    }


def _thinking(outcome: Outcome) -> dict[str, Any]:
    if outcome.reasoning is None:
        return {}
    counts = {"forced_tokens": outcome.forced_tokens, "waits_used": outcome.waits_used}
    return {"thinking": {"end": outcome.end, "tokens": outcome.thinking_tokens, **counts}}
