"""A made-up samples table with known accuracies, for tests and measurements of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from thinkscale.store.schemas import QUESTIONS, SAMPLES, table

CELLS = [(32, 0), (64, 0), (128, 0), (256, 0), (256, 1), (256, 2)]


def made_samples(
    *,
    models: dict[str, float],
    questions: int = 40,
    samples: int = 1,
    seed: int = 0,
    benchmark: str = "sums",
    thinking: str = "First I add the tens, then the ones. ",
    failures: int = 0,
) -> pa.Table:
    """Samples of models whose accuracy grows with the budget.

    Args:
        models: Accuracy at the largest budget, by model.
        failures: So many questions fail for every model.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for model, best in models.items():
        for index in range(questions):
            ease = rng.random()
            for sample in range(samples):
                luck = rng.random() * 0.5 + ease * 0.5
                for cap, waits in CELLS:
                    key = {
                        "sample_id": f"q{index}/{sample}/{cap}/{waits}",
                        "question_id": f"{benchmark}-q{index}",
                        "model": model,
                        "benchmark": benchmark,
                        "sample": sample,
                        "max_thinking_tokens": cap,
                        "num_waits": waits,
                    }
                    if index < failures:
                        rows.append({**key, "status": "failed", "error": "the engine ran out of memory"})
                        continue
                    right = bool(luck < best * (0.3 + 0.7 * cap / 256) + 0.02 * waits)
                    text = thinking * max(1, cap // 16)
                    forced = [len(text), len(text) + 4] if waits else []
                    rows.append(
                        {
                            **key,
                            "status": "ok",
                            "end": "waits_used" if waits else "cap",
                            "waits_used": waits,
                            "prompt_tokens": 20,
                            "thinking_tokens": cap - 8 + waits,
                            "forced_tokens": waits,
                            "answer_tokens": 6,
                            "thinking": text + ("Wait, let me check." if waits else ""),
                            "answer": f"Final Answer: {index if right else index + 1}",
                            "forced_spans": forced,
                            "verdict": "correct" if right else "wrong",
                            "extracted_answer": str(index if right else index + 1),
                            "grader": "integer/1",
                        }
                    )
    return table(rows, SAMPLES)


def made_questions(*, questions: int = 40, benchmark: str = "sums") -> pa.Table:
    """The questions that `made_samples` answers."""
    rows = [
        {
            "id": f"{benchmark}-q{index}",
            "question": f"What is ${index} + 0$? Give $\\frac{{{index}}}{{1}}$ as an integer.",
            "answer": str(index),
            "kind": "integer",
            "source": benchmark,
            "domain": "odd" if index % 2 else "even",
        }
        for index in range(questions)
    ]
    return table(rows, QUESTIONS)
