"""Questions from procedural generators (reasoning-gym), seeded: families whose answers are unique. Owns which families
there are, how each is asked so that the answer is unambiguous, and how it is graded. The n-th question of a family
depends on the seed and the family's parameters alone, not on how many are made or in what pieces."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from typing import Any

from thinkscale.domain.question import AnswerKind, Question, question_id
from thinkscale.store.stage import cut
from thinkscale_demo import worked

Metadata = Mapping[str, Any]


class ProceduralError(ValueError):
    """A family or a parameter is unknown, or the generator is not installed."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one of the generator's families becomes questions."""

    kind: AnswerKind
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Generator parameters that make its answers unambiguous; a campaign's come on top."""
    ask: Callable[[Metadata], str] | None = None  # the question from the metadata; None: the generator's own wording
    answer: Callable[[Metadata], str] | None = None  # the reference answer from the metadata; None: the generator's own


def _as_generated(kind: AnswerKind, *names: str) -> dict[str, Family]:
    """Families that are asked and answered in the generator's own words."""
    return dict.fromkeys(names, Family(kind=kind))


FAMILIES: dict[str, Family] = {
    # arithmetic and algebra
    **_as_generated("math", "gsm_symbolic", "dice"),
    **_as_generated("integer", "simple_equations"),
    **_as_generated("text", "prime_factorization", "bitwise_arithmetic", "advanced_geometry"),
    "chain_sum": Family(kind="integer", ask=lambda m: f"What is {m['expression']}?"),
    "decimal_chain_sum": Family(kind="math", ask=lambda m: f"What is {m['expression']}?"),
    "basic_arithmetic": Family(
        kind="integer",
        parameters={"allow_parentheses": False, "operators": ("+", "-", "*")},
        ask=lambda m: f"Calculate {m['expression']}.",
        # The generator without brackets works from left to right: its reference answers ignore precedence.
        answer=lambda m: str(worked.arithmetic_value(m["expression"])),
    ),
    "products": Family(kind="integer", ask=lambda m: f"What is {m['expression']}?"),
    "gcd": Family(kind="integer", ask=lambda m: f"What is the greatest common divisor of {_and(m['numbers'])}?"),
    "lcm": Family(kind="integer", ask=lambda m: f"What is the least common multiple of {_and(m['numbers'])}?"),
    "fraction_simplification": Family(
        kind="text",
        ask=lambda m: (
            f"Simplify the fraction {m['numerator']}/{m['denominator']} to its lowest terms. "
            "Answer with the simplified fraction, like 2/3."
        ),
        answer=lambda m: f"{m['simplified_numerator']}/{m['simplified_denominator']}",
    ),
    "base_conversion": Family(
        kind="text",
        parameters={"min_value": 1},  # the generator writes zero as an empty string
        ask=lambda m: (
            f"Convert the number {m['source_repr']} from base {m['source_base']} to base {m['target_base']}. "
            "Use lowercase letters for digits above 9."
        ),
    ),
    "count_primes": Family(
        kind="integer",
        parameters={"max_n": 100},
        ask=lambda m: f"How many prime numbers are there from {m['start']} to {m['end']} (both included)?",
    ),
    "count_bits": Family(kind="integer", parameters={"max_n": 1000}),
    "complex_arithmetic": Family(kind="text", parameters={"operations_weights": [0.5, 0.5, 0.0, 0.0]}),
    "coin_flip": Family(kind="math", parameters={"max_trials": 6}),
    "simple_geometry": Family(
        kind="math",
        ask=lambda m: (
            f"A polygon has {m['n_sides']} sides. {m['n_sides'] - 1} of its interior angles are "
            f"{_and([f'{angle:g}°' for angle in m['known_angles']])}. What is the remaining angle in degrees?"
        ),
        answer=lambda m: f"{m['missing_angle_raw']:g}",
    ),
    # counting and lists
    **_as_generated("integer", "letter_counting", "largest_island", "rotten_oranges", "binary_alternation", "maze"),
    **_as_generated("text", "word_sorting", "spiral_matrix", "rotate_matrix", "binary_matrix"),
    "leg_counting": Family(
        kind="integer",
        ask=lambda m: (
            "How many legs are there in total if you have "
            + _and([f"{count} {animal}{'s' if count > 1 else ''}" for animal, count in m["animals"].items()])
            + "?"
        ),
    ),
    "number_sorting": Family(
        kind="text",
        ask=lambda m: (
            f"Sort these numbers in {m['direction']} order: {', '.join(m['original_numbers'])}. "
            "Answer with the numbers separated by commas."
        ),
        answer=lambda m: ", ".join(m["sorted_numbers"]),
    ),
    "number_filtering": Family(
        kind="text",
        ask=lambda m: (
            f"{m['operation'].split('_')[0].capitalize()} all numbers {m['operation'].split('_')[1]} than "
            f"{m['filter_value']} in this list: {', '.join(m['original_numbers'])}. "
            "Answer with the numbers left, separated by commas, or none."
        ),
        answer=lambda m: ", ".join(m["result"]) or "none",
    ),
    # words and ciphers
    **_as_generated(
        "text", "spell_backward", "ransom_note", "isomorphic_strings", "string_insertion", "string_manipulation"
    ),
    "word_sequence_reversal": Family(
        kind="text",
        ask=lambda m: (
            f"Reverse this list of words: {', '.join(m['words'])}. Answer with the words separated by commas."
        ),
    ),
    "caesar_cipher": Family(
        kind="text",
        parameters={"max_words": 4},
        ask=lambda m: (
            f"In this text every letter was moved forward by {m['rotation']} in the alphabet: {m['cipher_text']}. "
            "What was the text?"
        ),
    ),
    # time, logic, relations
    **_as_generated("integer", "aiw", "self_reference", "circuit_logic", "rectangle_count"),
    **_as_generated(
        "text", "calendar_arithmetic", "family_relationships", "syllogism", "knights_knaves", "needle_haystack"
    ),
    **_as_generated("text", "course_schedule", "color_cube_rotation", "zebra_puzzles"),
    "time_intervals": Family(kind="text", parameters={"task_types": ["time"]}),
}
"""The families that can be asked for. Left out: those with several right answers (countdown, n_queens,
sudoku, ...) and those whose right answer is a matter of interpretation (number_sequence, ...)."""


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
    text = family.ask(metadata) if family.ask else str(item["question"]).strip()
    answer = family.answer(metadata) if family.answer else str(item["answer"])
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


def _and(items: Sequence[Any]) -> str:
    names = [str(item) for item in items]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
