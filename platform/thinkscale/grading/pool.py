"""A pool of processes that compare answers, which no answer can hang or kill.
Owns the limits of time and memory. Knows nothing of what a verdict is beside its name."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import Self

from thinkscale.domain.question import AnswerKind
from thinkscale.domain.sample import Verdict
from thinkscale.grading.equivalence import expressions_equal
from thinkscale.grading.verdict import Graded, judge_plainly, verdict_of


class _Comparer:
    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        # A fresh interpreter rather than a fork or multiprocessing's spawn: the caller may have threads, a CUDA
        # context or a main module that must not run twice.
        code = "import sys; from thinkscale.grading import pool; pool.compare_forever(int(sys.argv[1]))"
        command, pipe, none = [sys.executable, "-c", code, str(theirs.fileno())], theirs.fileno(), subprocess.DEVNULL
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        self.process = subprocess.Popen(command, pass_fds=[pipe], stdin=none, stdout=none, stderr=none, env=env)
        theirs.close()
        self.ready = False
        self.deadline = 0.0
        self.task: tuple[str, str] | None = None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


def compare_forever(descriptor: int) -> None:
    """What a comparing process does: answer pairs of expressions with whether they are equal, or None on failure."""
    import resource

    import sympy  # noqa: F401  (before the first clock starts)

    resource.setrlimit(resource.RLIMIT_AS, (GradingPool.MEMORY_BYTES, GradingPool.MEMORY_BYTES))
    connection = Connection(descriptor)
    connection.send(None)
    while True:
        try:
            reference, answer = connection.recv()
        except EOFError:
            return
        # Whoever would kill this process on time may itself have been killed.
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + GradingPool.ORPHAN_CPU_S, hard))
        equal: bool | None
        try:
            equal = expressions_equal(reference, answer)
        except (Exception, RecursionError, MemoryError):
            equal = None  # reported as ungradable: whatever algebra makes of hostile text is no error of ours
        connection.send(equal)


class GradingPool:
    """Grades many responses; a comparison that hangs or kills its process is `ungradable`, and costs no other.
    A context manager. Plain numbers, letters and texts are judged in the caller's process; the processes start with the
    first answer that needs algebra. Threads may share a pool; they take turns in its processes."""

    MEMORY_BYTES = 3 << 30
    START_S = 120.0
    ORPHAN_CPU_S = 120
    """CPU-seconds after which a comparison ends that nobody waits for any more."""

    def __init__(self, *, processes: int = 1, limit_s: float = 3.0) -> None:
        self._processes = processes
        self._limit_s = limit_s
        self._comparers: list[_Comparer] = []
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._comparers:
            self._comparers.pop().stop()

    def grade(self, kind: AnswerKind, reference: str, response: str, options: Sequence[str] = ()) -> Verdict:
        """As `grading.grade`, with the time limit."""
        item = Graded(kind=kind, reference=reference, response=response, options=tuple(options))
        return self.grade_all([item])[0]

    def grade_all(self, items: Iterable[Graded]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        pending: dict[tuple[str, str], list[int]] = {}
        for index, item in enumerate(items):
            verdict, reference, answer = judge_plainly(item)
            if verdict is None:
                pending.setdefault((reference, answer), []).append(index)
                verdict = verdict_of(item.kind, "ungradable", answer)
            verdicts.append(verdict)
        with self._turn:
            decided = self._compare(list(pending))
        for pair, equal in decided.items():
            if equal is not None:
                for index in pending[pair]:
                    verdicts[index] = replace(verdicts[index], verdict="correct" if equal else "wrong")
        return verdicts

    def _compare(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
        """Whether the expressions of each pair are equal; None: not decided within the limits."""
        queue = deque(pairs)
        results: dict[tuple[str, str], bool | None] = {}
        while len(results) < len(pairs):
            while len(self._comparers) < min(self._processes, len(pairs) - len(results)):
                self._comparers.append(_Comparer())
                self._comparers[-1].deadline = time.monotonic() + self.START_S
            for comparer in self._comparers:
                if comparer.ready and comparer.task is None and queue:
                    comparer.task = queue.popleft()
                    comparer.deadline = time.monotonic() + self._limit_s
                    with suppress(OSError):  # it died while idle: `_collect` sees the closed pipe as its reply
                        comparer.connection.send(comparer.task)
            self._collect(results)
        return results

    def _collect(self, results: dict[tuple[str, str], bool | None]) -> None:
        """Wait for the next reply or the next deadline; replace the processes that died or ran out of time."""
        waiting = [c for c in self._comparers if c.task is not None or not c.ready]
        patience = max(0.0, min(c.deadline for c in waiting) - time.monotonic())
        replied = set(wait([c.connection for c in waiting], patience))
        for comparer in waiting:
            if comparer.connection in replied:
                try:
                    reply = comparer.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    self._bury(comparer, results)
                    continue
                if comparer.task is not None:
                    results[comparer.task] = reply
                    comparer.task = None
                comparer.ready = True
            elif time.monotonic() >= comparer.deadline:
                self._bury(comparer, results)

    def _bury(self, comparer: _Comparer, results: dict[tuple[str, str], bool | None]) -> None:
        code = comparer.process.poll()
        comparer.stop()
        self._comparers.remove(comparer)
        if comparer.task is None:
            raise RuntimeError(
                f"a grading process did not start (exit code {code}): check that sympy can be imported, as in "
                "python -c 'import sympy'"
            )
        results[comparer.task] = None
