from __future__ import annotations

from typing import Any

import pytest
from test_distillation import campaign

from thinkscale.domain.terms import TermsError, known_terms, teachers_terms, terms_line

MIT = {"licence": "MIT", "may_train": True}


@pytest.mark.parametrize(
    ("name", "may_train"),
    [
        ("gemini-2.0-flash-thinking-exp", False),
        ("google/gemini-2.5-pro", False),
        ("anything at https://generativelanguage.googleapis.com/v1beta/openai", False),
        ("gpt-5", False),
        ("openai/o3-mini", False),
        ("claude-opus-4", False),
        ("deepseek-ai/DeepSeek-R1", True),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", True),
        ("meta-llama/Llama-3.3-70B-Instruct", True),
        ("openai/gpt-oss-120b", None),
        ("chatgpt-4o-latest", False),
        ("EleutherAI/gpt-neox-20b", None),
        ("gpt-j-6b", None),
        ("x-ai/grok-4", False),
        ("https://api.x.ai/v1", False),
        ("xai-org/grok-1", None),
        ("Qwen/Qwen3-32B", None),
        ("solo3", None),
    ],
)
def test_what_is_known(name: str, may_train: bool | None) -> None:
    known = known_terms(name)
    assert (None if known is None else known.may_train) is may_train


def refused(match: str, **teacher: Any) -> None:
    with pytest.raises(TermsError, match=match):
        teachers_terms(campaign("m", **teacher))


def test_unknown_unconfirmed_and_forbidden_teachers_are_refused() -> None:
    refused(
        "'unheard-of' has no terms in the campaign; its terms are unknown here: read", model="unheard-of", terms=None
    )
    refused(r"'deepseek-r1' has no terms in the campaign; confirm its terms \(MIT, read on .* at https://github.com/deep",
            model="deepseek-r1", terms=None)  # fmt: skip
    refused("'gemini-2.5-pro'.*develop models that compete.*do not allow training", model="gemini-2.5-pro", terms=MIT)
    refused("do not allow", model="mine", endpoint="https://generativelanguage.googleapis.com/v1beta/openai", terms=MIT)
    refused(r"'mine' \(mine\) do not allow", model="mine", terms={"licence": "mine", "may_train": False})


def test_confirmed_terms_say_where_they_were_read() -> None:
    (found,) = teachers_terms(campaign("m", model="deepseek-ai/DeepSeek-R1", terms=MIT))
    assert found["may_train"]
    assert found["read_on"]
    assert "MIT (read on" in terms_line(found)


def test_ready_made_traces_have_their_teachers_terms() -> None:
    made = campaign("m", source="solutions", terms=None)
    assert teachers_terms(made) == []
    pool = [{"type": "files", "name": "t", "paths": ["t.jsonl"], "preset": "s1k"}]
    raw = {**made.model_dump(), "pool": pool}
    with pytest.raises(TermsError, match="gemini"):
        teachers_terms(type(made).model_validate(raw))
    pool[0]["preset"] = "s1k-1.1"
    with pytest.raises(TermsError, match="confirm its terms"):
        teachers_terms(type(made).model_validate(raw))
