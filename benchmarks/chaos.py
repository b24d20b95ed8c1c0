"""Kills of every kind over all stages of a small campaign: what is lost, doubled, different, redone, left behind.

    python benchmarks/chaos.py [KILLS] [SEED]

`thinkscale chaos` on tests/campaigns/chaos.toml with a random model: a cluster of three nodes and an S3 server whose
answers fail in one of fifty cases. The baseline is an undisturbed run in the same trial. What was found so far is
recorded after every ten kills.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from recording import record

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from thinkscale.chaos.trial import Findings, chaos  # noqa: E402
from tiny_model import write_tiny_model  # noqa: E402


def main() -> None:
    times, seed = map(int, [*sys.argv[1:], *("100", "1")[len(sys.argv) - 1 :]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing that was started stays
    with tempfile.TemporaryDirectory(prefix="thinkscale-chaos-") as scratch:
        model = write_tiny_model(Path(scratch))
        campaign = str(TESTS / "campaigns" / "chaos.toml")
        write(chaos(campaign, [f'model.base="{model}"'], times=times, seed=seed, compared=write))


def write(outcome: Findings) -> None:
    found = {name: getattr(outcome, name) for name in ("lost", "doubled", "different", "left")}
    totals = {name: sum(counts.values()) for name, counts in found.items()}
    totals["left_behind"] = totals.pop("left")
    record(
        "chaos",
        what="rows lost, doubled or different, and things left behind, after kills over all stages",
        value=sum(totals.values()),
        unit="rows and things",
        baseline="an undisturbed run of the same campaign in the same trial",
        ratio=None,
        goal="0 of each; no more segments redone than were open at the kills",
        kills=len(outcome.kills),
        **totals,
        redone=outcome.redone,
        open_segments=outcome.open_segments,
        hangs=outcome.hangs,
        kills_by_kind=Counter(kill["kind"] for kill in outcome.kills),
        kills_by_stage=Counter(kill["stage"] for kill in outcome.kills),
        faults_of_storage=outcome.faults,
        runs_that_ended_with_an_error=len(outcome.errors),
        undisturbed_s=round(outcome.undisturbed_s, 1),
        time_lost_s_a_kill=round(outcome.time_lost_s / max(1, len(outcome.kills)), 1),
        found={name: dict(counts) for name, counts in found.items() if counts},
    )


if __name__ == "__main__":
    main()
