"""Worked solutions and a model's own attempts as traces that look back.
Owns which attempts are right, wrong or of no use here. What a trace says is `curate.self_check`'s."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from thinkscale.curate.self_check import self_check
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import derived_seed
from thinkscale.domain.models import Teacher
from thinkscale.domain.question import TRACES_BY, Attempt
from thinkscale.domain.sample import Verdict
from thinkscale.forcing import formats
from thinkscale.forcing.reading import split_thinking
from thinkscale.grading.verdict import Graded
from thinkscale.runtime.engines import tokenizer_of

Found = tuple[Mapping[str, Any], Attempt, bool]
"""A selected question, its ready-made attempt, and whether that is a whole trace with an answer of its own."""


class LooksBack:
    """Makes traces that look back of worked solutions; whole traces of others stay as they are. Picklable."""

    def __init__(self, campaign: Campaign, teacher: Teacher) -> None:
        self._base, self._seed, self._teacher = campaign.model.base, campaign.seed, teacher
        self._format = formats.resolve_format(campaign.model, tokenizer_of(self._base))
        self.wait = self._format.before_end + campaign.evaluate.budgets.wait_text
        """What budget forcing puts behind a thinking that ends, with the white space before it."""

    def __call__(self, found: Sequence[Found], grade_all: Callable[[Iterable[Graded]], list[Verdict]]) -> list[Found]:
        asked = [
            (at, n, text) for at, (row, *_) in enumerate(found) for n, text in enumerate(row["attempt_answers"] or ())
        ]
        judged: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)
        for (at, number, text), verdict in zip(
            asked, grade_all(graded_row(found[at][0], text) for at, _, text in asked), strict=True
        ):
            if plain := self._plain(text):
                judged[at, verdict.verdict].append((number, plain))
        return [
            (row, attempt, own)
            if own or TRACES_BY in json.loads(row["metadata"] or "{}")
            else (row, self._looking_back(row, attempt, judged[at, "wrong"], judged[at, "correct"]), False)
            for at, (row, attempt, own) in enumerate(found)
        ]

    def _plain(self, attempt: str) -> str:
        """What an attempt says, without delimiters; nothing where they cannot be taken off."""
        thinking, answer, is_open = split_thinking(attempt)
        text = (thinking or answer).strip()
        return "" if is_open or formats.split_thinking(text, self._format) is not None else text

    def _looking_back(
        self, row: Mapping[str, Any], attempt: Attempt, wrong: list[tuple[int, str]], right: list[tuple[int, str]]
    ) -> Attempt:
        alone = "solution"
        if attempt.status == "no_solution" and right:  # the model found one itself
            (number, text), *right = right
            attempt, alone = Attempt(status="ok", thinking=text, answer=row["answer"]), f"attempt {number}"
        if attempt.status != "ok":
            return attempt
        encode = tokenizer_of(self._base).encode
        room = self._teacher.max_thinking_tokens - len(encode(attempt.thinking))
        made = self_check(
            attempt.thinking.strip(),
            row["answer"],
            wrong=[each for each in wrong if len(encode(each[1])) <= room],
            right=[each for each in right if len(encode(each[1])) <= room],
            wait=self.wait,
            shares=(self._teacher.check_share, self._teacher.confirmation_share),
            seed=derived_seed(self._seed, row["id"], "self_check"),
        )
        return replace(attempt, **{**asdict(made), "made_of": made.made_of.replace("solution", alone)})


def graded_row(row: Mapping[str, Any], text: str) -> Graded:
    """What the rule graders see of an answer to the question of a row."""
    return Graded(kind=row["kind"], reference=row["answer"], options=tuple(row["options"] or ()), response=text)
