"""Thinking and answer as they stand in what servers reply and in traces made elsewhere.
Owns the places and marks of thinking, and what says that a reply is whole. Knows no request and no network."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from thinkscale.domain.question import Attempt, Status
from thinkscale.forcing.formats import TABLE

Marks = tuple[str, str]

_REPLIES: dict[str, list[Any]] = TABLE["replies"]
MARKS: list[Marks] = [(start, end) for start, end in _REPLIES["marks"]]

_WRAPPED = re.compile(
    r"\s*(?:<output>(.*?)(?:</output>)?|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?"
    r"|<\|start\|>assistant<\|channel\|>final<\|message\|>(.*?)(?:<\|return\|>)?)\s*",
    re.IGNORECASE | re.DOTALL,
)  # an answer that is itself marked


def split_thinking(text: str, marks: Sequence[Marks] = ()) -> tuple[str, str, bool]:
    """Thinking, answer, and whether thinking is opened and not ended. A text without marks is all answer.
    `marks`: a model's own, before the known ones."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter that changes its length: marks then count as they are written
        lowered = text
    for start, end in (*marks, *MARKS):
        opened = lowered.find(start.lower())
        ended = lowered.find(end.lower(), max(opened, 0))
        if ended >= 0:  # templates may open thinking in the prompt: its end alone is enough
            thinking = text[opened + len(start) : ended] if opened >= 0 else text[:ended]
            answer = text[ended + len(end) :]
            wrapped = _WRAPPED.fullmatch(answer)
            answer = next((g for g in wrapped.groups() if g is not None), "") if wrapped else answer
            return thinking.strip(), answer.strip(), False
        if opened >= 0 and not text[:opened].strip():
            return text[opened + len(start) :].strip(), "", True
    return "", text.strip(), False


def read_reply(payload: Mapping[str, Any], marks: Sequence[Marks] = (), **cost: Any) -> Attempt:
    """A reply of /chat/completions as an attempt. `cost`: what else is known of the attempt."""
    try:
        choice = payload["choices"][0]
        message = choice.get("message") or {}
        thinking, answer, is_open = _parts(message, marks)
        finish = str(choice.get("finish_reason") or "").lower()
        refusal = _text(message.get("refusal")) or "".join(
            _text(part.get("refusal")) for part in _list(message.get("content"))
        )
        cost |= {"thinking": thinking, "answer": answer, "reply_id": str(payload.get("id") or "")}
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        return Attempt(status="malformed_reply", words=f"{type(error).__name__}: {str(payload)[:300]}", **cost)
    if finish in _REPLIES["whole"] and not refusal:
        return Attempt(status=complete(thinking, answer, is_open=is_open), **cost)
    if refusal or finish == "refusal":
        return Attempt(status="refusal", words=refusal or answer, **cost)
    status: Status = "malformed_reply"
    if finish in _REPLIES["filtered"]:
        status = "content_filter"
    elif finish in _REPLIES["cut"]:
        status = "cut_thinking" if is_open or not answer else "cut_answer"
    told = f": {choice['error']}" if choice.get("error") else ""
    return Attempt(status=status, words=f"finish_reason {choice.get('finish_reason')!r}{told}"[:500], **cost)


def complete(thinking: str, answer: str, *, is_open: bool = False) -> Any:
    """The status of what ended by itself."""
    if is_open:
        return "cut_thinking"
    return "empty_thinking" if not thinking else "ok" if answer else "empty_answer"


def _parts(message: Mapping[str, Any], marks: Sequence[Marks]) -> tuple[str, str, bool]:
    content = message.get("content")
    parts = _list(content)
    apart = [part for part in parts if part.get("type") in ("thinking", "reasoning") or part.get("thought") is True]
    answer = _text([part for part in parts if part not in apart and "refusal" not in part]) if parts else _text(content)
    places = (message.get("reasoning_content"), message.get("reasoning"), message.get("reasoning_details"), apart)
    thinking = next((text for text in map(_text, places) if text.strip()), "")
    if thinking:
        return thinking.strip(), answer.strip(), False
    return split_thinking(answer, marks)


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def _text(value: Any) -> str:
    """A text that stands within parts of several makes. Raises ValueError where it is no text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, Mapping):
        names = ("text", "thinking", "reasoning", "summary", "content")
        return _text(next((value[name] for name in names if name in value), ""))
    raise ValueError(f"a {type(value).__name__} where a text should be")
