"""A reasoning trace for each selected question, from the pool's worked solutions or from a teacher.

Owns the teacher's terms: no trace is made where they do not allow training on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from thinkscale.cluster.dropping import dropped_row, licences
from thinkscale.cluster.segments import Result, run_segments, slices
from thinkscale.domain.campaign import Campaign
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.models import local_model
from thinkscale.store.schemas import DROPPED, TRACES, table


class TermsError(ValueError):
    """A teacher's terms are not stated, or do not allow training other models on its output."""


def check_terms(campaign: Campaign) -> None:
    """Raises TermsError where the campaign's teacher may not be used."""
    teacher = campaign.teacher
    if teacher.source == "solutions":
        return
    if teacher.terms is None:
        raise TermsError(
            f"teacher {teacher.model!r} has no terms: state its licence and whether its output may train other models "
            '([teacher.terms] licence = "...", may_train = true)'
        )
    if not teacher.terms.may_train:
        raise TermsError(
            f"the terms of teacher {teacher.model!r} ({teacher.terms.licence}) do not allow training other models on "
            "its output: choose another teacher"
        )


def distill(campaign: Campaign, store: Store) -> Manifest:
    """`traces`: thinking and answer for each selected question.

    Raises:
        TermsError: as `check_terms`.
    """
    check_terms(campaign)
    source = Artifact(store, f"{campaign.name}/selected")
    output = Artifact(store, f"{campaign.name}/traces")
    done = output.begin(
        {"teacher": campaign.teacher.model_dump(), "base": campaign.model.base, "seed": campaign.seed},
        {"selected": source.require().fingerprint},
    )
    if (manifest := output.manifest()) is not None:
        return manifest
    segments = slices(source, campaign.difficulty.segment_rows)
    if campaign.teacher.source == "engine":
        raise NotImplementedError
    run_segments("distill", output, segments, done, transform=FromSolutions(campaign.model.base))
    return output.commit(TRACES, extra=_terms(campaign, source), expected_segments={s.key for s in segments})


class FromSolutions:
    """Worked solutions as traces."""

    def __init__(self, base: str) -> None:
        self._base = base

    def __call__(self, rows: pa.Table) -> Result:
        tokenizer = _tokenizer(self._base)
        kept, dropped = [], []
        for row in rows.to_pylist():
            if not row["solution"]:
                dropped.append(dropped_row("distill", row["id"], "no_solution", {}, row))
                continue
            kept.append(
                {
                    "question_id": row["id"],
                    "question": row["question"],
                    "thinking": row["solution"],
                    "answer": row["answer"],
                    "teacher": "solutions",
                    "domain": row["domain"],
                    "source": row["source"],
                    "thinking_tokens": len(tokenizer.encode(row["solution"])),
                    "correct": True,
                }
            )
        return Result(kept=table(kept, TRACES), dropped=table(dropped, DROPPED))


@lru_cache(maxsize=1)
def _tokenizer(reference: str) -> ModelTokenizer:
    return ModelTokenizer(local_model(reference))


def _terms(campaign: Campaign, source: Artifact) -> Mapping[str, Any]:
    """What the traces may be used for: the teacher's terms, and the licences of the questions."""
    teacher = campaign.teacher
    return {
        "teacher": teacher.model or "solutions",
        "terms": None if teacher.terms is None else teacher.terms.model_dump(),
        **licences(source.read(["source", "licence"]).to_pylist()),
    }
