"""What every engine must do, as functions of an engine; the tests of each engine run all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from thinkscale.domain.generation import Completion, Engine, Request, Sampling

PROMPT = (5, 9, 2, 7)
LONG = (5, 9, 2, 27)  # after which the engines of the tests say more than 500 tokens before they end


async def greedy(engine: Engine, count: int = 24, prompt: tuple[int, ...] = PROMPT) -> tuple[int, ...]:
    completion = await engine.generate(Request(prompt_ids=prompt, max_tokens=count))
    assert completion.finish == "length"
    assert completion.stop_ids == ()
    assert len(completion.ids) == count
    return completion.ids


async def a_text_can_be_cut_into_requests(engine: Engine) -> None:
    whole = await greedy(engine)
    first = await greedy(engine, 9)
    assert whole == first + await greedy(engine, 15, PROMPT + first)


async def one_token_stops(engine: Engine) -> None:
    whole = await greedy(engine)
    stop = whole[7]
    completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=24, stops=((stop,),)))
    assert completion == Completion(ids=whole[: whole.index(stop)], finish="stop", stop_ids=(stop,))


async def stops_of_several_tokens(engine: Engine) -> None:
    whole = await greedy(engine)
    stop = whole[6:9]
    end = next(i for i in range(len(whole)) if whole[i : i + 3] == stop)
    completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=24, stops=(stop,)))
    assert completion == Completion(ids=whole[:end], finish="stop", stop_ids=stop)


async def the_earliest_complete_stop_counts(engine: Engine) -> None:
    whole = await greedy(engine)
    long, short = whole[2:10], whole[5:7]
    completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=24, stops=(long, short)))
    end = next(i for i in range(len(whole)) if whole[i : i + 2] == short)
    assert completion == Completion(ids=whole[:end], finish="stop", stop_ids=short)


async def a_stop_does_not_begin_in_the_prompt(engine: Engine) -> None:
    whole = await greedy(engine)
    stop = (PROMPT[-1], *whole[:2])
    assert all(whole[i : i + 3] != stop for i in range(24)), "the model's text does not suit this test"
    assert (await engine.generate(Request(prompt_ids=PROMPT, max_tokens=24, stops=(stop,)))).ids == whole


async def a_stop_that_the_length_cuts_is_no_stop(engine: Engine) -> None:
    whole = await greedy(engine)
    stop = whole[6:9]
    completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=8, stops=(stop,)))
    assert completion == Completion(ids=whole[:8], finish="length")


async def forbidden_ids_never_come_first(engine: Engine) -> None:
    forbidden: tuple[int, ...] = ()
    for _ in range(7):
        completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=1, forbid_first=forbidden))
        first = (completion.ids + completion.stop_ids)[0]
        assert first not in forbidden
        forbidden += (first,)
    requests = [
        Request(
            prompt_ids=PROMPT,
            max_tokens=1,
            forbid_first=forbidden,
            sampling=Sampling(temperature=1.0, seed=seed),
        )
        for seed in range(40)
    ]
    for completion in await asyncio.gather(*map(engine.generate, requests)):
        assert not set(completion.ids + completion.stop_ids) & set(forbidden)


async def the_forbidden_may_come_later(engine: Engine) -> None:
    """Only the first token is masked: what follows is what the model says after it."""
    first = (await greedy(engine))[0]
    completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=12, forbid_first=(first,)))
    after = await greedy(engine, 11, PROMPT + completion.ids[:1])
    assert completion.ids[1:] == after


async def an_end_of_text_id_ends_and_stands_apart(engine: Engine) -> None:
    requests = [
        Request(prompt_ids=PROMPT, max_tokens=100, sampling=Sampling(temperature=2.0, seed=seed)) for seed in range(24)
    ]
    completions = await asyncio.gather(*map(engine.generate, requests))
    ended = [completion for completion in completions if completion.finish == "stop"]
    assert ended, "no sample met an end-of-text id"
    for completion in completions:
        assert not set(completion.ids) & set(engine.info.eos_ids)
    assert {completion.stop_ids for completion in ended} <= {(eos,) for eos in engine.info.eos_ids}


async def ids_beyond_the_vocabulary_never_come(engine: Engine) -> None:
    requests = [
        Request(prompt_ids=PROMPT, max_tokens=60, sampling=Sampling(temperature=2.0, seed=seed)) for seed in range(4)
    ]
    for completion in await asyncio.gather(*map(engine.generate, requests)):
        assert max(completion.ids, default=0) < engine.info.vocab_size


async def a_seed_fixes_a_sample_alone_and_in_company(engine: Engine) -> None:
    def request(seed: int) -> Request:
        return Request(prompt_ids=PROMPT, max_tokens=16, sampling=Sampling(temperature=1.0, seed=seed))

    alone = [await engine.generate(request(seed)) for seed in (1, 2, 1)]
    assert alone[0] == alone[2] != alone[1]
    company = [Request(prompt_ids=PROMPT + (i,) * i, max_tokens=4 + 3 * i) for i in range(1, 6)]
    together = await asyncio.gather(*map(engine.generate, [*company, request(2), request(1), request(2)]))
    assert together[-3:] == [alone[1], alone[0], alone[1]]


async def company_changes_nothing(engine: Engine) -> None:
    requests = [Request(prompt_ids=PROMPT + (i,) * (2 * i), max_tokens=6 + 2 * i) for i in range(1, 8)]
    alone = [await engine.generate(request) for request in requests]
    assert await asyncio.gather(*map(engine.generate, requests)) == alone


async def narrow_sampling_is_greedy(engine: Engine) -> None:
    whole = await greedy(engine)
    for narrow in (
        Sampling(temperature=1.0, top_k=1, seed=3),
        Sampling(temperature=1.0, top_p=1e-6, seed=3),
        Sampling(temperature=1.0, min_p=1.0, seed=3),
    ):
        completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=24, sampling=narrow))
        assert completion.ids == whole


async def tokens_are_told_as_they_come(engine: Engine) -> None:
    whole = await greedy(engine)
    told: list[int] = []
    stop = whole[6:9]
    completion = await engine.generate(Request(prompt_ids=PROMPT, max_tokens=24, stops=(stop,)), told.extend)
    assert tuple(told) == (completion.ids + completion.stop_ids)[:-1]
    told.clear()
    await engine.generate(Request(prompt_ids=PROMPT, max_tokens=24), told.extend)
    assert tuple(told) == whole


async def a_short_request_does_not_wait_for_a_long_one(engine: Engine) -> None:
    ended: list[int] = []

    async def ask(count: int) -> None:
        await engine.generate(Request(prompt_ids=LONG, max_tokens=count))
        ended.append(count)

    await asyncio.gather(ask(500), ask(4), ask(200))
    assert ended == [4, 200, 500]


async def a_cancelled_request_leaves_the_others_alone(engine: Engine) -> None:
    whole = await greedy(engine)
    long = asyncio.ensure_future(engine.generate(Request(prompt_ids=LONG, max_tokens=500)))
    other = asyncio.ensure_future(engine.generate(Request(prompt_ids=PROMPT, max_tokens=24)))
    assert (await other).ids == whole
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert await greedy(engine) == whole


async def impossible_requests_are_refused(engine: Engine) -> None:
    context = engine.info.context_tokens
    with pytest.raises(ValueError, match=f"4 tokens .* {context} = {context + 4}: more than the context of {context}"):
        await engine.generate(Request(prompt_ids=PROMPT, max_tokens=context))
    with pytest.raises(ValueError, match="max_tokens is 0"):
        await engine.generate(Request(prompt_ids=PROMPT, max_tokens=0))
    with pytest.raises(ValueError, match="prompt is empty"):
        await engine.generate(Request(prompt_ids=(), max_tokens=4))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        await engine.generate(Request(prompt_ids=(engine.info.vocab_size,), max_tokens=4))
    assert len(await greedy(engine, 4)) == 4


CONTRACT: list[Callable[[Engine], Awaitable[None]]] = [
    a_text_can_be_cut_into_requests,
    one_token_stops,
    stops_of_several_tokens,
    the_earliest_complete_stop_counts,
    a_stop_does_not_begin_in_the_prompt,
    a_stop_that_the_length_cuts_is_no_stop,
    forbidden_ids_never_come_first,
    the_forbidden_may_come_later,
    an_end_of_text_id_ends_and_stands_apart,
    ids_beyond_the_vocabulary_never_come,
    a_seed_fixes_a_sample_alone_and_in_company,
    company_changes_nothing,
    narrow_sampling_is_greedy,
    tokens_are_told_as_they_come,
    a_short_request_does_not_wait_for_a_long_one,
    a_cancelled_request_leaves_the_others_alone,
    impossible_requests_are_refused,
]
