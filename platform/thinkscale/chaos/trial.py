"""A campaign run once in peace and then, copy after copy, under kills and faults of storage; the copies are compared.
Owns when what is killed, resuming as a user would (the same command again), and the verdict. The campaign runs in
processes of its own, as `thinkscale run` starts them."""

import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from thinkscale.chaos import KINDS
from thinkscale.chaos.cluster import BUSY, DRIVER, HEAD, Cluster
from thinkscale.chaos.comparison import compare
from thinkscale.chaos.s3 import ROOT, Proxy, S3Server
from thinkscale.domain.campaign import Campaign
from thinkscale.runtime import scratch
from thinkscale.store.campaigns import load_campaign
from thinkscale.store.filesystem import Store
from thinkscale.store.lease import Say

TITLES = {
    "worker": (re.compile(rf"(?!ray::(Serve|Proxy)){BUSY.pattern}"),),
    "replica": (re.compile("ray::ServeReplica"),),
    # A process that is an engine; where there is none, one that holds one.
    "engine": (re.compile("VLLM::EngineCore"), re.compile(r"ray::(ServeReplica|MapWorker\(MapBatches\(_Transformer)")),
}  # of the processes that are killed as such
NODES, TICK_S, KILLS_A_COPY = 3, 0.2, 10
FAULT_SHARE = 0.02  # of S3's answers, in copies
NODE_BACK_S, STORE_BACK_S, ENDS_WITHIN_S = 5.0, 3.0, 200.0
EMPTY_RUNS = 3
RUNS_A_KILL = 5  # runs in a row that may fail since the last kill
PATIENCE_S, HEAD_PATIENCE_S = 600.0, 300.0
"""A run hangs that takes longer, since its start or the last kill, than twice the undisturbed one and this; or than
this alone after the cluster has lost its head."""
UNDISTURBED = "undisturbed"
STAGE = re.compile(r"^\[\d+/\d+\] (\w+): ", re.MULTILINE)


class ChaosError(RuntimeError):
    """The trial cannot be made, or a campaign does not come to its end."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Of the undisturbed run."""

    stage: int  # its place in the order
    after_s: float  # since the stage began
    kinds: frozenset[str]  # what could have been killed


@dataclass(kw_only=True)
class Findings:
    kills: list[dict[str, Any]] = field(default_factory=list)  # copy, kind, stage, victim, seconds since it began
    lost: Counter[str] = field(default_factory=Counter)  # rows, by where; likewise doubled and different ones
    doubled: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)  # processes and files that an undisturbed run does not leave
    redone: int = 0  # segments whose rows were written again
    open_segments: int = 0  # over all kills, the segments that were begun or next: more may not be redone
    hangs: int = 0  # runs that went neither on nor out, so that they had to be ended
    errors: list[str] = field(default_factory=list)  # copy, stage, exit code, last words of runs that failed
    undisturbed_s: float = 0.0
    time_lost_s: float = 0.0  # by which the copies took longer, together
    faults: dict[str, int] = field(default_factory=dict)  # of storage, by kind

    def as_dict(self) -> dict[str, Any]:
        """Its fields as JSON values (`asdict` would make counters of a counter's items)."""
        return dict(vars(self))

    @property
    def is_faultless(self) -> bool:
        found = self.lost or self.doubled or self.different or self.left or self.hangs
        return not found and self.redone <= self.open_segments


