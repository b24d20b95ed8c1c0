"""A deterministic engine without a model, for tests and dry runs. Its next-token distribution is a pure function of the
whole prefix, so every way of cutting one text into requests gives the same text. Knows no tokenizer."""

import asyncio
import hashlib
import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

from thinkscale.domain.generation import Completion, EngineInfo, OnTokens, Request, Sampling, TokenIds
from thinkscale.forcing.ending import Continuation, check_request

NextLogits = Callable[[TokenIds], Sequence[float]]  # prefix, the prompt included, to a logit for each id


def hashed_logits(*, vocab_size: int, seed: int = 0, spread: float = 2.0) -> NextLogits:
    """Independent normal logits (standard deviation `spread`) for each prefix, fixed by `seed`."""

    @lru_cache(maxsize=1 << 16)
    def logits(prefix: TokenIds) -> tuple[float, ...]:
        digest = hashlib.blake2b(repr((seed, prefix)).encode(), digest_size=8).digest()
        draw = random.Random(int.from_bytes(digest, "big"))
        return tuple(draw.gauss(0.0, spread) for _ in range(vocab_size))

    return logits


def by_heart(texts: Sequence[TokenIds], otherwise: NextLogits) -> NextLogits:
    """A model that certainly continues a prefix of one of `texts` (the first that fits) as that text goes on.
    `texts` are whole sequences: prompt, generated and forced ids. Any other prefix is left to `otherwise`."""

    def logits(prefix: TokenIds) -> Sequence[float]:
        size = len(prefix)
        for text in texts:
            if len(text) > size and text[:size] == prefix:
                known = [-math.inf] * len(otherwise(prefix))
                known[text[size]] = 0.0
                return known
        return otherwise(prefix)

    return logits


class ScriptedEngine:
    """Decodes from a given next-token function, one asyncio step a token. Counts its requests, those under way now and
    the most that ever were at once, and the ids decoded, stops included."""

    def __init__(
        self,
        next_logits: NextLogits | None = None,
        *,
        vocab_size: int = 32,
        eos_ids: TokenIds = (0,),
        context_tokens: int = 4096,
        token_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`token_s`: seconds that one decoded token takes. `seed` fixes the default distribution."""
        self.info = EngineInfo(
            engine="scripted",
            version="1",
            model=f"scripted-{seed}",
            dtype="float64",
            device="none",
            context_tokens=context_tokens,
            vocab_size=vocab_size,
            eos_ids=eos_ids,
        )
        self._next_logits = next_logits or hashed_logits(vocab_size=vocab_size, seed=seed)
        self._token_s = token_s
        self.under_way = 0
        self.requests = self.decoded_tokens = self.most_concurrent = 0

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        check_request(request, self.info)
        self.requests += 1
        self.under_way += 1
        self.most_concurrent = max(self.most_concurrent, self.under_way)
        try:
            return await self._decode(request, Continuation(request, self.info.eos_ids, on_tokens))
        finally:
            self.under_way -= 1

    def check(self) -> None:
        return

    async def close(self) -> None:
        pass

    async def _decode(self, request: Request, continuation: Continuation) -> Completion:
        draw = random.Random(request.sampling.seed)
        while True:
            await asyncio.sleep(self._token_s)
            logits = list(self._next_logits(request.prompt_ids + tuple(continuation.ids)))[: self.info.vocab_size]
            if not continuation.ids:
                for forbidden in request.forbid_first:
                    logits[forbidden] = -math.inf
            self.decoded_tokens += 1
            completion = continuation.add(sample(logits, request.sampling, draw))
            if completion is not None:
                return completion


def sample(logits: Sequence[float], sampling: Sampling, draw: random.Random) -> int:
    """One id by temperature, then min-p, top-k, top-p (the order of vLLM); the lowest id wins a greedy tie."""
    best = max(logits)
    if sampling.temperature == 0:
        return list(logits).index(best)
    weights = {i: math.exp((logit - best) / sampling.temperature) for i, logit in enumerate(logits)}
    ranked = sorted(((w, i) for i, w in weights.items() if w > 0 and w >= sampling.min_p), key=lambda x: (-x[0], x[1]))
    if sampling.top_k > 0:
        ranked = ranked[: sampling.top_k]
    limit = sampling.top_p * sum(weight for weight, _ in ranked)
    before = [0.0, *accumulate(weight for weight, _ in ranked)]
    kept = [pair for pair, mass in zip(ranked, before, strict=False) if mass < limit] or ranked[:1]
    return draw.choices([i for _, i in kept], [weight for weight, _ in kept])[0]
