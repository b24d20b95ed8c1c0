"""Traces as token ids with a loss mask. Owns what fine-tuning sees of a trace: the chat template with the question, the
assistant's turn, the end of the turn, and where the loss begins. Knows no model and no batch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from thinkscale.domain.generation import TokenIds
from thinkscale.domain.question import Trace
from thinkscale.forcing.formats import ThinkingFormat, Tokenizer, behind, literal, split_thinking

ANSWER_PREFIX = "Answer: "

PromptIds = Callable[[str, ThinkingFormat | None], TokenIds]
"""The ids that evaluation prompts with: of a question before its start of thinking, or with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One trace in token ids. The loss is on every id from `loss_from` on."""

    question_id: str
    ids: npt.NDArray[np.int32]
    loss_from: int

    @property
    def input_tokens(self) -> int:
        """What the model reads: all but the last id, which is only ever a target."""
        return len(self.ids) - 1

    @property
    def loss_tokens(self) -> int:
        return len(self.ids) - self.loss_from


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenized:
    """The samples of a set of traces, and what the context's limit did to them."""

    samples: tuple[Sample, ...]
    cut: int  # samples that lost their tail
    dropped: tuple[str, ...]
    """Question ids of samples that did not fit: all too long under `drop`; under `cut`, those whose
    question alone fills the context."""


def tokenize(
    traces: Iterable[Trace],
    *,
    tokenizer: Tokenizer,
    prompt_ids: PromptIds,
    thinking_format: ThinkingFormat,
    context_tokens: int,
    overlong: Literal["cut", "drop"],
) -> Tokenized:
    """Every trace as a sample of at most `context_tokens` ids.
    Raises ValueError where the tokenizer has no end-of-text token."""
    if not tokenizer.eos_ids:
        raise ValueError("the tokenizer has no end-of-text token: a fine-tuned model would never stop")
    samples: list[Sample] = []
    dropped: list[str] = []
    cut = 0
    for trace in traces:
        sample = _sample(trace, tokenizer, prompt_ids, thinking_format)
        if len(sample.ids) > context_tokens:
            if overlong == "drop" or sample.loss_from >= context_tokens:
                dropped.append(trace.question_id)
                continue
            cut += 1
            sample = Sample(question_id=sample.question_id, ids=sample.ids[:context_tokens], loss_from=sample.loss_from)
        samples.append(sample)
    return Tokenized(samples=tuple(samples), cut=cut, dropped=tuple(dropped))


def _sample(trace: Trace, tokenizer: Tokenizer, prompt_ids: PromptIds, thinking_format: ThinkingFormat) -> Sample:
    """The prompt's ids exactly as evaluation gives them, then the rest of the turn.
    Thinking, delimiter and answer are encoded apart, so that the delimiter is the one that budget forcing appends. A
    trace that holds its delimiters is split at them; one that mentions a delimiter keeps it as text."""
    question = prompt_ids(trace.question, None)
    prompt = prompt_ids(trace.question, thinking_format)
    thinking, answer = split_trace(trace, thinking_format)
    text, unlearned = thinking + thinking_format.before_end, trace.unlearned_characters or 0
    first = literal(tokenizer, text[:unlearned])  # as the model's own, encoded apart
    body = [*first, *literal(tokenizer, text[unlearned:])]
    close = behind(tokenizer, thinking_format.close)
    rest = [*body, *close, *literal(tokenizer, answer_text(answer)), tokenizer.eos_ids[0]]
    ids = np.array([*prompt, *rest], dtype=np.int32)
    if first:
        return Sample(question_id=trace.question_id, ids=ids, loss_from=len(prompt) + len(first))
    # The start of thinking begins at the question's end, unless the two merged into one token there.
    begins = next((at for at, (a, b) in enumerate(zip(question, prompt, strict=False)) if a != b), len(question))
    return Sample(question_id=trace.question_id, ids=ids, loss_from=min(begins, len(prompt)))


def split_trace(trace: Trace, thinking_format: ThinkingFormat) -> tuple[str, str]:
    """Thinking and answer without delimiters; an answer that stands in the thinking counts where it is the trace's."""
    thinking, answer = trace.thinking, trace.answer
    if (parts := split_thinking(thinking, thinking_format)) is not None:
        thinking, said = parts
        answer = said if answer in said else answer
    if (parts := split_thinking(answer, thinking_format)) is not None:
        thinking, answer = thinking or parts[0], parts[1]
    return thinking.strip(), answer


def answer_text(answer: str) -> str:
    """The answer as fine-tuning sees it: with `Answer: ` before it where it lacks that string."""
    return answer if ANSWER_PREFIX.strip() in answer else ANSWER_PREFIX + answer