def chaos(
    campaign: str,
    overrides: Sequence[str] = (),
    *,
    kinds: Sequence[str] = KINDS,
    times: int = 10,
    seed: int = 0,
    say: Say = print,
    compared: Callable[[Findings], object] = lambda findings: None,
) -> Findings:
    """Kill `times` times over copies of a campaign, resume each, and compare them with an undisturbed run.
    `campaign`: as `thinkscale run` takes it; it must ask for no GPU. `kinds`: of KINDS, taken in turn. `compared`:
    takes what was found so far, after each copy. Raises ChaosError: a kind has no victim in this campaign, or a run
    fails again and again."""
    loaded = load_campaign(campaign, list(overrides))
    words = ["run", campaign, *(word for value in overrides for word in ("--set", value))]
    with (
        scratch.directory("tc-", scratch.SHORT) as directory,
        S3Server(directory / "s3") as server,
        Proxy(server.endpoint, seed) as proxy,
    ):
        trial = _Trial(loaded, words, directory, (server, proxy), random.Random(seed), say)
        try:
            return trial.run([kinds[i % len(kinds)] for i in range(times)], compared)
        finally:
            trial.end()


@dataclass(kw_only=True)
class _Run:
    process: psutil.Popen
    log: Path
    stages: list[str] = field(default_factory=list)  # begun so far
    stage_began: float = 0.0
    since: float = field(default_factory=time.monotonic)  # when it was started, or what it stands on was last killed
    lost: str | None = None  # the driver or the head, once it was killed

    @property
    def after_s(self) -> float:
        return time.monotonic() - self.stage_began

    def look(self) -> None:
        stages = list(dict.fromkeys(STAGE.findall(self.log.read_text(errors="replace"))))
        if stages != self.stages:
            self.stages, self.stage_began = stages, time.monotonic()

    def is_due(self, moment: Moment) -> bool:
        """Whether it is where the undisturbed run was at that moment, or beyond."""
        at = len(self.stages) - 1
        return at > moment.stage or (at == moment.stage and self.after_s >= moment.after_s)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        return next((line for line in reversed(lines) if line.startswith("thinkscale: ")), lines[-1])[:500]


