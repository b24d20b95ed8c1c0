"""Where a generation may begin and where it ends: the rules that every engine shares. Knows no engine.
A delimiter of ordinary tokens merges with what stands around it: `</think>` may come as `</`, `think` and `>` and a
newline in one token. So it is looked for in the text, as an automaton over ids that costs a look-up a token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from thinkscale.domain.generation import Completion, EngineInfo, OnTokens, Request, Sampling, TextStop, TokenIds

if TYPE_CHECKING:
    from thinkscale.forcing.formats import Tokenizer


@lru_cache(maxsize=16)
def text_stop(tokenizer: Tokenizer, text: str) -> TextStop:
    """The automaton of a text over a tokenizer's ids."""
    wanted = text.encode()
    rests = tuple(wanted[state:] for state in range(len(wanted)))
    moves, heads = {}, {}
    for token in range(tokenizer.vocab_size):
        piece = tokenizer.token_bytes(token)
        if not piece or not (wanted[:1] in piece or piece in wanted or piece.startswith(rests)):
            continue
        row = tuple(_move(wanted, state, piece) for state in range(len(wanted)))
        if any(state for state, _ in row):
            moves[token] = row
        for lead in {lead for state, lead in row if state and lead > 0}:
            heads[token, lead] = tuple(tokenizer.encode(piece[:lead].decode(errors="ignore")))
    return TextStop(text=text, length=len(wanted), moves=moves, heads=heads)


def _move(wanted: bytes, state: int, piece: bytes) -> tuple[int, int]:
    """From `state` bytes of the text over a piece: the state after it, and where in the piece the match begins."""
    whole = wanted[:state] + piece
    if (begin := whole.find(wanted)) >= 0:
        return len(wanted), max(begin - state, -1)
    after = next(n for n in range(len(wanted) - 1, -1, -1) if whole.endswith(wanted[:n]))
    return after, max(len(whole) - after - state, -1)


class Match:
    """Looks for a text in ids that come one by one."""

    def __init__(self, stop: TextStop) -> None:
        self._stop, self._count, self._state, self._lead = stop, 0, 0, 0
        self.first = 0  # ids before the one in which the text, as far as it has come, begins

    def push(self, token: int) -> bool:
        row = self._stop.moves.get(token)
        self._state, lead = (0, 0) if row is None else row[self._state]
        if lead >= 0:
            self.first, self._lead = self._count + (self._state == 0), lead
        self._count += 1
        return self._state == self._stop.length

    def split(self, ids: Sequence[int]) -> tuple[TokenIds, TokenIds]:
        """The ids before the text, and those of the text.
        An id that holds both is the text's; what of it stands before the text is encoded anew, and stands in for it."""
        kept, rest = tuple(ids[: self.first]), tuple(ids[self.first :])
        head = self._stop.heads.get((rest[0], self._lead), ()) if self._lead else ()
        return (kept + head)[: len(ids)], rest[bool(head) :]


def check_request(request: Request, info: EngineInfo) -> None:
    """Refuse a request that this engine can never serve. Raises ValueError, naming the figure that is out of range."""
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
    if info.engine != "vllm" and sampling.answers_apart:
        raise ValueError(f"the {info.engine} engine has no log probabilities and no JSON mode: vllm has")


class Continuation:
    def __init__(self, request: Request, eos_ids: TokenIds, on_tokens: OnTokens | None = None) -> None:
        self._max_tokens = request.max_tokens
        self._on_tokens = on_tokens
        self._stops: dict[int, list[TokenIds]] = defaultdict(list)
        # Longest first: of two stops that end at the same id, the one that began earlier counts.
        for stop in sorted({*request.stops, *((eos,) for eos in eos_ids)}, key=len, reverse=True):
            self._stops[stop[-1]].append(stop)
        self._match = None if request.stop_text is None else Match(request.stop_text)
        self.ids: list[int] = []

    def add(self, *tokens: int) -> Completion | None:
        """Take the next ids; the completion, once one of them completes it. Those behind that one are dropped."""
        completion, taken = None, 0
        for token in tokens:
            completion = self._take(token)
            taken += completion is None or completion.finish == "length"
            if completion is not None:
                break
        if taken and self._on_tokens is not None:
            self._on_tokens(tokens[:taken])
        return completion

    def _take(self, token: int) -> Completion | None:
        self.ids.append(token)
        for stop in self._stops.get(token, ()):
            if tuple(self.ids[-len(stop) :]) == stop:
                return Completion(ids=tuple(self.ids[: -len(stop)]), finish="stop", stop_ids=stop)
        if self._match is not None and self._match.push(token):
            ids, stop_ids = self._match.split(self.ids)
            return Completion(ids=ids, finish="stop", stop_ids=stop_ids)
        if len(self.ids) >= self._max_tokens:
            return Completion(ids=tuple(self.ids), finish="length")
        return None
