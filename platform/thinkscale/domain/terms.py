"""What the terms of known teachers said about training other models on their output, when and where that was read.
It is a memory aid, no legal advice: terms change, and the user confirms them in the campaign."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.models import Terms
from thinkscale.domain.source import FilesSource


class TermsError(ValueError):
    """A teacher's terms are not stated, or do not allow training other models on its output."""


@dataclass(frozen=True, kw_only=True)
class KnownTerms:
    teachers: str  # a regular expression that is found in a model's name or an endpoint's URL
    licence: str
    may_train: bool
    said: str
    read_at: str
    read_on: str


_TEXT = (resources.files("thinkscale") / "teachers.toml").read_text("utf-8")
KNOWN = tuple(KnownTerms(**each) for each in tomllib.loads(_TEXT)["known"])


def known_terms(*names: str | None) -> KnownTerms | None:
    """What is known of a model by its name, or of an endpoint by its URL; what forbids goes before what allows."""
    found = [known for known in KNOWN if any(re.search(known.teachers, n, re.IGNORECASE) for n in names if n)]
    return min(found, key=lambda known: known.may_train, default=None)


def check_terms(campaign: Campaign) -> None:
    """Raises TermsError where one of the campaign's teachers may not be used."""
    teachers_terms(campaign)


def teachers_terms(campaign: Campaign) -> list[dict[str, Any]]:
    """The terms under which each teacher's output is learned from, those of ready-made traces among them.
    Raises TermsError: as `check_terms`."""
    found = []
    for teacher in campaign.teacher:
        if teacher.source == "engine":
            found.append(_checked(str(teacher.model), (teacher.endpoint,), teacher.terms))
            continue
        sources = [source for source in campaign.pool if isinstance(source, FilesSource)]
        wrote = {source.traces_by for source in sources if source.traces_by}
        if teacher.source == "self_check":  # attempts stand in traces that look back
            wrote |= {*campaign.difficulty.models[-1:]} - {"base", campaign.model.base}
        found += [_checked(name, (), teacher.terms) for name in sorted(wrote)]
        if teacher.terms is not None and not teacher.terms.may_train:
            _checked("solutions", (), teacher.terms)
    return found


def terms_line(terms: Mapping[str, Any]) -> str:
    """A teacher's terms, in two lines of a card."""
    read = f" (read on {terms['read_on']} at {terms['read_at']}: {terms['said']})" if "said" in terms else ""
    return (
        f"- Terms of the output of {terms['teacher']}: {terms['licence']}{read}\n"
        f"- They allow training other models: {'yes' if terms['may_train'] else 'no'}"
    )


def _checked(name: str, places: Sequence[str | None], stated: Terms | None) -> dict[str, Any]:
    known = known_terms(name, *places)
    told = "" if known is None else f" ({known.licence}, read on {known.read_on} at {known.read_at}: {known.said})"
    if (known is not None and not known.may_train) or (stated is not None and not stated.may_train):
        licence = told or f" ({stated.licence})" if stated is not None else told
        raise TermsError(
            f"the terms of teacher {name!r}{licence} do not allow training other models on its output: choose another "
            "teacher"
        )
    if stated is None:
        what = f"confirm its terms{told}" if known is not None else "its terms are unknown here: read and state them"
        licence = known.licence if known is not None else "..."
        raise TermsError(
            f"teacher {name!r} has no terms in the campaign; {what}, by terms = {{ licence = {licence!r}, may_train = "
            "true } in its [[teacher]]"
        )
    facts = {} if known is None else {k: v for k, v in asdict(known).items() if k in ("said", "read_at", "read_on")}
    return {"teacher": name, **stated.model_dump(), **facts}
