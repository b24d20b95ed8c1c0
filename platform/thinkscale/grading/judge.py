"""What an LLM judge is asked about a response, and how its reply is read.
The rule graders of `grading.verdict` come first; a judge is for answers that rules cannot compare."""

import re
from importlib import resources

from thinkscale.domain.question import Question
from thinkscale.domain.sample import VerdictName
from thinkscale.grading.extraction import answer_part

PROMPT_VERSION = 2  # changes with the prompt or the reading of the reply; it is part of the grader's name

PROMPT = resources.files(__package__).joinpath("judge.txt").read_text("utf-8").rstrip("\n")
RESPONSE_CHARACTERS = 6_000  # so much of the end of a response is shown

_TAG = re.compile(r"</?\s*(?:response|reference|question)\s*>", re.IGNORECASE)
_VERDICT = re.compile(r"[\s*_`#>-]*VERDICT[\s*]*:[\s*]*(correct|wrong|unanswered)[\s*_`.]*", re.IGNORECASE)


def judge_prompt(question: Question, response: str) -> str:
    """The prompt about one response, whose own tags cannot end the place where it stands."""
    shown = _TAG.sub("[tag]", answer_part(response)[-RESPONSE_CHARACTERS:])
    return PROMPT.format(question=question.question, reference=question.answer, response=shown)


def read_reply(reply: str) -> VerdictName:
    """The verdict that is a reply's last line; ungradable where that is none, or another line says otherwise."""
    names: dict[str, VerdictName] = {"correct": "correct", "wrong": "wrong", "unanswered": "unanswered"}
    lines = [_VERDICT.fullmatch(line) for line in reply.splitlines() if line.strip()]
    found = {line[1].lower() for line in lines if line is not None}
    return names[found.pop()] if lines and lines[-1] is not None and len(found) == 1 else "ungradable"
