"""Ready-made column mappings of public question sets, each as its own files have it.
Used by `preset = "gsm8k"` in a pool or benchmark source; what the source states itself goes before it."""

from typing import Any

_BOXED = r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # the first boxed expression, braces two deep

PRESETS: dict[str, dict[str, Any]] = {
    # deepscaler's AIME 1983-2023 and MATH: arrays of {problem, answer, ...}
    "aime": {"kind": "integer", "columns": {"question": "problem", "solution": "solution"}},
    "math": {"kind": "math", "columns": {"question": "problem", "domain": "type"}},
    # hendrycks/MATH as published: the answer stands boxed in the solution
    "hendrycks-math": {
        "kind": "math",
        "columns": {"question": "problem", "answer": "solution", "solution": "solution", "domain": "type"},
        "answer_pattern": _BOXED,
    },
    "gsm8k": {
        "kind": "integer",
        "columns": {"solution": "answer"},
        "answer_pattern": r"####\s*([^\n]+)",
    },
    "theoremqa": {
        "kind": "math",
        "columns": {
            "question": "Question", "answer": "Answer", "kind": "Answer_type", "domain": "subfield", "image": "Picture",
        },
    },
    "omni-math": {
        "kind": "math",
        "columns": {"question": "problem", "solution": "solution", "domain": "domain"},
    },
    "numina-math": {
        "kind": "math",
        "columns": {"question": "problem", "answer": "solution", "solution": "solution", "source": "source"},
        "answer_pattern": _BOXED,
    },
    "olympiad-bench": {
        "kind": "math",
        "columns": {"answer": "final_answer", "solution": "solution", "domain": "subfield", "image": "image_1"},
    },
    # AGIEval: free answers (math), and multiple choice (aqua-rat, sat-math, ...)
    "agieval-math": {"kind": "math", "columns": {"solution": "other.solution", "domain": "other.type"}},
    "agieval-choice": {
        "kind": "choice",
        "columns": {"answer": "label", "options": "options", "solution": "other.solution"},
    },
    "math500": {
        "kind": "math",
        "columns": {
            "question": "problem", "solution": "solution", "domain": "subject", "metadata": {"level": "level"},
        },
    },
    "aime24": {"kind": "integer", "columns": {"question": "problem", "solution": "solution"}},
    "aime25": {"kind": "integer", "columns": {"question": "problem"}},
    # The authors ask that no example is revealed in plain text online.
    "gpqa": {
        "kind": "choice",
        "columns": {
            "question": "Question", "answer": "Correct Answer", "domain": "High-level domain",
            "options": ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
            "metadata": {"difficulty": "Writer's Difficulty Estimate"},
        },
        "shuffle_options": 0,
        "withheld": True,
    },
    # Traces, as their own files have them: learned from with a teacher of source "solutions".
    "s1k": {
        "kind": "math",
        "columns": {
            "answer": "solution", "solution": "thinking_trajectories", "domain": "cot_type", "source": "source_type",
            "metadata": {"trace_answer": "attempt"},
        },
        "traces_by": "gemini-2.0-flash-thinking-exp",
    },
    "s1k-1.1": {
        "kind": "math",
        "columns": {
            "answer": "solution", "solution": "deepseek_thinking_trajectory", "domain": "cot_type",
            "source": "source_type", "metadata": {"trace_answer": "deepseek_attempt"},
        },
        "traces_by": "deepseek-r1",
    },
    "openthoughts": {  # conversations; the reference is what the trace boxed last
        "kind": "math",
        "columns": {
            "question": "conversations.0.value", "answer": "conversations.1.value", "solution": "conversations.1.value",
        },
        "answer_pattern": rf"(?s:.*){_BOXED}",
        "traces_by": "deepseek-r1",
    },
    "openthoughts-metadata": {
        "kind": "math",
        "columns": {
            "question": "problem", "answer": "ground_truth_solution", "solution": "deepseek_reasoning",
            "domain": "domain", "source": "source", "metadata": {"trace_answer": "deepseek_solution"},
        },
        "answer_pattern": rf"(?s:.*){_BOXED}",
        "traces_by": "deepseek-r1",
    },
    "openr1": {
        "kind": "math",
        "columns": {
            "question": "problem", "solution": "generations", "domain": "problem_type", "source": "source",
        },
        "traces_by": "deepseek-r1",
    },
    "marco-o1": {  # no references: the question is the instruction, and what the trace answers is taken for right
        "kind": "text",
        "columns": {"question": "instruction", "answer": "response", "solution": "response"},
        "answer_pattern": r"(?is)<output>(.*?)(?:</output>|$)",
        "traces_by": "marco-o1",
    },
    "r1-sample": {  # rasbt/reasoning-from-scratch
        "kind": "math",
        "columns": {
            "question": "problem", "answer": "gtruth_answer", "solution": "message_thinking",
            "metadata": {"trace_answer": "message_content"},
        },
        "traces_by": "deepseek-r1",
    },
}  # fmt: skip

BENCHMARKS: dict[str, dict[str, Any]] = {
    "aime24": {"preset": "aime24", "paths": ["hf://datasets/HuggingFaceH4/aime_2024"]},
    "aime25": {"preset": "aime25", "paths": ["hf://datasets/math-ai/aime25"]},
    "math500": {"preset": "math500", "paths": ["hf://datasets/HuggingFaceH4/MATH-500"], "licence": "MIT"},
    "gpqa-diamond": {
        "preset": "gpqa", "paths": ["hf://datasets/Idavidrein/gpqa/gpqa_diamond.csv"], "licence": "CC-BY-4.0",
    },
    "gsm8k": {"preset": "gsm8k", "paths": ["hf://datasets/openai/gsm8k/main/test-*"], "licence": "MIT"},
    "olympiad-bench": {
        "preset": "olympiad-bench",
        "paths": ["hf://datasets/Hothan/OlympiadBench/OlympiadBench/OE_TO_maths_en_COMP"],
        "columns": {"image": None},  # the questions without pictures
        "licence": "Apache-2.0",
    },
}  # fmt: skip
"""Benchmarks that `thinkscale benchmark add` knows by name: where Hugging Face has them, and their preset."""
