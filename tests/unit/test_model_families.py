"""Tokenizers and templates of model families: ids, one opening, the end that is found, the close that was trained."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from families import FAMILIES, FIXTURES, Family
from http_server import Running
from thinkscale.cli import cli
from thinkscale.domain.generation import Engine, Request, Sampling
from thinkscale.domain.models import Model, Serve
from thinkscale.domain.question import Trace
from thinkscale.domain.sample import Budget, Thought
from thinkscale.domain.service import Service
from thinkscale.engines.scripted import ScriptedEngine, by_heart, hashed_logits
from thinkscale.engines.tokenizer import PROBE, ModelTokenizer, TokenizerError
from thinkscale.engines.transformers import TransformersEngine
from thinkscale.forcing.driver import Told, force
from thinkscale.forcing.formats import ThinkingFormat, forcing_ids, literal, resolve_format
from thinkscale.learn.masking import tokenize
from thinkscale.runtime.failure import headline
from thinkscale.server.api import OpenAiApi

QUESTION = "What is 9 plus 6?"


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def tokenizer(family: Family, tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer(family.write(tmp_path_factory.mktemp("family")))


@pytest.fixture(scope="module")
def thinking_format(family: Family, tokenizer: ModelTokenizer) -> ThinkingFormat:
    return resolve_format(Model.model_validate({"base": "x", "format": family.setting}), tokenizer)


def test_the_format_is_that_of_the_template(family: Family, thinking_format: ThinkingFormat) -> None:
    found = thinking_format
    assert (found.name, found.start, found.close) == (family.format, family.start, family.close)
    assert found.before_end == family.before_end


def test_prompts_open_thinking_exactly_once(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    for system in (None, "The Rules."):
        text = tokenizer.decode(tokenizer.prompt_ids(QUESTION, thinking_format, system))
        assert text.count(QUESTION) == 1
        assert (system or "") in text
        assert text.rpartition(QUESTION)[2].count(thinking_format.opening) == 1
        assert text.endswith(thinking_format.start)


def test_a_prompt_without_thinking_leaves_none_open(
    family: Family, tokenizer: ModelTokenizer, thinking_format: ThinkingFormat
) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    closed = tokenizer.decode(tokenizer.chat_ids(messages, thinking_format, thinking=False))
    native = tokenizer.decode(tokenizer.prompt_ids(QUESTION, None))
    assert tokenizer.template.has_switch == family.switch
    assert closed.endswith(family.off or family.start + family.before_end + family.close)
    known = family.setting == "auto" and family.format != "s1"
    assert native == closed if known else not native.endswith((family.start, family.close))


def trained(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat, thinking: str, answer: str) -> list[int]:
    prompt = tokenizer.prompt_ids(QUESTION, thinking_format)
    trace = Trace(question_id="q", question=QUESTION, thinking=thinking, answer=answer, teacher="")
    (sample,) = tokenize(
        [trace], tokenizer=tokenizer, prompt_ids=lambda *_: prompt, thinking_format=thinking_format,
        context_tokens=9999, overlong="drop",
    ).samples  # fmt: skip
    return sample.ids[len(prompt) :].tolist()  # type: ignore[no-any-return]


def said(
    tokenizer: ModelTokenizer,
    thinking_format: ThinkingFormat,
    texts: Sequence[Sequence[int]],
    told: list[Told] | None = None,
    **budget: int,
) -> Thought:
    """What comes of a model that says one of these after the prompt."""
    prompt = tokenizer.prompt_ids(QUESTION, thinking_format)
    known = [(*prompt, *text) for text in texts]
    engine = ScriptedEngine(
        by_heart(known, hashed_logits(vocab_size=tokenizer.vocab_size)), vocab_size=tokenizer.vocab_size,
        eos_ids=tokenizer.eos_ids,
    )  # fmt: skip
    limits = Budget(max_answer_tokens=40, **budget)
    ids = forcing_ids(tokenizer, thinking_format, limits)
    tell = None if told is None else told.append
    return asyncio.run(force(engine, prompt, limits, ids, sampling=Sampling(), tell=tell))


THINKING = "We add 9 and 6.\n\nThat is 15."


def test_the_trained_turn_is_recognised(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    turn = trained(tokenizer, thinking_format, THINKING, "15")
    told: list[Told] = []
    thought = said(tokenizer, thinking_format, [turn], told)
    assert (thought.end, thought.answer_finish) == ("natural", "stop")
    assert tokenizer.decode(thought.thinking_ids) == THINKING + thinking_format.before_end
    assert tokenizer.decode(thought.answer_ids) == "Answer: 15"
    assert tuple(i for each in told if each.part == "thinking" for i in each.ids) == thought.thinking_ids


@pytest.mark.parametrize("thinking", ["So 15.", "So 15", "x = (9)", "It's why?\n"])
def test_an_end_is_recognised_however_it_is_cut(
    tokenizer: ModelTokenizer, thinking_format: ThinkingFormat, thinking: str
) -> None:
    """As models that were trained elsewhere write it: in one piece, without a newline before it, with others after."""
    for behind_end in ("\n", "\n\n", " ", "The", ""):
        text = [*tokenizer.encode(thinking + thinking_format.end + behind_end + "Four."), tokenizer.eos_ids[0]]
        close = tokenizer.encode(thinking_format.close)
        kept = literal(tokenizer, thinking)
        texts = [text, [*kept, *close, *tokenizer.encode("4"), tokenizer.eos_ids[0]]]
        told: list[Told] = []
        thought = said(tokenizer, thinking_format, texts, told)
        assert thought.end == "natural"
        assert tokenizer.decode(thought.thinking_ids) == thinking
        as_trained = text[: len(kept) + len(close)] == [*kept, *close]  # the model then goes on where it was
        answer = tokenizer.decode(thought.answer_ids)
        assert answer == "4" if not as_trained else answer.strip().removeprefix("The") == "Four."
        assert "".join(tokenizer.decode(each.ids) for each in told if each.part == "thinking") == thinking


def test_a_forced_close_is_the_trained_close(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    ids = forcing_ids(tokenizer, thinking_format, Budget())
    body = literal(tokenizer, THINKING + thinking_format.before_end)
    turn = trained(tokenizer, thinking_format, THINKING, "15")
    assert turn[: len(body)] == body
    assert tuple(turn[len(body) : len(body) + len(ids.close)]) == ids.close
    cut = literal(tokenizer, "We add 9")
    newline = list(ids.newline) if thinking_format.before_end else []
    closed = [*cut, *newline, *ids.close, *ids.final_answer, *tokenizer.encode(" 4"), tokenizer.eos_ids[0]]
    thought = said(tokenizer, thinking_format, [turn, closed], max_thinking_tokens=len(cut))
    assert (thought.end, tokenizer.decode(thought.answer_ids)) == ("cap", "Final Answer: 4")


def test_a_wait_stands_in_the_place_of_the_end(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    turn = trained(tokenizer, thinking_format, "So 4.", "4")
    body = literal(tokenizer, "So 4." + thinking_format.before_end)
    again = [*body, *tokenizer.encode("Wait"), *tokenizer.encode(", 15."), *turn[len(body) :]]
    thought = said(tokenizer, thinking_format, [turn, again], waits=1)
    assert (thought.end, thought.waits_used) == ("waits_used", 1)
    assert tokenizer.decode(thought.thinking_ids) == f"So 4.{thinking_format.before_end}Wait, 15."
    assert tokenizer.decode(thought.answer_ids) == "Answer: 4"


def test_an_answer_opens_no_second_thinking(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    turn = trained(tokenizer, thinking_format, "So 4.", "4")[:-1]
    opened = [*turn, *tokenizer.encode(thinking_format.start), *tokenizer.encode("once again")]
    thought = said(tokenizer, thinking_format, [opened])
    text = tokenizer.decode(thought.answer_ids)
    assert text.startswith("Answer: 4")
    assert thinking_format.opening not in text
    assert "once again" not in text


def test_text_that_mentions_delimiters_stays_text(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    eos = tokenizer.decode(tokenizer.eos_ids[:1])
    mention = f"How is {thinking_format.opening} closed, by {thinking_format.end} or {eos}"
    ids = tokenizer.prompt_ids(mention, thinking_format)
    plain = tokenizer.prompt_ids("How is", thinking_format)
    special = {i for i in ids if not tokenizer.visible([i])}
    assert special == {i for i in plain if not tokenizer.visible([i])}
    assert tokenizer.decode(ids).count(mention) == 1
    assert sum(not tokenizer.visible([i]) for i in ids) == sum(not tokenizer.visible([i]) for i in plain)
    turn = trained(tokenizer, thinking_format, f"{mention} is asked.", mention)
    bare = trained(tokenizer, thinking_format, "It is asked.", "4")
    assert [i for i in turn if not tokenizer.visible([i])] == [i for i in bare if not tokenizer.visible([i])]
    assert said(tokenizer, thinking_format, [turn]).end == "natural"


def test_a_trace_with_delimiters_is_trained_once(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    once = trained(tokenizer, thinking_format, "We add 9.", "That is 15.")
    whole = f"{thinking_format.start}We add 9.\n{thinking_format.close}That is 15."
    assert trained(tokenizer, thinking_format, whole, "15") == once
    assert trained(tokenizer, thinking_format, "<think>\nWe add 9.\n</think>\n\nThat is 15.", "15") == once
    assert trained(tokenizer, thinking_format, "We add 9.\n</think>\n\nThat is 15.", "15") == once


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir()))
def test_ids_are_those_of_the_file(name: str) -> None:
    tokenizer = ModelTokenizer(FIXTURES / name)
    file = Tokenizer.from_file(str(FIXTURES / name / "tokenizer.json"))
    for text in (PROBE, "<|im_start|>user\nhow<|im_end|>\n", "the first  \n\n one\t"):
        assert tokenizer.encode(text) == file.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_only_control_tokens_are_control_tokens(tokenizer: ModelTokenizer) -> None:
    """Not what a config calls `add_bos_token = true`, though True is a token as others."""
    text = "True or false: <table> <b>9</b> [1] <x> is 15"
    ids = tokenizer.encode(text)
    assert tokenizer.visible(ids) == ids == literal(tokenizer, text)
    assert tokenizer.visible(tokenizer.eos_ids) == []


def test_a_tokenizer_that_loses_text_is_refused_and_named(tmp_path: Path) -> None:
    directory = FAMILIES["qwen3"].write(tmp_path / "broken")
    whole = json.loads((directory / "tokenizer.json").read_text())
    whole["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": ""}
    (directory / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(TokenizerError, match="broken: text does not survive"):
        ModelTokenizer(directory)


def test_the_day_is_fixed_and_in_the_fingerprint(tmp_path: Path) -> None:
    directory = FAMILIES["llama3.1-date"].write(tmp_path)
    text = ModelTokenizer(directory).decode(ModelTokenizer(directory).prompt_ids("how", None))
    assert "Today Date: 01 Jan 202501 Jan 2025" in text
    other = ModelTokenizer(directory, date="2024-07-26")
    assert "26 Jul 2024" in other.decode(other.prompt_ids("how", None))
    assert other.template_hash != ModelTokenizer(directory).template_hash == ModelTokenizer(directory).template_hash


def served(family: Family, tokenizer: ModelTokenizer, engine: Engine, *asked: dict[str, Any]) -> list[Any]:
    """Answers of the HTTP interface to the real client."""
    settings = {"model": {"base": "tiny", "format": family.setting}, "answer_tokens": 16}
    thinking_format = resolve_format(Model.model_validate(settings["model"]), tokenizer)
    api = OpenAiApi(engine, tokenizer, thinking_format, Service.model_validate(settings))

    running = Running(api)
    try:
        client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
        common: dict[str, Any] = {
            "model": "tiny",
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
        }
        return [client.chat.completions.create(**{**common, **each}) for each in asked]
    finally:
        running.stop()


def test_a_random_model_is_served(family: Family, tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=256, initializer_range=0.3, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(family.write(tmp_path))
    engine = TransformersEngine(tmp_path, Serve(dtype="float32", context_tokens=256))
    assert engine.info.token_ids_hash == tokenizer.ids_hash
    thought, capped, off = served(
        family, tokenizer, engine, {"max_tokens": 40},
        {"max_tokens": 30, "extra_body": {"thinking_token_budget": 5}}, {"max_tokens": 30, "reasoning_effort": "none"},
    )  # fmt: skip
    assert 0 < thought.usage.completion_tokens_details.reasoning_tokens < 40
    assert capped.usage.completion_tokens_details.reasoning_tokens <= 5
    assert capped.choices[0].message.content.startswith("Final Answer:")
    assert off.usage.completion_tokens_details.reasoning_tokens == 0
    assert not hasattr(off.choices[0].message, "reasoning")
    for reply in (thought, capped, off):
        content = reply.choices[0].message.content
        assert not [mark for mark in ("<think>", "</think>", family.start.strip()) if mark in content]


def test_a_tuned_model_is_served(family: Family, tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    """One that says the trained turn, and opens thinking again in its answer; without thinking it would open it too."""
    prompt = tokenizer.prompt_ids(QUESTION, thinking_format)
    turn = trained(tokenizer, thinking_format, THINKING, "15")
    known = family.setting != "auto" or family.format != "s1"
    asked = [{"role": "user", "content": QUESTION}]
    off = tokenizer.chat_ids(asked, thinking_format if known else None, thinking=not known)
    opening = tokenizer.encode(thinking_format.start)
    knows = by_heart(
        [(*prompt, *turn[:-1], *opening, *turn), (*off, *opening, *turn)],
        hashed_logits(vocab_size=tokenizer.vocab_size),
    )
    engine = ScriptedEngine(
        knows, vocab_size=tokenizer.vocab_size, eos_ids=tokenizer.eos_ids, context_tokens=len(prompt) + 160
    )
    thought, without = served(
        family, tokenizer, engine, {"max_tokens": 100}, {"max_tokens": 9, "reasoning_effort": "none"}
    )
    message = thought.choices[0].message
    assert message.reasoning == message.reasoning_content == THINKING + thinking_format.before_end
    assert message.content.startswith("Answer: 15")
    body = literal(tokenizer, THINKING + thinking_format.before_end)
    assert thought.usage.completion_tokens_details.reasoning_tokens == len(body)
    for reply in (thought, without):
        assert thinking_format.opening not in reply.choices[0].message.content
        assert "We add" not in reply.choices[0].message.content


def check(directory: Path, *options: str) -> dict[str, object]:
    result = CliRunner().invoke(cli, ["model", "check", str(directory), "--json", *options])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.output))


def test_model_check_says_all_of_it(family: Family, tmp_path: Path) -> None:
    directory = family.write(tmp_path)
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 4096}))
    options = [] if family.setting == "auto" else ["--set", f"model.format={family.setting}"]
    found = check(directory, *options)
    facts = ("ids_match_tokenizer_json", "round_trip", "one_opening", "end_found_after_trained_turn",
             "close_is_trained_close", "trainable")  # fmt: skip
    assert {name: found[name] for name in facts} == dict.fromkeys(facts, True)
    assert (found["format"], found["context_tokens"]) == (family.format, 4096)
    assert ("switch" in str(found["thinking_off"])) == family.switch
    assert found["eos_ids"] == list(ModelTokenizer(directory).eos_ids)


def test_model_check_asks_for_a_format_that_cannot_be_found(tmp_path: Path) -> None:
    directory = FAMILIES["llama3.1"].write(tmp_path)
    result = CliRunner().invoke(cli, ["model", "check", str(directory), "--json"])
    assert result.exit_code != 0
    assert result.exception is not None
    assert headline(result.exception).startswith("neither tokenizer nor chat template tells")  # no kind, no place
    assert "set model.format to" in str(result.exception)


def test_stops_of_text_are_found_over_random_pieces(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> None:
    """Against a search of the text, over ids that a random model draws from pieces of the delimiter."""
    import random

    from thinkscale.forcing.ending import Continuation

    stop = forcing_ids(tokenizer, thinking_format, Budget()).end_text
    if stop is None:
        return
    pieces = [*stop.moves, *tokenizer.encode("So 15.")]
    draw = random.Random(1)
    found = 0
    for _ in range(300):
        request = Request(prompt_ids=(0,), max_tokens=60, stop_text=stop)
        continuation, ids, completion = Continuation(request, ()), [], None
        while completion is None:
            ids.append(draw.choice(pieces))
            completion = continuation.add(ids[-1])
        text = b"".join(map(tokenizer.token_bytes, ids))
        place = text.find(stop.text.encode())
        assert (completion.finish == "stop") == (place >= 0)
        if place >= 0:
            found += 1
            assert b"".join(map(tokenizer.token_bytes, completion.ids)) == text[:place]
    assert found > 5
