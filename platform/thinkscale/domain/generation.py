"""What is asked of an engine and what comes back, in token ids, and the interface that every engine has.
Knows no tokenizer and no engine."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

TokenIds = tuple[int, ...]


class ScoredId(int):
    """An id that says how probable it was, wherever ids go."""

    logprob: float
    top: tuple[tuple[int, float], ...]  # the likeliest ids at its place and their log probabilities, best first

    def __new__(cls, token: int, logprob: float, top: tuple[tuple[int, float], ...] = ()) -> Self:
        scored = super().__new__(cls, token)
        scored.logprob, scored.top = logprob, top
        return scored


Finish = Literal["stop", "length"]  # stop: a stop sequence or an end-of-text token came; length: max_tokens came


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy: top_p, top_k, min_p and seed then have no effect."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    """Taken from the logits of ids that this request has already generated, forced ones included. Penalties change
    greedy decoding too; only vLLM knows them."""
    frequency_penalty: float = 0.0  # as presence_penalty, times how often
    repetition_penalty: float = 1.0  # divides positive logits of ids of prompt and text, multiplies negative ones

    json_schema: str | None = None
    """A JSON schema, as text, to which the answer must keep; thinking is free. Only vLLM has it, and scores."""
    scores: int | None = None
    """The answer's ids come as `ScoredId` with so many alternatives each; None: they come without."""

    @property
    def penalises_generated(self) -> bool:
        """Whether the result depends on where prompt and generated text meet."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def answers_apart(self) -> bool:
        """Whether the answer is drawn otherwise than the thinking, so that it needs a request of its own."""
        return self.json_schema is not None or self.scores is not None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextStop:
    """A text that ends a generation however its tokens cut it: an automaton over ids (`forcing.ending`)."""

    text: str
    length: int  # of the text in bytes: the state in which it is complete. A state is how many of its bytes have come.
    moves: Mapping[int, tuple[tuple[int, int], ...]]
    """By id, from each state: the state after it, and how many bytes of the id stand before the match; -1 where the
    match goes on from earlier ids. Ids that are not there lead to state 0."""
    heads: Mapping[tuple[int, int], TokenIds]  # by id and bytes before the match: those bytes as ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One continuation. Its result depends on nothing but itself and the engine's weights."""

    prompt_ids: TokenIds
    max_tokens: int
    stops: tuple[TokenIds, ...] = ()  # sequences of ids that end the generation; the engine's end-of-text ids always do
    stop_text: TextStop | None = None  # a text that ends it too
    forbid_first: TokenIds = ()  # ids that may not be the first token generated
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def needs_watching(self) -> bool:
        """Whether single ids do not say where it ends."""
        return self.stop_text is not None or any(len(stop) > 1 for stop in self.stops)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """`ids` without the stop that ended them; `stop_ids` is that stop (empty where finish is length). An id that
    holds text before a stop text is not in `stop_ids`: in `ids` stands that text, encoded anew."""

    ids: TokenIds
    finish: Finish
    stop_ids: TokenIds = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """What an engine's output depends on; its fingerprint stands in manifests."""

    engine: str  # vllm, transformers, endpoint or scripted
    version: str
    model: str
    dtype: str
    device: str
    context_tokens: int
    vocab_size: int  # size of the tokenizer's vocabulary: ids from here on are never sampled
    eos_ids: TokenIds
    token_ids_hash: str = ""  # of the ids that the tokenizer gives for a fixed text
    tensor_parallel: int = 1
    model_hash: str = ""
    tokenizer_hash: str = ""
    chat_template_hash: str = ""  # of the template as it renders fixed messages
    forced: str = "by continuation"
    """Where thinking is forced; campaigns fork all budgets of a question from one trace, which only this form can."""


def derived_seed(*parts: object) -> int:
    """A seed below 2**31 that these parts fix, as (campaign's seed, row's id, sample): the same in every run."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


OnTokens = Callable[[TokenIds], None]  # told of ids as they are decoded, in order; not of one that completes a stop


class EngineError(RuntimeError):
    """An engine could not be built or failed on a request; the message says what to do."""


class EngineDiedError(EngineError):
    """No request will succeed on this engine any more: a new one is needed."""


class StopAskingError(EngineError):
    """Nothing more shall be asked: another request would meet the same; the message says why and what to do."""


class Engine(Protocol):
    """Turns token ids into token ids. Requests advance independently of each other."""

    info: EngineInfo

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        """Continue `request.prompt_ids`; `on_tokens` is called in the event loop, before the call returns.
        The completion ends at the first complete occurrence of a stop sequence or an end-of-text id, or after
        `max_tokens` tokens. Cancelling the call drops the request from the engine. Raises EngineError: the engine
        failed; the request may be tried again elsewhere; ValueError: the request itself is impossible (prompt and
        max_tokens exceed the context)."""

    def check(self) -> None:
        """Raises EngineDiedError where the engine is known to have died. Returns at once."""

    async def close(self) -> None:
        """Free the device. No request may be under way."""
