"""What the terms of known teachers said about training other models on their output, when and where that was read.
It is a memory aid, no legal advice: terms change, and the user confirms them in the campaign."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
    read_on: str = "2026-11-26"


KNOWN = (
    KnownTerms(
        teachers=r"gemini|generativelanguage\.googleapis|aiplatform\.googleapis",
        licence="Gemini API Additional Terms of Service (2025-05-20)",
        may_train=False,
        said="the services may not be used to develop models that compete with them",
        read_at="https://ai.google.dev/gemini-api/terms",
    ),
    KnownTerms(
        teachers=r"(^|/)(chat)?gpt-(?!oss)|(^|/)o[134](-|$)|api\.openai\.com|openai\.azure\.com",
        licence="OpenAI business terms",
        may_train=False,
        said="output may not be used to develop models that compete with OpenAI's products",
        read_at="https://openai.com/policies/business-terms, as quoted at "
        "https://ospo.co/blog/be-careful-with-openais-terms-of-use/",
    ),
    KnownTerms(
        teachers=r"claude|api\.anthropic\.com",
        licence="Anthropic commercial terms (2025-06-17)",
        may_train=False,
        said="the services may not be used to train competing models",
        read_at="https://www.anthropic.com/legal/commercial-terms, as described at "
        "https://conductatlas.com/platform/anthropic/anthropic-commercial-terms/",
    ),
    KnownTerms(
        teachers=r"deepseek-r1(?!-distill-llama)|(^|/)deepseek-reasoner$",
        licence="MIT",
        may_train=True,
        said="derivative works are allowed, distillation for training other models among them",
        read_at="https://github.com/deepseek-ai/DeepSeek-R1#7-license",
    ),
    KnownTerms(
        teachers=r"llama-?3\.[1-3]|deepseek-r1-distill-llama",
        licence="Llama 3.1 Community License",
        may_train=True,
        said="a model trained on its output that is distributed must begin its name with Llama",
        read_at="https://huggingface.co/meta-llama/Llama-3.1-405B/discussions/10",
    ),
)  # fmt: skip


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
        found += [_checked(name, (), teacher.terms) for name in _traces_by(campaign)]
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


def _traces_by(campaign: Campaign) -> Sequence[str]:
    sources = [source for source in campaign.pool if isinstance(source, FilesSource)]
    return sorted({source.traces_by for source in sources if source.traces_by})


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
