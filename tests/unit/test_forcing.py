"""Every way thinking can end, scripted token by token."""

from __future__ import annotations

import asyncio

import pytest

from thinkscale.domain.generation import Sampling, TokenIds
from thinkscale.domain.sample import Budget, Thought
from thinkscale.engines.scripted import ScriptedEngine, by_heart, hashed_logits
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import think

EOS, END, WAIT, WAIT2, NEWLINE, FINAL, ANSWER = 0, 1, 2, 3, 4, 5, 6
PROMPT = (20, 21, NEWLINE)
IDS = ForcingIds(
    end=(END,),
    close=(END, ANSWER, NEWLINE),
    wait=(WAIT, WAIT2),
    final_answer=(FINAL,),
    newline=(NEWLINE,),
    newline_ending=frozenset({NEWLINE}),
    eos=(EOS,),
)


def forced(
    texts: list[TokenIds],
    *,
    cap: int | None,
    waits: int = 0,
    ids: ForcingIds = IDS,
    context: int = 200,
    max_answer: int = 8,
    prompt: TokenIds = PROMPT,
) -> Thought:
    """Think with an engine that knows `texts` (what follows the prompt) by heart."""
    engine = ScriptedEngine(
        by_heart([PROMPT + text for text in texts], hashed_logits(vocab_size=32)), context_tokens=context
    )
    budget = Budget(max_thinking_tokens=cap, waits=waits, max_answer_tokens=max_answer)
    return asyncio.run(run(engine, think(prompt, budget, ids, context_tokens=context)))


CLOSE = IDS.close
ANSWERED = (15, 16, EOS)


def test_natural_end_appends_the_whole_delimiter_and_answers() -> None:
    thought = forced([(10, 11, END), (10, 11, *CLOSE, *ANSWERED)], cap=50)
    assert (thought.end, thought.thinking_ids, thought.answer_ids) == ("natural", (10, 11), (15, 16))
    assert (thought.waits_used, thought.forced_tokens, thought.answer_finish) == (0, 0, "stop")
    assert thought.decoded_tokens == 2 + 1 + 3  # thinking, its stop, the answer with its stop
    assert thought.prompt_tokens == len(PROMPT)


def test_end_of_text_ends_thinking_like_the_delimiter() -> None:
    thought = forced([(10, EOS), (10, *CLOSE, *ANSWERED)], cap=50)
    assert (thought.end, thought.thinking_ids, thought.answer_ids) == ("natural", (10,), (15, 16))


def test_cap_closes_with_newline_delimiter_and_final_answer_text() -> None:
    thought = forced([(10, 11, 12, 13), (10, 11, NEWLINE, *CLOSE, FINAL, *ANSWERED)], cap=2)
    assert (thought.end, thought.thinking_ids, thought.answer_ids) == ("cap", (10, 11), (FINAL, 15, 16))


def test_cap_appends_no_second_newline() -> None:
    thought = forced([(10, NEWLINE, 12), (10, NEWLINE, *CLOSE, FINAL, *ANSWERED)], cap=2)
    assert (thought.end, thought.answer_ids) == ("cap", (FINAL, 15, 16))


def test_cap_of_zero_answers_at_once() -> None:
    thought = forced([(*CLOSE, FINAL, *ANSWERED)], cap=0)  # the prompt ends in a newline
    assert (thought.end, thought.thinking_ids, thought.answer_ids) == ("cap", (), (FINAL, 15, 16))


def test_a_stop_right_behind_the_cap_is_never_seen() -> None:
    thought = forced([(10, 11, END), (10, 11, NEWLINE, *CLOSE, FINAL, *ANSWERED)], cap=2)
    assert (thought.end, thought.answer_ids) == ("cap", (FINAL, 15, 16))


def test_a_wait_drops_the_stop_and_is_counted() -> None:
    texts = [
        (10, END),
        (10, WAIT, WAIT2, 11, END),
        (10, WAIT, WAIT2, 11, *CLOSE, *ANSWERED),
    ]
    thought = forced(texts, cap=50, waits=1)
    assert (thought.end, thought.thinking_ids) == ("waits_used", (10, WAIT, WAIT2, 11))
    assert (thought.waits_used, thought.forced_positions, thought.forced_tokens) == (1, ((1, 3),), 2)


def test_a_wait_that_the_model_writes_is_not_a_forced_one() -> None:
    thought = forced([(WAIT, WAIT2, 10, END), (WAIT, WAIT2, 10, *CLOSE, *ANSWERED)], cap=50)
    assert (thought.end, thought.waits_used, thought.forced_tokens) == ("natural", 0, 0)


