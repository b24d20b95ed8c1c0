"""A pool of processes that compare answers, which no answer can hang or kill.
Owns the limits of time and memory. Knows nothing of what a verdict is beside its name."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from queue import LifoQueue
from typing import Self

from thinkscale.domain.question import AnswerKind
from thinkscale.domain.sample import Verdict
from thinkscale.grading.equivalence import expressions_equal
from thinkscale.grading.verdict import Graded, judge_plainly, verdict_of


class _Comparer:
    """One process, started for its first pair, and again where the last one had to be killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def compare(self, pair: tuple[str, str], limit_s: float) -> bool | None:
        """Whether two expressions are equal; None: not decided within the limits."""
        if self._process is None:
            self._start()
        with suppress(EOFError, OSError, pickle.UnpicklingError):
            self._connection.send((*pair, limit_s))
            if self._connection.poll(limit_s * GradingPool.PATIENCE):
                equal: bool | None = self._connection.recv()
                return equal
        self.stop()
        return None

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        # A fresh interpreter rather than a fork or multiprocessing's spawn: the caller may have threads, a CUDA
        # context or a main module that must not run twice.
        code = "import sys; from thinkscale.grading import pool; pool.compare_forever(int(sys.argv[1]))"
        command, pipe, none = [sys.executable, "-c", code, str(theirs.fileno())], theirs.fileno(), subprocess.DEVNULL
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        self._process = subprocess.Popen(command, pass_fds=[pipe], stdin=none, stdout=none, stderr=none, env=env)
        theirs.close()
        try:
            ready = self._connection.poll(GradingPool.START_S) and self._connection.recv()
        except (EOFError, OSError):
            ready = False
        if not ready:
            exit_code = self._process.poll()
            self.stop()
            raise RuntimeError(
                f"a grading process did not start (exit code {exit_code}): check that sympy can be imported, as in "
                "python -c 'import sympy'"
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._process = None


def compare_forever(descriptor: int) -> None:
    """What a comparing process does: answer pairs of expressions with whether they are equal, or None on failure."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (GradingPool.MEMORY_BYTES, GradingPool.MEMORY_BYTES))
    connection = Connection(descriptor)
    expressions_equal("2x", "x+x")  # what the first one imports and builds is no part of its time
    connection.send(True)
    while True:
        try:
            reference, answer, limit_s = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # kills this process after so many CPU-seconds
        equal: bool | None
        try:
            equal = expressions_equal(reference, answer)
        except (Exception, RecursionError, MemoryError):
            equal = None  # reported as ungradable: whatever algebra makes of hostile text is no error of ours
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(equal)


class GradingPool:
    """Grades many responses; a comparison that hangs or kills its process is `ungradable`, and costs no other.
    A context manager. Plain numbers, letters and texts are judged in the caller's process; the processes start with the
    first answer that needs algebra. Threads may share a pool; they take turns in its processes.
    `limit_s`: CPU-seconds of a comparison, for how busy a machine is must not decide a verdict."""

    MEMORY_BYTES = 3 << 30
    START_S = 120.0
    PATIENCE = 40
    """Times the limit that is waited for a comparison: its CPU-seconds take longer where others work beside it."""

    def __init__(self, *, processes: int = 1, limit_s: float = 3.0) -> None:
        self._limit_s = limit_s
        self._comparers = [_Comparer() for _ in range(processes)]
        self._idle: LifoQueue[_Comparer] = LifoQueue()  # the last one used goes first: others may never have to start
        for comparer in self._comparers:
            self._idle.put(comparer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for comparer in self._comparers:
            comparer.stop()

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
        with ThreadPoolExecutor(len(self._comparers)) as threads:
            for indices, equal in zip(pending.values(), threads.map(self._compare, pending), strict=True):
                for index in indices if equal is not None else ():
                    verdicts[index] = replace(verdicts[index], verdict="correct" if equal else "wrong")
        return verdicts

    def _compare(self, pair: tuple[str, str]) -> bool | None:
        comparer = self._idle.get()
        try:
            return comparer.compare(pair, self._limit_s)
        finally:
            self._idle.put(comparer)
