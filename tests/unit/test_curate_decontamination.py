from __future__ import annotations

from collections.abc import Iterator

from thinkscale.curate.decontamination import BenchmarkIndex, BenchmarkRow, Leak, Pair, Similarities, find_leaks
from thinkscale.curate.fingerprints import Fingerprints, fingerprint

BOILERPLATE = r"can be written as $\frac{m}{n}$, where $m$ and $n$ are relatively prime positive integers. Find $m+n$."
BENCH = (
    "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop afterwards. When she walks at a "
    "constant speed of s kilometers per hour, the walk takes her 4 hours, including t minutes spent in the coffee "
    "shop. Find t."
)


class AllAlike:
    def pairs(self) -> Iterator[Pair]:
        yield 0, 0

    def of(self, i: int, j: int) -> float:
        return 1.0


def leaks(
    questions: list[str], *bench: str, templated: bool = False, cosines: Similarities | None = None
) -> list[Leak]:
    rows = [BenchmarkRow(benchmark="b", id=str(i), question=q, templated=templated) for i, q in enumerate(bench)]
    index = BenchmarkIndex(rows, 8)
    sharing = [(i, j) for i, question in enumerate(questions) for j in index.sharing_ngrams(question)]
    return find_leaks(questions, Fingerprints.of([fingerprint(q) for q in questions]), index, sharing, cosines)


def test_a_verbatim_item_is_a_leak_with_its_evidence() -> None:
    [leak] = leaks(["What is 2 + 2?", BENCH], "How many primes are below 100?", BENCH)
    assert (leak.row, leak.benchmark, leak.benchmark_id, leak.overlap, leak.same_numbers) == (1, "b", "1", 1.0, True)


def test_near_verbatim_reordered_and_renumbered_items_are_leaks() -> None:
    reordered = (
        "When she walks at a constant speed of s kilometers per hour, the walk takes Aya four hours, including t "
        "minutes spent in the coffee shop. Every morning she goes for a nine-kilometer-long walk and stops at a shop. "
        "Find t."
    )
    other_numbers = BENCH.replace("9-", "12-").replace("4 hours", "5 hours")
    tagged = "Problem 1 (AIME 2024). " + BENCH + " Give an integer from 0 to 999."
    assert [leak.row for leak in leaks([reordered, other_numbers, tagged], BENCH)] == [0, 1, 2]


def test_boilerplate_is_no_leak() -> None:
    bench = "The area of the triangle with sides 13, 14 and 15 inscribed in a circle " + BOILERPLATE
    others = [
        f"The probability that a fair {name} lands on its side in {n} throws {BOILERPLATE}"
        for n, name in enumerate(("coin", "die", "brick", "cup", "ring", "card", "bottle", "pen", "spoon", "plate"), 3)
    ]
    assert leaks(others, bench) == []


def test_a_template_with_other_numbers_is_no_leak_and_with_the_same_is() -> None:
    bench = "How many legs are there in total if you have 3 dogs, 4 ants and 5 birds?"
    other = "How many legs are there in total if you have 6 dogs, 4 ants and 5 birds?"
    assert leaks([other], bench, templated=True) == []
    assert [leak.row for leak in leaks([other, bench.replace("How many", "how  many")], bench, templated=True)] == [1]
    assert leaks(["What is 12 - 7?"], "What is 12 - 8?", templated=True) == []


def test_a_short_question_with_other_numbers_is_a_leak_and_a_common_exercise_is_none() -> None:
    bench = "If $2^8 = 4^x$, what is the value of $x$?"
    words = [
        f"{size} {name}" for size in ("old", "new", "big", "red", "far") for name in ("pen", "cup", "hat", "box", "jar")
    ]
    common = [f"If $3^{i} = 5^x$, what is the value of the {word}?" for i, word in enumerate(words)]
    other = "If $3^{10} = 5^x$, what is the value of $x$?"
    assert [(leak.row, leak.overlap) for leak in leaks([*common, other], bench)] == [(25, 1.0)]
    exercises = [other.replace("10", str(number)) for number in range(10, 40)]
    assert [leak.row for leak in leaks([*exercises, bench], bench)] == [30]


def test_short_questions_leak_only_whole() -> None:
    assert leaks(["What is 3 times 4?"], "What is 3 times 5?") == []
    assert [leak.row for leak in leaks(["What is 3 times 4?"], "what is $3$ times four?")] == [0]


def test_embeddings_bring_candidates_and_evidence_and_decide_nothing() -> None:
    cosines = AllAlike()
    assert leaks(["How many primes are below one hundred?"], BENCH, cosines=cosines) == []
    [leak] = leaks([BENCH], BENCH, cosines=cosines)
    assert leak.similarity == 1.0


def test_many_copies_of_a_leak_are_no_boilerplate() -> None:
    words = ("good", "bad", "hot", "cold", "old", "new", "big", "red", "far", "low")
    copies = [BENCH.replace("coffee", f"{word} coffee") for word in words]
    copies += [f"Exercise: {copy}" for copy in copies] + [f"{copy} Explain." for copy in copies]
    assert len(leaks(copies, BENCH)) == len(copies)
