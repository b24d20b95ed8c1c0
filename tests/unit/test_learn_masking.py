"""What fine-tuning sees of a trace, against cases made by hand with a tokenizer of one id a character."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from thinkscale.domain.question import Trace
from thinkscale.forcing.formats import S1, ThinkingFormat
from thinkscale.learn.masking import Tokenized, tokenize

EOS = 9


class Characters:
    """One id a character, its code point; `<|im_start|>` is id 1 and the end of text id 9."""

    vocab_size = 0x110000
    eos_ids = (EOS,)

    def encode(self, text: str) -> list[int]:
        pieces = text.split("<|im_start|>")
        ids = [ord(c) for c in pieces[0]]
        for piece in pieces[1:]:
            ids += [1, *(ord(c) for c in piece)]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join({1: "<|im_start|>", EOS: "<end>"}.get(i, chr(i)) for i in ids)

    def special_id(self, text: str) -> int | None:
        return {"<|im_start|>": 1}.get(text)


TOKENIZER = Characters()


def prompt_ids(question: str, thinking_format: ThinkingFormat | None) -> tuple[int, ...]:
    start = thinking_format.start if thinking_format else ""
    return tuple(TOKENIZER.encode(f"U:{question}\nA:{start}"))


def make(*traces: Trace, context_tokens: int = 1000, overlong: str = "cut", eos: tuple[int, ...] = (EOS,)) -> Tokenized:
    tokenizer = Characters()
    tokenizer.eos_ids = eos  # type: ignore[assignment]
    return tokenize(
        traces,
        tokenizer=tokenizer,
        prompt_ids=prompt_ids,
        thinking_format=S1,
        context_tokens=context_tokens,
        overlong=overlong,  # type: ignore[arg-type]
    )


def trace(answer: str = "4", name: str = "q", thinking: str = "two and two") -> Trace:
    return Trace(question_id=name, question="2+2?", thinking=thinking, answer=answer, teacher="t")


def test_the_loss_is_on_the_delimiters_the_thinking_the_answer_and_the_end_token_and_on_nothing_else() -> None:
    (sample,) = make(trace()).samples
    text = TOKENIZER.decode(sample.ids.tolist())
    assert text == "U:2+2?\nA:<|im_start|>think\ntwo and two\n<|im_start|>answer\nAnswer: 4<end>"
    assert TOKENIZER.decode(sample.ids[sample.loss_from :].tolist()) == text.removeprefix("U:2+2?\nA:")
    assert sample.loss_tokens == len(sample.ids) - len("U:2+2?\nA:")


def test_the_prompt_is_exactly_what_evaluation_prompts_with() -> None:
    (sample,) = make(trace()).samples
    prompt = prompt_ids("2+2?", S1)
    assert tuple(sample.ids[: len(prompt)].tolist()) == prompt


def test_an_answer_that_says_answer_gets_no_second_prefix() -> None:
    (sample,) = make(trace("The Answer: 4")).samples
    assert TOKENIZER.decode(sample.ids.tolist()).endswith("answer\nThe Answer: 4<end>")


def test_a_template_that_starts_the_thinking_itself_is_not_given_a_second_start() -> None:
    opened = ThinkingFormat(name="custom", start="<t>\n", end="</t>", end_suffix="\n")

    def prompt(question: str, _: ThinkingFormat | None) -> tuple[int, ...]:
        return tuple(TOKENIZER.encode(f"{question}<t>\n"))

    (sample,) = tokenize(
        [trace()],
        tokenizer=TOKENIZER,
        prompt_ids=prompt,
        thinking_format=opened,
        context_tokens=100,
        overlong="cut",
    ).samples
    text = TOKENIZER.decode(sample.ids.tolist())
    assert text == "2+2?<t>\ntwo and two\n</t>\nAnswer: 4<end>"
    assert TOKENIZER.decode(sample.ids[sample.loss_from :].tolist()).startswith("two and two")


def test_too_long_samples_are_cut_and_counted() -> None:
    tokenized = make(trace(), trace(thinking="x" * 200, name="long"), context_tokens=100)
    assert [len(s.ids) for s in tokenized.samples] == [len(tokenized.samples[0].ids), 100]
    assert (tokenized.cut, tokenized.dropped) == (1, ())


def test_too_long_samples_are_dropped_and_named() -> None:
    tokenized = make(trace(), trace(thinking="x" * 200, name="long"), context_tokens=100, overlong="drop")
    assert [s.question_id for s in tokenized.samples] == ["q"]
    assert (tokenized.cut, tokenized.dropped) == (0, ("long",))


def test_a_question_that_fills_the_context_is_dropped_even_when_others_are_cut() -> None:
    tokenized = make(trace(), context_tokens=5)
    assert (tokenized.samples, tokenized.cut, tokenized.dropped) == ((), 0, ("q",))


def test_a_tokenizer_without_an_end_of_text_is_refused() -> None:
    with pytest.raises(ValueError, match="end-of-text"):
        make(trace(), eos=())
