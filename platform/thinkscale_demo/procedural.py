"""Questions from procedural generators (reasoning-gym), seeded: families whose answers are unique. Owns which families
there are, how each is asked so that the answer is unambiguous, and how it is graded. The n-th question of a family
depends on the seed and the family's parameters alone, not on how many are made or in what pieces."""

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources, util
from typing import Any

from thinkscale.domain.question import AnswerKind, Question, question_id
from thinkscale.store.stage import cut
from thinkscale_demo import worked

Metadata = Mapping[str, Any]


class ProceduralError(ValueError):
    """A family or a parameter is unknown, or the generator is not installed."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one of the generator's families becomes questions: what `families.toml` says of it."""

    kind: AnswerKind
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ask: str | None = None
    answer: str | None = None


_TABLE: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath("families.toml").read_text("utf-8"))
_AS_GENERATED: dict[AnswerKind, str] = _TABLE.pop("as_generated")
FAMILIES: dict[str, Family] = {
    **{name: Family(kind=kind) for kind, names in _AS_GENERATED.items() for name in names.split()},
    **{name: Family(**facts) for name, facts in _TABLE.items()},
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """A run of one family's questions."""

    family: str
    start: int
    stop: int


def shares(families: Sequence[str], rows: int, segment_rows: int) -> list[list[Share]]:
    """`rows` questions spread evenly over the families (the first ones get the rest), in segments.
    Raises ProceduralError where a family is unknown or named twice."""
    for family in families:
        if family not in FAMILIES:
            raise ProceduralError(
                f"pool family {family!r} is unknown or has no unique answers; there are: {', '.join(sorted(FAMILIES))}"
            )
        if families.count(family) > 1:
            raise ProceduralError(f"pool family {family!r} is named twice")
    lengths = [rows // len(families) + (i < rows % len(families)) for i in range(len(families))]
    return [
        [Share(family=families[number], start=start, stop=stop) for number, start, stop in segment]
        for segment in cut(lengths, segment_rows)
    ]


def generate(
    share: Share, *, source: str, seed: int, parameters: Mapping[str, Any], licence: str | None
) -> list[Question]:
    """The questions of a share. Raises ProceduralError where reasoning-gym is missing or refuses the parameters."""
    family = FAMILIES[share.family]
    chosen = {**family.parameters, **parameters}
    dataset = _dataset(share.family, seed, chosen, size=share.stop)
    try:
        items = [dataset[i] for i in range(share.start, share.stop)]
    except (IndexError, ValueError, ArithmeticError) as error:
        raise _refused(share.family, chosen, error) from error
    return [_question(share.family, family, item, share.start + i, source, licence) for i, item in enumerate(items)]


def _dataset(name: str, seed: int, parameters: Mapping[str, Any], size: int) -> Any:
    if util.find_spec("reasoning_gym") is None:
        raise ProceduralError("procedural questions need reasoning-gym: pip install 'thinkscale[demo]'")
    import reasoning_gym

    # The generator seeds item i with seed + i: near seeds would share items, so the family's is a hash.
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    try:
        own = int.from_bytes(digest[:6], "big")
        return reasoning_gym.create_dataset(name, size=size, seed=own, **_fitting(name, parameters))
    except (TypeError, AssertionError) as error:
        raise _refused(name, parameters, error) from error


def _refused(name: str, parameters: Mapping[str, Any], error: Exception) -> ProceduralError:
    return ProceduralError(f"pool family {name}: no question comes of parameters {dict(parameters)}: {error}")


def _fitting(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, with a lower bound that a campaign left alone brought down below its upper bound."""
    from reasoning_gym.factory import DATASETS

    defaults = DATASETS[name][1]()
    fitted = dict(parameters)
    for key, value in parameters.items():
        low = key.replace("max_", "min_", 1)
        if key.startswith("max_") and low not in parameters and hasattr(defaults, low):
            fitted[low] = min(getattr(defaults, low), value)
    return fitted


def _question(
    name: str, family: Family, item: Mapping[str, Any], index: int, source: str, licence: str | None
) -> Question:
    metadata = item["metadata"]
    text = _template(family.ask).render(metadata) if family.ask else str(item["question"]).strip()
    answer = _template(family.answer).render(metadata) if family.answer else str(item["answer"])
    return Question(
        id=question_id(source, text, answer),
        question=text,
        answer=answer,
        kind=family.kind,
        source=source,
        locator=f"{name}/{index}",
        domain=name,
        solution=_solution(name, family.kind, metadata, answer),
        licence=licence,
    )


def _solution(name: str, kind: AnswerKind, metadata: Metadata, answer: str) -> str | None:
    """The worked solution. It ends in the reference answer, or its last number is the reference answer."""
    solve = getattr(worked, name, None)
    text = solve(metadata) if solve else None
    if text is None:
        return None
    text = text.rstrip(". ")
    if not text.endswith(answer) and (kind == "text" or last_number(text) != answer):
        text = f"{text}. The answer is {answer}"
    return text + "."


def last_number(text: str) -> str | None:
    """The last number in a text, thousands' commas removed."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return numbers[-1].replace(",", "") if numbers else None


@lru_cache(maxsize=128)
def _template(text: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined)
    environment.filters |= {"listed": _listed, "arithmetic_value": worked.arithmetic_value}
    return environment.from_string(text)


def _listed(items: Sequence[Any]) -> str:
    names = [str(item) for item in items]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
