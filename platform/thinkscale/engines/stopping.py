"""Where a generation may begin and where it ends: the rules that every engine shares.

Owns the check of a request against an engine's limits and the matching of stops. Knows no engine.
"""

from __future__ import annotations

from collections import defaultdict

from thinkscale.domain.engine import OnTokens
from thinkscale.domain.generation import Completion, EngineInfo, Request, Sampling, TokenIds
from thinkscale.forcing.ending import Match


def check_request(request: Request, info: EngineInfo) -> None:
    """Refuse a request that this engine can never serve.

    Raises:
        ValueError: naming the figure that is out of range.
    """
    if not request.prompt_ids:
        raise ValueError("the prompt is empty: an engine continues at least one token")
    if request.max_tokens < 1:
        raise ValueError(f"max_tokens is {request.max_tokens}: must be 1 or more")
    check_sampling(request.sampling, info)
    needed = len(request.prompt_ids) + request.max_tokens
    if needed > info.context_tokens:
        raise ValueError(
            f"prompt of {len(request.prompt_ids)} tokens + max_tokens {request.max_tokens} = {needed}: "
            f"more than the context of {info.context_tokens}"
        )
    if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= info.vocab_size:
        raise ValueError(f"the prompt holds ids outside the vocabulary of {info.vocab_size}")
    if any(not stop for stop in request.stops):
        raise ValueError("a stop sequence is empty")


def check_sampling(sampling: Sampling, info: EngineInfo) -> None:
    """Raises ValueError where the engine cannot draw tokens so."""
    if info.engine != "vllm" and (sampling.penalises_generated or sampling.repetition_penalty != 1):
        raise ValueError(f"the {info.engine} engine has no presence, frequency or repetition penalty: vllm has")


class Continuation:
    """The ids of one request as an engine decodes them, until they are complete."""

    def __init__(self, request: Request, eos_ids: TokenIds, on_tokens: OnTokens | None = None) -> None:
        self._max_tokens = request.max_tokens
        self._on_tokens = on_tokens
        self._stops: dict[int, list[TokenIds]] = defaultdict(list)
        # Longest first: of two stops that end at the same id, the one that began earlier counts.
        for stop in sorted({*request.stops, *((eos,) for eos in eos_ids)}, key=len, reverse=True):
            self._stops[stop[-1]].append(stop)
        self._match = None if request.stop_text is None else Match(request.stop_text)
        self.ids: list[int] = []

    def add(self, token: int) -> Completion | None:
        """Take the next id; the completion, once this id completes it."""
        self.ids.append(token)
        for stop in self._stops.get(token, ()):
            if tuple(self.ids[-len(stop) :]) == stop:
                return Completion(ids=tuple(self.ids[: -len(stop)]), finish="stop", stop_ids=stop)
        if self._match is not None and self._match.push(token):
            ids, stop_ids = self._match.split(self.ids)
            return Completion(ids=ids, finish="stop", stop_ids=stop_ids)
        if self._on_tokens is not None:
            self._on_tokens((token,))
        if len(self.ids) >= self._max_tokens:
            return Completion(ids=tuple(self.ids), finish="length")
        return None
