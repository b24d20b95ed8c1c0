"""A question of a pool or a benchmark, and a teacher's reasoning for it. Knows nothing of where they are stored."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal, get_args

AnswerKind = Literal["integer", "math", "choice", "text", "code"]
"""How an answer is compared with the reference: as an integer, as a mathematical expression, as the
letter of an option, or as normalised text. Programs (`code`) are for training: nothing here can grade them."""

WITHHELD = "withheld"  # key of the metadata of questions whose texts no terminal and no report page may show

TRACE_ANSWER, TRACES_BY = "trace_answer", "traces_by"
"""Keys of the metadata of questions with a ready-made trace as solution: the trace's own answer, and who wrote it."""

ANSWER_KINDS: tuple[str, ...] = get_args(AnswerKind)
GRADED_KINDS = tuple(kind for kind in ANSWER_KINDS if kind != "code")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question with its reference answer.
    `id` is a function of the content and the source, so that it is the same in every run."""

    id: str
    question: str  # what the model is asked, options rendered in
    answer: str  # the reference answer; for `choice` the letter of the right option
    kind: AnswerKind
    source: str  # name of the pool source or benchmark it came from
    locator: str = ""  # where in the source it stands: file and line, or family and index
    domain: str | None = None
    solution: str | None = None  # a worked solution without delimiters, where the source carries one
    options: tuple[str, ...] = ()
    licence: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def question_id(source: str, question: str, answer: str) -> str:
    """A stable id: the source's name and 64 bits of SHA-256 over question and reference answer."""
    digest = hashlib.sha256(f"{question}\x1f{answer}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{source}-{digest[:16]}"


Status = Literal[
    "ok", "refusal", "content_filter", "empty_thinking", "cut_thinking", "empty_answer", "cut_answer",
    "malformed_reply", "duplicate_reply", "prompt_too_long", "error", "no_solution",
]  # fmt: skip
"""What became of an attempt. Only `ok` ones are learned from; `error` is one that failed after retries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt of a teacher at a question."""

    status: Status
    words: str = ""  # what was wrong, in the server's words where it said something
    thinking: str = ""
    answer: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0  # what this campaign paid for it
    reply_id: str = ""  # as the server named its reply
    made_of: str = ""  # of a trace that looks back: its kind, and what it began with
    unlearned_characters: int = 0  # of the thinking's beginning: a wrong computation, which is put right behind it


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One reasoning trace. `thinking` and `answer` carry no delimiters."""

    question_id: str
    question: str
    thinking: str
    answer: str
    teacher: str  # `solutions` (the pool's own worked solutions) or the teacher's model name
    domain: str | None = None
    source: str = ""
    thinking_tokens: int = 0
    unlearned_characters: int | None = None  # of the thinking's beginning: read and not learned
