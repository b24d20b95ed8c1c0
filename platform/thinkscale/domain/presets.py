"""Ready-made column mappings of public question sets, and benchmarks by name, from `presets.toml`.
Used by `preset = "gsm8k"` in a pool or benchmark source; what the source states itself goes before it."""

import tomllib
from importlib import resources
from typing import Any

_BOXED = r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
_TEXT = (resources.files("thinkscale") / "presets.toml").read_text("utf-8").replace("<boxed>", _BOXED)

PRESETS: dict[str, dict[str, Any]] = tomllib.loads(_TEXT)["presets"]
BENCHMARKS: dict[str, dict[str, Any]] = tomllib.loads(_TEXT)["benchmarks"]
BENCHMARKS["olympiad-bench"]["columns"] = {"image": None}  # the questions without pictures
