"""A campaign that only asks: an evaluation of a base model, cheap for each question and dear for each CPU-hour."""

from __future__ import annotations

CAMPAIGN = """
name = "{name}"
[model]
base = "{model}"
[evaluate]
models = ["base"]
segment_questions = 4
[evaluate.budgets]
caps = [2, 8]
max_answer_tokens = 2
[[evaluate.benchmarks]]
name = "asked"
source = {{ type = "files", name = "asked", paths = ["{directory}/asked.jsonl"] }}
[serve]
engine = "transformers"
dtype = "float32"
context_tokens = 512
max_concurrent_sequences = 4
[resources]
replicas = 1
gpus_per_replica = 0
cpus_per_replica = 1
[prices]
cpu_hour_usd = 3600.0
"""