def test_cap_inside_a_wait_cuts_it() -> None:
    texts = [(10, END), (10, WAIT, NEWLINE, *CLOSE, FINAL, *ANSWERED)]
    thought = forced(texts, cap=2, waits=3)
    assert (thought.end, thought.thinking_ids, thought.waits_used) == ("cap", (10, WAIT), 1)
    assert (thought.forced_positions, thought.answer_ids) == (((1, 2),), (FINAL, 15, 16))


def test_cap_at_the_end_of_a_wait() -> None:
    texts = [(10, END), (10, WAIT, WAIT2, NEWLINE, *CLOSE, FINAL, *ANSWERED)]
    thought = forced(texts, cap=3, waits=1)
    assert (thought.end, thought.thinking_ids) == ("cap", (10, WAIT, WAIT2))


def test_the_first_token_after_a_wait_is_no_stop() -> None:
    def logits(prefix: TokenIds) -> list[float]:
        return [5.0 if i == END else 4.0 if i == 10 else 0.0 for i in range(32)]

    budget = Budget(max_thinking_tokens=9, waits=2, max_answer_tokens=2)
    thought = asyncio.run(run(ScriptedEngine(logits), think(PROMPT, budget, IDS, context_tokens=100)))
    assert thought.thinking_ids == (WAIT, WAIT2, 10, WAIT, WAIT2, 10)
    assert thought.end == "waits_used"


MULTI = ForcingIds(**{**{n: getattr(IDS, n) for n in IDS.__slots__}, "end": (7, 8), "close": (7, 8, NEWLINE)})


def test_multi_token_delimiter_is_recognised_whole_and_dropped_whole() -> None:
    texts = [
        (10, 7, 9, 7, 8),
        (10, 7, 9, WAIT, WAIT2, 11, 7, 8),
        (10, 7, 9, WAIT, WAIT2, 11, 7, 8, NEWLINE, *ANSWERED),
    ]
    thought = forced(texts, cap=50, waits=1, ids=MULTI)
    assert thought.thinking_ids == (10, 7, 9, WAIT, WAIT2, 11)  # the lone 7 stays, it was thinking
    assert (thought.end, thought.answer_ids) == ("waits_used", (15, 16))


def test_cap_inside_a_multi_token_delimiter_counts_what_came() -> None:
    texts = [(10, 7, 8), (10, 7, NEWLINE, 7, 8, NEWLINE, FINAL, *ANSWERED)]
    thought = forced(texts, cap=2, ids=MULTI)
    assert (thought.end, thought.thinking_ids, thought.answer_ids) == ("cap", (10, 7), (FINAL, 15, 16))


def test_answer_is_cut_at_its_limit() -> None:
    thought = forced([(10, END), (10, *CLOSE, 12, 13, 14, 15, 16)], cap=9, max_answer=3)
    assert (thought.answer_ids, thought.answer_finish) == ((12, 13, 14), "length")


def test_without_a_cap_the_context_is_the_cap() -> None:
    # 3 prompt + thinking + newline + 3 close + 1 final + 8 answer = 20
    thought = forced([tuple([10] * 15)], cap=None, context=20)
    assert (thought.end, thought.thinking_tokens) == ("cap", 4)
    assert forced([tuple([10] * 15)], cap=100, context=20).thinking_ids == thought.thinking_ids


@pytest.mark.parametrize(("context", "end"), [(16, "cap"), (15, "overflow"), (2, "overflow")])
def test_a_prompt_that_leaves_no_room_for_an_answer_overflows(context: int, end: str) -> None:
    thought = forced([], cap=10, context=context)
    assert thought.end == end
    if end == "overflow":
        assert (thought.thinking_ids, thought.answer_ids, thought.answer_finish) == ((), (), "none")


def test_waits_beyond_the_context_end_at_the_cap() -> None:
    def logits(prefix: TokenIds) -> list[float]:
        return [5.0 if i == END else 4.0 if i == 10 else 0.0 for i in range(32)]

    budget = Budget(waits=1000, max_answer_tokens=2)
    thought = asyncio.run(run(ScriptedEngine(logits), think(PROMPT, budget, IDS, context_tokens=40)))
    assert (thought.end, thought.thinking_tokens) == ("cap", 40 - 3 - 5 - 2)


def test_a_seeded_sample_is_the_same_at_every_run() -> None:
    def once(seed: int) -> Thought:
        budget = Budget(max_thinking_tokens=40, waits=2, max_answer_tokens=9)
        sampling = Sampling(temperature=1.0, seed=seed)
        return asyncio.run(run(ScriptedEngine(), think(PROMPT, budget, IDS, context_tokens=200, sampling=sampling)))

    assert once(1) == once(1)
    assert once(1) != once(2)


@pytest.mark.parametrize("bad", [{"max_thinking_tokens": -1}, {"waits": -1}, {"max_answer_tokens": 0}])
def test_impossible_budgets_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Budget(**bad)
