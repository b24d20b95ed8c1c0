"""Thinking told token by token: the same tokens, in the same parts, as what comes back at the end."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from thinkscale.domain.generation import Sampling
from thinkscale.domain.sample import Budget
from thinkscale.engines.scripted import ScriptedEngine, by_heart, hashed_logits
from thinkscale.engines.tokenizer import ModelTokenizer, TextStream
from thinkscale.forcing.driver import Told, force
from thinkscale.forcing.formats import ForcingIds
from tiny_model import write_tiny_model

VOCAB, EOS, NEWLINE = 24, 0, 5


def forcing(end: tuple[int, ...]) -> ForcingIds:
    return ForcingIds(
        end=end,
        close=(*end, 3),
        wait=(7, 8, 9),
        final_answer=(10, 11),
        newline=(NEWLINE,),
        newline_ending=frozenset({NEWLINE}),
        eos=(EOS,),
    )


@pytest.mark.parametrize("end", [(2,), (2, 4), (2, 2, 4)])
def test_what_is_told_is_what_comes_back(end: tuple[int, ...]) -> None:
    """Over random models: all ends of thinking, Waits that the cap cuts, beginnings of delimiters."""
    seen = set()
    for seed in range(150):
        draw = random.Random(seed)
        budget = Budget(
            max_thinking_tokens=draw.choice([0, 1, 3, 6, 12, 30, None]),
            waits=draw.choice([0, 1, 3]),
            max_answer_tokens=draw.choice([1, 4]),
        )
        engine = ScriptedEngine(hashed_logits(vocab_size=VOCAB, seed=seed, spread=1.0), context_tokens=80)
        told: list[Told] = []
        sampling = Sampling(temperature=1.0, seed=seed)
        thought = asyncio.run(force(engine, (1, 6), budget, forcing(end), sampling=sampling, tell=told.append))
        assert tuple(i for each in told if each.part == "thinking" for i in each.ids) == thought.thinking_ids
        assert tuple(i for each in told if each.part == "answer" for i in each.ids) == thought.answer_ids
        parts = [each.part for each in told]
        assert parts == sorted(parts, reverse=True), "thinking comes before the answer"
        forced = sum(len(each.ids) for each in told if each.part == "thinking" and each.forced)
        assert forced == thought.forced_tokens
        assert thought == asyncio.run(force(engine, (1, 6), budget, forcing(end), sampling=sampling))
        seen.add(thought.end)
    assert seen >= {"cap", "natural", "waits_used"} or len(end) > 1


def test_tokens_are_told_while_thinking_goes_on() -> None:
    text = (1, 6, *(12,) * 20, 2, 3, 13, 14, EOS)
    engine = ScriptedEngine(by_heart([text], hashed_logits(vocab_size=VOCAB)), vocab_size=VOCAB, eos_ids=(EOS,))
    told: list[Told] = []

    async def run() -> int:
        task = asyncio.create_task(
            force(engine, (1, 6), Budget(), forcing((2,)), sampling=Sampling(), tell=told.append)
        )
        while len(told) < 5:
            await asyncio.sleep(0)
        so_far = engine.decoded_tokens
        await task
        return so_far

    assert asyncio.run(run()) < 10
    assert [each.ids for each in told] == [*[(12,)] * 20, (13,), (14,)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer(write_tiny_model(tmp_path_factory.mktemp("tiny")))


def test_a_text_stream_never_cuts_a_character(tokenizer: ModelTokenizer) -> None:
    """The tokenizer of the tests has one token for each byte."""
    text = "naïve 測試 🙂 end"
    stream = TextStream(tokenizer)
    pieces = [stream.push([i]) for i in tokenizer.encode(text)]
    assert "".join(pieces) + stream.end() == text
    assert "\ufffd" not in "".join(pieces)
    assert sum(bool(piece) for piece in pieces) == len(text)


def test_a_text_stream_ends_with_what_it_has(tokenizer: ModelTokenizer) -> None:
    stream = TextStream(tokenizer)
    assert stream.push(tokenizer.encode("é")[:1]) == ""
    assert stream.end() == "\ufffd"


def test_a_text_stream_leaves_out_special_tokens(tokenizer: ModelTokenizer) -> None:
    stream = TextStream(tokenizer)
    assert stream.push(tokenizer.encode("a<|im_end|>b")) + stream.end() == "ab"


def test_a_chat_template_that_refuses_says_so(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path)
    template = directory / "chat_template.jinja"
    template.write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
        ModelTokenizer(directory).prompt_ids("why?", None)