class _Trial:
    def __init__(
        self, campaign: Campaign, words: list[str], directory: Path, storage: tuple[S3Server, Proxy],
        draw: random.Random, say: Say,
    ) -> None:  # fmt: skip
        self._name, self._words, self._directory = campaign.name, words, directory
        (self._server, self._proxy), self._draw, self._say = storage, draw, say
        places = {name: str(directory / name) for name in ("TMPDIR", "THINKSCALE_CACHE")}
        for place in places.values():
            os.mkdir(place)
        ray = {"AUTH_MODE": "token", "AUTH_TOKEN": f"{draw.getrandbits(128):032x}", "USAGE_STATS_ENABLED": "0"}
        environment = {**places, "AWS_ENDPOINT_URL": self._proxy.endpoint, "OMP_NUM_THREADS": "1"}
        environment |= {f"RAY_{name}": value for name, value in ray.items()}
        cpus = _cpus_a_node(campaign)
        self._most_in_flight = 4 * NODES * cpus  # tasks that read and write segments hold a quarter of a CPU
        self._cluster = Cluster(directory / "ray", environment, nodes=NODES, cpus=cpus)
        self._moments: list[Moment] = []
        self._back: tuple[float, Callable[[], None]] | None = None
        """When what was killed last comes back, and how; until then nothing else is killed."""
        self._runs = 0
        self._findings = Findings()

    def end(self) -> None:
        self._cluster.stop()
        self._cluster.lose(DRIVER)

    def run(self, kinds: list[str], compared: Callable[[Findings], object]) -> Findings:
        findings = self._findings
        self._cluster.start()
        findings.undisturbed_s = self._complete(UNDISTURBED, [])
        processes, files = self._busy(), self._files()
        plan = [(kind, self._moment(kind)) for kind in kinds]
        self._proxy.share, empty = FAULT_SHARE, 0
        for copy in map("copy-{}".format, itertools.count(1)):
            if not plan:
                break
            now = sorted(plan[:KILLS_A_COPY], key=lambda kill: (kill[1].stage, kill[1].after_s))
            planned = len(now)
            findings.time_lost_s += self._complete(copy, now) - findings.undisturbed_s
            empty = empty + 1 if len(now) == planned else 0
            if empty == EMPTY_RUNS:
                raise ChaosError(f"none of {sorted({kind for kind, _ in now})} found a victim in {empty} whole runs")
            if empty:  # this copy was faster than the undisturbed run, its victims gone by then: the next ones at once
                now = [(kind, replace(self._moment(kind), after_s=0.0)) for kind, _ in now]
            plan = [*now, *plan[KILLS_A_COPY:]]
            self._complete(copy, [])  # finds nothing to do, and sweeps what dead owners left
            self._judge(copy, processes)
            findings.faults = dict(sorted(self._proxy.faults.items()))
            compared(findings)
        findings.left += self._files() - files
        return findings

    def _moment(self, kind: str) -> Moment:
        """Every stage in which there was a victim is as likely, and every moment in it."""
        moments = [moment for moment in self._moments if kind in moment.kinds]
        if not moments:
            raise ChaosError(f"the undisturbed run had no {kind} that could be killed")
        stage = self._draw.choice(sorted({moment.stage for moment in moments}))
        return self._draw.choice([moment for moment in moments if moment.stage == stage])

    def _complete(self, copy: str, kills: list[tuple[str, Moment]]) -> float:
        """Run a copy to its end, again and again; what is killed goes out of `kills`. Returns seconds."""
        began, failed = time.monotonic(), 0
        while failed < RUNS_A_KILL:
            run = self._start(copy)
            while run.process.poll() is None:
                time.sleep(TICK_S)
                run.look()
                if self._back and time.monotonic() > self._back[0]:
                    self._back[1]()
                    self._back = None
                if copy == UNDISTURBED and run.stages:
                    found = frozenset(kind for kind, victims in self._victims(run).items() if victims)
                    self._moments.append(Moment(stage=len(run.stages) - 1, after_s=run.after_s, kinds=found))
                due = [kill for kill in kills if run.lost is None and self._back is None and run.is_due(kill[1])]
                if done := next((kill for kill in due if self._kill(kill[0], copy, run, began)), None):
                    kills.remove(done)
                    failed, run.since = 0, time.monotonic()
                patience = HEAD_PATIENCE_S if run.lost == HEAD else PATIENCE_S + 2 * self._findings.undisturbed_s
                if copy != UNDISTURBED and time.monotonic() - run.since > patience:
                    self._findings.hangs += 1
                    self._say(f"{copy}: hangs in {run.stages[-1:]}, {run.last_words()!r}; it is ended")
                    run.process.kill()
                    run.process.wait()
            if run.lost == HEAD:
                self._cluster.start()
            if run.process.returncode == 0:
                return time.monotonic() - began
            if run.lost != DRIVER:
                failed += 1
                self._findings.errors.append(f"{copy}, {run.stages[-1:]}, {run.process.returncode}: {run.last_words()}")
        raise ChaosError(f"{copy} does not come to its end: {run.last_words()}")

    def _start(self, copy: str) -> _Run:
        self._runs += 1
        log = self._directory / f"run-{self._runs}.log"
        words = [*self._words, "--root", f"{ROOT}/{copy}", "--address", self._cluster.address]
        with log.open("wb") as out:
            command = [sys.executable, "-c", "from thinkscale.cli import main; main()", *words]
            process = psutil.Popen(
                command, env=self._cluster.environment(DRIVER), stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return _Run(process=process, log=log)

    def _victims(self, run: _Run) -> dict[str, dict[Any, str]]:
        titled = self._cluster.processes()
        found = {kind: [{each: title for each, title in titled.items() if pattern.match(title)} for pattern in patterns]
                 for kind, patterns in TITLES.items()}  # fmt: skip
        return {
            **{kind: next(filter(None, those), {}) for kind, those in found.items()},
            "node": {name: name for name in self._cluster.nodes},
            **{kind: {run.process: kind} for kind in (DRIVER, HEAD, "store")},
        }

    def _kill(self, kind: str, copy: str, run: _Run, began: float) -> bool:
        victims = self._victims(run)[kind]
        if not victims:
            return False
        victim, told = self._draw.choice(list(victims.items()))
        self._findings.open_segments += min(self._most_in_flight, self._pending(copy))
        if kind == "node":
            self._cluster.lose(victim)
            self._back = time.monotonic() + NODE_BACK_S, self._cluster.fill
        elif kind == "head":
            self._cluster.lose(HEAD)
        elif kind == "store" and self._draw.random() < 0.5:
            told = "a burst of faults"
            self._proxy.burst()
        elif kind == "store":
            self._server.kill()
            self._back = time.monotonic() + STORE_BACK_S, self._server.start
        else:
            with suppress(psutil.NoSuchProcess):  # it has just ended by itself
                victim.kill()
        run.lost = kind if kind in (DRIVER, HEAD) else None
        at = {"stage": run.stages[-1], "at_s": round(time.monotonic() - began, 1)}
        self._findings.kills.append({"copy": copy, "kind": kind, "victim": told, **at})
        self._say(f"{copy}: {kind} killed in {at['stage']} after {at['at_s']} s ({told})")
        return True

    def _pending(self, copy: str) -> int:
        store = Store(f"{ROOT}/{copy}")
        files = store.files(self._name, recursive=True)
        begun = {path.removesuffix("/stage.json") for path in files if path.endswith("/stage.json")}
        pending = 0
        for path in (path for path in begun if f"{path}/manifest.json" not in files):
            plan = json.loads(store.read_bytes(f"{self._name}/{path}/stage.json")).get("plan", {})
            pending += plan.get("segments", 0) - sum(name.startswith(f"{path}/segments/") for name in files)
        return pending

    def _judge(self, copy: str, processes: Counter[str]) -> None:
        findings = self._findings
        found = compare(self._name, Store(f"{ROOT}/{UNDISTURBED}"), Store(f"{ROOT}/{copy}"))
        for what, counts in found.items():
            getattr(findings, what).update({f"{copy}: {where}": count for where, count in sorted(counts.items())})
            self._say(f"{copy}: {counts.total():,} {what}")
        findings.redone += self._proxy.redone(copy)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while (left := self._busy() - processes) and time.monotonic() < deadline:
            time.sleep(TICK_S)
        findings.left.update({f"{copy}: process {title}": count for title, count in left.items()})

    def _busy(self) -> Counter[str]:
        """What runs beside idle workers and the nodes' own processes; of actors without the method they are at."""
        titles = self._cluster.processes(), self._cluster.processes(DRIVER)
        busy = [title.partition(".")[0] for title in titles[0].values() if BUSY.match(title)]
        return Counter(busy + list(titles[1].values()))

    def _files(self) -> Counter[str]:
        """Files outside the cluster's own directory, without what differs in their names from run to run."""
        places = [*(self._directory / "TMPDIR").iterdir(), *(self._directory / "THINKSCALE_CACHE").rglob(".tmp-*")]
        numbers = {path: set(map(int, re.findall(r"\d+", path.name))) for path in Path("/dev/shm").iterdir()}
        shared = [path for path, found in numbers.items() if found & self._cluster.pids]
        return Counter(re.sub(r"[-_][A-Za-z0-9_]{6,}$", "", str(path)) for path in [*places, *shared])


def _cpus_a_node(campaign: Campaign) -> int:
    """So many that the campaign has room with a node less. Raises ChaosError where it asks for GPUs."""
    resources = campaign.resources
    if resources.gpus_per_train_worker or resources.gpus_per_replica or resources.gpus_per_embed_actor:
        raise ChaosError("the private cluster has no GPUs: set those of [resources] to 0")
    training = resources.train_workers * resources.cpus_per_train_worker
    engines = max(resources.replicas, resources.difficulty_actors) * resources.cpus_per_replica
    held = max(training, engines, resources.embed_actors)
    return math.ceil((held + 1) / (NODES - 1))
