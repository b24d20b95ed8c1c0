"""Device-seconds: whose they are and what they were spent on."""

from __future__ import annotations

from thinkscale.runtime.meter import Meter


class Clock:
    """A clock that goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_seconds_are_start_up_then_busy_idle_and_tail() -> None:
    clock = Clock()
    meter = Meter(workers=4, cpus_each=2.0, gpus_each=1.0, clock=clock)
    clock.now = 10
    meter.started()
    meter.change("a", +3)
    clock.now = 20
    meter.draining(True)
    meter.change("a", -2)
    clock.now = 25
    assert meter.take("a") == {
        "cpu_startup_s": 80, "gpu_startup_s": 40, "cpu_busy_s": 70, "gpu_busy_s": 35,
        "cpu_idle_s": 20, "gpu_idle_s": 10, "cpu_tail_s": 30, "gpu_tail_s": 15,
    }  # fmt: skip
    assert meter.take("a") == {}


def test_works_share_the_workers_by_their_items() -> None:
    clock = Clock()
    meter = Meter(workers=2, cpus_each=1.0, gpus_each=0.0, clock=clock)
    meter.started()
    meter.change("a", +1)
    meter.change("b", +3)
    clock.now = 8
    meter.change("a", -1)
    meter.change("b", -3)
    assert meter.take("a") == {"cpu_busy_s": 4}
    clock.now = 9
    assert meter.take("b") == {"cpu_busy_s": 12, "cpu_idle_s": 2}  # what no work was under way in, too


def test_replicas_that_are_let_go_cost_no_more() -> None:
    clock = Clock()
    meter = Meter(workers=8, cpus_each=1.0, gpus_each=0.0, clock=clock)
    meter.started()
    meter.draining(True)
    meter.change("a", +1)
    clock.now = 1
    meter.hold(1)
    clock.now = 101
    assert meter.take("a") == {"cpu_busy_s": 101, "cpu_tail_s": 7}
