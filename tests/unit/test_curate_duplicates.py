from __future__ import annotations

from thinkscale.curate.duplicates import exact_key, near_duplicates
from thinkscale.curate.fingerprints import Fingerprints, fingerprint

LONG = (
    "A farmer has a rectangular field with a fence all around it and wants to divide it into two equal parts by "
    "another fence parallel to the shorter side; how long is the whole fence if the field measures 30 by 40 metres?"
)


def found(*questions: str, similarity: float = 0.8, solved: int | None = None) -> dict[int, int]:
    """Dropped place -> kept place."""
    rows = Fingerprints.of([fingerprint(question, "7", solved=i == solved) for i, question in enumerate(questions)])
    return {found.row: found.kept for found in near_duplicates(rows, similarity)}


def test_the_key_of_a_text_ignores_spacing_and_case_and_nothing_else() -> None:
    assert exact_key(r"What is $2\,+\,2$?") == exact_key("what is $2+2$ ?")
    assert exact_key("What is 2+2?") != exact_key("What is 2+3?")


def test_the_key_of_an_answer_stands_beside_the_texts() -> None:
    one, other = exact_key("What is 2+2?", "4"), exact_key("What is 2 + 2?", "5")
    assert one[:8] == other[:8]
    assert one[8:] != other[8:]
    assert exact_key("What is 2+2?", "$4$") == one


def test_a_reworded_copy_is_dropped_for_the_longer_row() -> None:
    assert found(LONG, LONG.replace("wants to divide", "would like to divide")) == {0: 1}


def test_a_row_with_a_solution_is_kept_before_a_longer_one() -> None:
    assert found(LONG, LONG.replace("wants", "would like"), solved=0) == {1: 0}


def test_questions_that_differ_in_numbers_are_different() -> None:
    assert found(LONG, LONG.replace("30 by 40", "30 by 50")) == {}


def test_numbers_in_words_are_the_same_numbers() -> None:
    assert found(LONG, LONG.replace("30 by 40", "thirty by forty")) == {0: 1}


def test_other_questions_stay() -> None:
    assert (
        found(LONG, "How many primes are there below one hundred?", "What is the capital of the largest state?") == {}
    )


def test_questions_of_one_template_are_no_duplicates() -> None:
    template = (
        "Your task is to look at the following sentence very carefully and then to tell how often the given letter "
        "occurs in the word that follows, counting capitals as well and ignoring all punctuation marks: {}"
    )
    words = [
        f"{a}{b}" for a in ("table", "chair", "house", "river", "stone", "cloud") for b in ("man", "top", "way", "let")
    ]
    assert found(*(template.format(word) for word in words), similarity=0.9) == {}


def test_other_reference_answers_keep_both() -> None:
    rows = Fingerprints.of([fingerprint(LONG, "180"), fingerprint(LONG + " ?", "140")])
    assert near_duplicates(rows, 0.9) == []


def test_many_copies_of_one_question_are_no_template() -> None:
    words = [
        f"{size} {state}"
        for size in ("large", "small", "wide", "long", "low")
        for state in ("old", "wet", "dry", "rich", "poor")
    ]
    copies = [f"{LONG.replace('rectangular', word)} Give the answer in steps of 5." for word in words]
    assert len(found(*copies)) == len(copies) - 1


def test_the_same_numbers_in_other_places_are_another_question() -> None:
    assert found("What is 7 + 4 - 2?", "What is 4 + 7 - 2?", similarity=0.9) == {}
