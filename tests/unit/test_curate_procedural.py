from __future__ import annotations

import pytest

from thinkscale_demo import worked
from thinkscale_demo.procedural import FAMILIES, ProceduralError, Share, generate, last_number, shares

WORKED = {family for family in FAMILIES if hasattr(worked, family)}


def questions(family: str, count: int, *, seed: int = 0, start: int = 0, **parameters: object) -> list:
    share = Share(family=family, start=start, stop=start + count)
    return generate(share, source="pool", seed=seed, parameters=parameters, licence="Apache-2.0")


def test_there_are_enough_families_and_worked_solutions() -> None:
    assert len(FAMILIES) >= 30
    assert len(WORKED) >= 20


@pytest.mark.parametrize("family", sorted(WORKED - {"gsm_symbolic"}))
def test_a_worked_solution_comes_to_the_reference_answer_by_itself(family: str) -> None:
    for seed in range(5):
        for question in questions(family, 60, seed=seed):
            if question.solution is None:
                assert family in ("simple_equations", "time_intervals")
                continue
            assert "The answer is" not in question.solution, question
            if question.kind == "text":
                assert question.solution.removesuffix(".").endswith(question.answer)
            else:
                assert last_number(question.solution) == question.answer


def test_the_generators_own_solutions_end_in_the_reference_answer() -> None:
    for question in questions("gsm_symbolic", 300):
        assert question.solution
        assert "####" not in question.solution
        assert float(last_number(question.solution) or "nan") == float(question.answer)


def test_basic_arithmetic_is_corrected_for_precedence() -> None:
    for question in questions("basic_arithmetic", 200):
        assert question.answer == str(eval(question.question.removeprefix("Calculate ").rstrip(".")))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_gives_the_same_questions_in_any_pieces(family: str) -> None:
    whole = questions(family, 6, seed=3)
    assert whole == questions(family, 4, seed=3) + questions(family, 2, seed=3, start=4)
    assert all(q.question and q.answer and q.domain == family and q.licence == "Apache-2.0" for q in whole)


def test_near_seeds_share_no_questions() -> None:
    texts = [{q.question for q in questions("chain_sum", 200, seed=seed, min_digits=3)} for seed in (0, 1)]
    assert not texts[0] & texts[1]


def test_shares_are_even_and_cut_into_segments() -> None:
    segments = shares(["gcd", "lcm", "products"], 100, 40)
    assert [sum(s.stop - s.start for s in segment) for segment in segments] == [40, 40, 20]
    totals = {
        f: sum(s.stop - s.start for seg in segments for s in seg if s.family == f) for f in ("gcd", "lcm", "products")
    }
    assert totals == {"gcd": 34, "lcm": 33, "products": 33}


def test_an_unknown_family_and_an_unknown_parameter_are_refused_by_name() -> None:
    with pytest.raises(ProceduralError, match="'countdown' is unknown or has no unique answers; there are: advanced"):
        shares(["countdown"], 10, 10)
    with pytest.raises(ProceduralError, match=r"pool family gcd: .*max_terms"):
        questions("gcd", 1, max_terms=3)
    with pytest.raises(ProceduralError, match="no question comes of parameters"):
        questions("spell_backward", 1, max_word_len=2)
    with pytest.raises(ProceduralError, match="named twice"):
        shares(["gcd", "gcd"], 10, 10)


def test_an_upper_bound_below_the_default_lower_bound_takes_it_along() -> None:
    assert all(len(q.answer) == 3 for q in questions("spell_backward", 20, min_word_len=3, max_word_len=3))
    assert all(int(q.answer) < 10 for q in questions("chain_sum", 20, max_terms=1, max_digits=1))
