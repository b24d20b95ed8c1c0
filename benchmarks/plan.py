"""How far `thinkscale plan` is from what a run takes: a campaign planned on a new root, run there, and compared.

python benchmarks/plan.py [CAMPAIGN]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recording import record


def thinkscale(*arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "thinkscale"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def planned(campaign: str, root: str) -> dict[str, Any]:
    """Its stages as planned, by name."""
    return {row["stage"]: row for row in json.loads(thinkscale("plan", campaign, "--json", "--root", root))["plan"]}


def compare(campaign: str, root: str, plan: dict[str, Any]) -> None:
    """Write the result file of a run that is over."""
    actual: list[dict[str, Any]] = json.loads(thinkscale("plan", campaign, "--json", "--root", root))["actual"]
    low, likely, high = (sum(plan[row["stage"]]["minutes"][i] for row in actual) for i in range(3))
    minutes = sum(row["actual_minutes"] for row in actual)
    record(
        f"plan-{Path(campaign).stem}",
        what=f"minutes that the plan of {campaign} says, with the package's rates, over those that its run took",
        value=round(likely, 1),
        unit="minutes",
        baseline=f"the run: {minutes:.1f} minutes",
        ratio=round(likely / minutes, 3),
        range=[round(low, 1), round(high, 1)],
        usd={"planned": sum(row["usd"][1] for row in actual), "actual": sum(row["actual_usd"] for row in actual)},
        stages=[{"rates": plan[row["stage"]]["rates"], **row} for row in actual],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", nargs="?", default="demo")
    campaign = parser.parse_args().campaign
    with tempfile.TemporaryDirectory(prefix="thinkscale-plan-") as root:
        plan = planned(campaign, root)
        thinkscale("run", campaign, "--root", root)
        compare(campaign, root, plan)


if __name__ == "__main__":
    main()
